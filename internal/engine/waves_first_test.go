// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// without defines keys that have no version.
func (h *harness) without(names ...string) {
	h.t.Helper()
	for _, name := range names {
		_, err := h.engine.PutKey(h.t.Context(), catalog.Definition{Name: name, Kind: "token"}, testActor)
		h.ok(err)
	}
}

// readAll makes all readers read, whether or not anything has changed for them.
func (h *harness) readAll() {
	for _, r := range h.readers {
		h.read(r)
	}
}

// First versions that come one after the other come in waves, all of them: an import of the values of a running platform does not
// make all instances load at once.
func TestFirstVersionsComeInWavesTogether(t *testing.T) {
	for _, known := range []bool{true, false} {
		h := newHarness(t)
		w := h.three()
		h.without("a", "b", "c")
		h.ok(h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"one": clientRole, "a": clientRole, "b": serverRole, "c": clientRole}), false, testActor))
		h.rounds(6)
		if text := h.engine.Change("app"); text != "" {
			t.Fatalf("the change has not ended: %q", text)
		}
		h.readers["app/app-1"].healthy = false
		h.report(h.readers["app/app-1"])
		for n, name := range []string{"a", "b", "c"} {
			_, _, err := h.engine.First(t.Context(), name, key.Value{}, testActor)
			h.ok(err)
			if !known {
				h.open()
			}
			h.readAll()
			h.rounds(n) // the first is loaded by the time of the last
			if n := h.holders(name); n > 1 {
				t.Fatalf("%d instances have %s while one is not healthy", n, name)
			}
		}
		if n := h.holders("a"); n != 1 {
			t.Errorf("%d instances have the first key", n)
		}
		h.readers["app/app-1"].healthy = true
		h.report(h.readers["app/app-1"])
		h.rounds(20)
		for _, name := range []string{"a", "b", "c"} {
			if n := h.holders(name); n != 3 {
				t.Errorf("%d instances have %s", n, name)
			}
		}
		if text := h.engine.Change("app"); text != "" {
			t.Errorf("the change has not ended: %q", text)
		}
	}
}

// The first version of the only key comes in waves after a restart, too, and there is no command that would undo it.
func TestFirstVersionOfTheOnlyKey(t *testing.T) {
	h := newHarness(t)
	h.without("a", "b")
	w := workload.Workload{Name: "app", MinInstances: 3, MaxUnavailable: "1", Keys: map[string]workload.Role{"a": clientRole}}
	h.workload(w)
	for n := range 3 {
		h.join("app", fmt.Sprintf("app-%d", n+1))
	}
	_, _, err := h.engine.First(t.Context(), "a", key.Value{}, testActor)
	h.ok(err)
	err = h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"a": clientRole, "b": clientRole}), false, testActor)
	h.refused(err, "wait until they have; nothing was changed")
	h.open()
	h.readAll()
	if n := h.holders("a"); n > 1 {
		t.Errorf("%d instances have it after a restart", n)
	}
	h.rounds(10)
	if n := h.holders("a"); n != 3 || h.engine.Change("app") != "" {
		t.Errorf("%d instances have it; %q", n, h.engine.Change("app"))
	}
}

// Instances that have followed a change keep to the waves of a rotation of its key while one waits that is asked first.
func TestRotationAmongThoseWhoFollow(t *testing.T) {
	h := newHarness(t)
	w := h.three()
	h.ok(h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"one": clientRole, "two": serverRole}), false, testActor))
	for _, r := range h.readers {
		r.deaf = true
	}
	id := h.rotate("two")
	h.rounds(2)
	h.engine.lock(func(m *memory) {
		r := m.active[id]
		r.Stages = maps.Clone(r.Stages)
		r.Stages["app/app-3"] = r.Stages["app/app-1"] // both versions
		r.Stages["app/app-1"] = r.Stages["app/app-2"] // the old one
		m.active[id] = r
		m.waiting["app"] = waits{"app-1": {"two"}}
		m.fleets["app"].Forget()
		var got []string
		for _, i := range m.fleets["app"].All() {
			got = append(got, fmt.Sprint(m.target(m.Workloads["app"], i).Held["two"].Accepts))
		}
		if want := []string{"[]", "[1]", "[2 1]"}; !slices.Equal(got, want) {
			t.Errorf("they should hold %v, want %v", got, want)
		}
	})
}

// A version leaks while its key rotates, and comes to instances of a workload in waves: they follow at once, and no step of the
// rotation waits for its deadline.
func TestLeakEndsTheWavesOfAChange(t *testing.T) {
	for _, which := range []string{rotation.LeakedOld, rotation.LeakedNew} {
		h := newHarness(t)
		w := h.three()
		h.ok(h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"one": clientRole, "two": serverRole}), false, testActor))
		h.readers["app/app-1"].healthy = false
		h.rounds(4)
		id := h.rotate("two")
		h.rounds(2)
		if h.holders("two") != 1 {
			t.Fatalf("%s: %d instances have the change while the first is not healthy", which, h.holders("two"))
		}
		h.leaks(id, which)
		h.rounds(2)
		if h.holders("two") != 3 || h.engine.Change("app") != "" {
			t.Errorf("%s: %d instances have the key that leaked; %q", which, h.holders("two"), h.engine.Change("app"))
		}
		if !h.journalHas("follow the change of its keys at once") {
			t.Errorf("%s: it is not journaled", which)
		}
	}
}
