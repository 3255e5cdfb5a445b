// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// named is a login kind whose values begin with whom they log in as.
type named struct{ *login }

func (named) Login(v key.Value) (string, error) {
	user, _, _ := strings.Cut(v.Reveal(), ":")
	return user, nil
}
func (named) Servers(c kind.Connection) []string { return []string{c.Options["url"]} }

func TestSharedLogins(t *testing.T) {
	h, l := connected(t)
	h.kinds = kind.List{named{l}}
	h.open()
	h.ok(h.put("main", "LOCALHOST:1"))
	h.ok(h.put("again", "127.0.0.1:1"))
	h.ok(h.put("elsewhere", "127.0.0.1:2"))
	for _, k := range [][3]string{{"one", "main", "app:1"}, {"two", "again", "app:1"}, {"three", "elsewhere", "app:1"}, {"four", "main", "other:1"}} {
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: k[0], Kind: "login", Options: kind.Options{"connection": k[1]}}, testActor)
		h.ok(err)
		_, warnings, err := h.engine.First(t.Context(), k[0], key.NewValue(k[2]), testActor)
		h.ok(err)
		if (len(warnings) > 0) != (k[0] == "two") {
			t.Errorf("%s: warnings %q", k[0], warnings)
		}
		h.workload(workload.Workload{Name: k[0], Keys: map[string]workload.Role{k[0]: {Presents: true}}})
	}
	refused := func(want string, keys ...string) {
		t.Helper()
		_, _, err := h.engine.Rotate(t.Context(), Request{Keys: keys, By: testActor})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("rotating %v: %v, want %q", keys, err, want)
		}
	}
	refused("keys=two,one", "two")
	refused("keys=four,one,two", "four", "one")
	_, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"four"}, Value: key.NewValue("app:2"), By: testActor})
	if err == nil || !strings.Contains(err.Error(), "the login of the new version, is that of key one and key two") {
		t.Errorf("a new version with a login of others: %v", err)
	}
	id := h.rotate("four")
	_, err = h.engine.PutKey(t.Context(), catalog.Definition{Name: "five", Kind: "login", Options: kind.Options{"connection": "main"}}, testActor)
	h.ok(err)
	if _, _, err := h.engine.First(t.Context(), "five", key.NewValue("other:1"), testActor); err == nil || !strings.Contains(err.Error(), "which rotation "+id) {
		t.Errorf("importing what a rotation is about to end: %v", err)
	}

	// However it came about: what another key needs is not taken away.
	k := h.records().Keys["five"]
	five, err := k.WithFirst(key.Version{Number: 1, Value: key.NewValue("other:1")})
	h.ok(err)
	h.records().Keys["five"] = five
	for range 50 {
		h.round()
	}
	if view := h.view(id); view.State != rotation.Soaking || !strings.Contains(view.Waits(), "is that of key five") {
		t.Errorf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	h.records().Keys["five"] = k
	h.until(id, rotation.Done)
	h.until(h.rotate("one", "two"), rotation.Done)
	h.until(h.rotate("three"), rotation.Done)
}

func (h *harness) put(name, url string) error {
	_, err := h.engine.PutConnection(h.t.Context(), kind.Connection{
		Name: name, Kind: "login", Options: kind.Options{"url": url}, Secrets: map[string]key.Value{kind.FieldPassword: key.NewValue("right")},
	}, true, testActor)
	return err
}
