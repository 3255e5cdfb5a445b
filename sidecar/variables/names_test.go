// SPDX-License-Identifier: Apache-2.0

package variables

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Nothing is chosen from a bundle whose names could be code, lines or paths, be they presented or verified.
func TestNamesAreChecked(t *testing.T) {
	for _, name := range []string{"LD_PRELOAD", "NODE_OPTIONS", "A\nB", "../A", "A=B", "a", ""} {
		for _, b := range []client.Bundle{
			{Values: map[string]key.Value{name: key.NewValue("x"), "A": key.NewValue("1")}},
			{Accepts: map[string][]key.Value{name: values("x"), "A": values("1")}},
		} {
			if _, err := (Choice{}).Of(b); err == nil {
				t.Errorf("%q is taken", name)
			}
			if set, err := (Choice{Keys: []string{"A"}}).Of(b); err != nil || len(set.Values) != 1 {
				t.Errorf("%q is not wanted: %v, %v", name, set.Values, err)
			}
			_, err := (Choice{Allow: []string{name}}).Of(b)
			if reserved := key.Reserved(name) != ""; reserved != (err == nil) {
				t.Errorf("%q is allowed: %v", name, err)
			}
			if _, mapped := (Choice{Mapped: true}).Of(b); (err == nil) != (mapped == nil) {
				t.Errorf("%q under a name of the configuration's own: %v", name, mapped)
			}
		}
	}
	_, err := Choice{}.Of(client.Bundle{Values: map[string]key.Value{"BASH_ENV": key.NewValue("secret")}})
	for _, want := range []string{"BASH_ENV is reserved", "allow_names", "keys"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
