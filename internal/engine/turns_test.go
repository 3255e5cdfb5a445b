// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

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
		keys   = 6 // staged, promoted, retired; one to identify the new value; its tripwire, armed, and that of the retired one
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
