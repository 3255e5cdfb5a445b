// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// A request that waits for a rotation's end hears of that, and of nothing else.
func TestEndedIsHeardOnce(t *testing.T) {
	h := newHarness(t)
	h.key("one", "server")
	h.key("two", "server")
	h.workload(workload.Workload{Name: "both", Keys: map[string]workload.Role{"one": {Presents: true}, "two": {Presents: true}}})
	one, two := h.rotate("one"), h.rotate("two")
	first, second := h.view(one), h.view(two)
	ended := func(v View) bool {
		select {
		case <-v.Ended:
			return true
		default:
			return false
		}
	}
	_, err := h.engine.Pause(t.Context(), two, testActor, "")
	h.ok(err)
	h.until(one, rotation.Done)
	if !ended(first) || !ended(h.view(one)) || ended(second) {
		t.Error("the end of one rotation is not heard, or is heard by those who wait for another")
	}
	h.engine.Close()
	if !ended(second) || !ended(h.view(two)) {
		t.Error("whoever waits is not told that the engine is closed")
	}
}

// What a rotation that nobody holds back writes, each of it a call of Vault: the values, then the rotation as far on as it
// goes before a server is asked, with its events.
func TestWritesOfARotation(t *testing.T) {
	h := newHarness(t)
	h.key("db", "server")
	h.workload(workload.Workload{Name: "absent", Keys: map[string]workload.Role{"db": {Presents: true}}})
	h.store.mu.Lock()
	before := h.store.writes
	h.store.mu.Unlock()
	id := h.rotate("db")
	h.settle() // no round of run is needed
	view := h.view(id)
	if view.State != rotation.Done {
		t.Fatalf("rotation is %s %s: %s", view.State, view.Step, view.Waits())
	}
	const (
		keys   = 4 // staged, promoted, retired; one to identify the new value
		record = 6 // before stage; soaking; before in use; before retire; before erase; under rotations/
		leave  = 1
		heads  = 6 // of the journal, one after the events of each record
	)
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	if n, want := h.store.writes-before, keys+record+leave+heads+len(view.Timeline); n != want {
		t.Errorf("%d writes, want %d", n, want)
	}
}
