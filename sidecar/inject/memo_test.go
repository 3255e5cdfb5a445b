// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent"
)

func TestMemo(t *testing.T) {
	var m memo
	for n := range 3 * mostKnown {
		m.set(fmt.Sprint(n), "x")
		if _, ok := m.get(fmt.Sprint(n)); !ok || len(m.known) > mostKnown {
			t.Fatalf("after %d: %v, %d are known", n, ok, len(m.known))
		}
	}
}

// What differs in any way is written anew.
func TestConfigurationsAreNotMistaken(t *testing.T) {
	for range 2 {
		for _, name := range []string{"api", "agents"} {
			f := agent.File{Workload: name, Vault: &agent.VaultBlock{Address: "https://vault", Auth: agent.AuthBlock{Method: "kubernetes"}}, Status: &agent.StatusBlock{}}
			if got, want := configuration(f), write(f); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	}
}
