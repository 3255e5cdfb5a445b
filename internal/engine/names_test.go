// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// A key's name is code where it is LD_PRELOAD: a definition of it is refused, and nothing is stored.
func TestReservedNamesAreRefused(t *testing.T) {
	h := newHarness(t)
	for _, env := range []string{"LD_PRELOAD", "NODE_OPTIONS", "BASH_ENV", "HTTPS_PROXY", "VAULT_TOKEN"} {
		d := catalog.Definition{Name: "k", Env: env, Kind: "token", Options: map[string]string{}, Policy: inherited}
		if _, err := h.engine.PutKey(t.Context(), d, rotation.Actor{Name: "op"}); err == nil || !strings.Contains(err.Error(), "name "+env+" is reserved") || !strings.Contains(err.Error(), "env=APP_"+env) {
			t.Errorf("%s: %v", env, err)
		}
	}
	// The name that is made of the key's own counts as well.
	if _, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "java-tool-options", Kind: "token", Policy: inherited}, rotation.Actor{Name: "op"}); err == nil {
		t.Error("java-tool-options is taken")
	}
	if names := h.engine.KeyNames(); len(names) != 0 {
		t.Errorf("stored: %v", names)
	}
}

// A key that an earlier release let have such a name opens, can be changed and rotated, and is warned of.
func TestReservedNamesOfEarlierReleases(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	k, _ := h.engine.Key("service-token")
	path := pathKeys + k.Name
	h.store.data[path] = bytes.ReplaceAll(h.store.data[path], []byte(`"`+k.Env+`"`), []byte(`"NODE_OPTIONS"`))
	h.open()
	k, ok := h.engine.Key("service-token")
	if !ok || k.Env != "NODE_OPTIONS" {
		t.Fatalf("%+v", k)
	}
	if warned := h.engine.ReservedNames(k); len(warned) != 1 || !strings.Contains(warned[0], "allow_names") {
		t.Errorf("warnings: %v", warned)
	}
	k.Policy.Soak = 0
	d := catalog.Definition{Name: k.Name, Env: k.Env, Kind: k.Kind, Options: k.Options, Protects: k.Protects, Policy: k.Policy}
	if _, err := h.engine.PutKey(t.Context(), d, rotation.Actor{Name: "op"}); err != nil {
		t.Error(err)
	}
	plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{k.Name}})
	if err != nil || !strings.Contains(strings.Join(plan.Notes, "\n"), "name NODE_OPTIONS is reserved") {
		t.Errorf("%v, %v", plan.Notes, err)
	}
}

var inherited = key.Policy{Soak: key.Inherit, Observe: key.Inherit, Deadline: key.Inherit}
