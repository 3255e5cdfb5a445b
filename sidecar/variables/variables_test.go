// SPDX-License-Identifier: Apache-2.0

package variables

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

func values(all ...string) (list []key.Value) {
	for _, v := range all {
		list = append(list, key.NewValue(v))
	}
	return list
}

func TestChoice(t *testing.T) {
	b := client.Bundle{
		Values:  map[string]key.Value{"BOTH": key.NewValue("old"), "PRESENTED": key.NewValue("p")},
		Accepts: map[string][]key.Value{"BOTH": values("<new>", "old"), "VERIFIED": values("v"), "NONE": nil},
	}
	for name, c := range map[string]struct {
		choice Choice
		want   map[string]string
		gone   []string
	}{
		"plain":    {Choice{}, map[string]string{"BOTH": "old", "PRESENTED": "p", "VERIFIED": "v"}, nil},
		"some":     {Choice{Keys: []string{"VERIFIED"}, Accepts: true}, map[string]string{"VERIFIED": "v", "VERIFIED_ACCEPTS": `["v"]`}, nil},
		"previous": {Choice{Previous: true, Keys: []string{"BOTH", "VERIFIED"}}, map[string]string{"BOTH": "old", "BOTH_PREVIOUS": "old", "VERIFIED": "v"}, []string{"VERIFIED_PREVIOUS"}},
		"all": {Choice{Accepts: true, Previous: true}, map[string]string{
			"BOTH": "old", "BOTH_ACCEPTS": `["<new>","old"]`, "BOTH_PREVIOUS": "old", "PRESENTED": "p", "VERIFIED": "v", "VERIFIED_ACCEPTS": `["v"]`,
		}, []string{"VERIFIED_PREVIOUS"}},
	} {
		set, err := c.choice.Of(b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := set.Text()
		if err != nil || !maps.Equal(got, c.want) || !slices.Equal(set.Gone, c.gone) {
			t.Errorf("%s: %v and gone %v, %v; want %v", name, got, set.Gone, err, c.want)
		}
	}
}

// A key that is named as another one's list would be written over by it, and one named as a value that is gone removed.
func TestNamesThatClashAreRefused(t *testing.T) {
	for clash, c := range map[string]Choice{"A_ACCEPTS": {Accepts: true}, "A_PREVIOUS": {Previous: true}} {
		for _, list := range [][]key.Value{values("1"), values("1", "2")} {
			b := client.Bundle{Values: map[string]key.Value{clash: key.NewValue("x")}, Accepts: map[string][]key.Value{"A": list}}
			if _, err := c.Of(b); err == nil || !strings.Contains(err.Error(), clash+" is a key's own name") {
				t.Errorf("%s: %v", clash, err)
			}
			if _, err := (Choice{}).Of(b); err != nil {
				t.Errorf("%s: refused although neither is asked for: %v", clash, err)
			}
		}
	}
}
