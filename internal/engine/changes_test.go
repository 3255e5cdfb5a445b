// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// entries returns the journal, oldest first.
func (h *harness) entries() []journal.Entry {
	h.t.Helper()
	ids, err := h.engine.journal.IDs(h.t.Context())
	h.ok(err)
	var all []journal.Entry
	for _, id := range ids {
		entry, ok, err := h.engine.journal.Entry(h.t.Context(), id)
		h.ok(err)
		if ok {
			all = append(all, entry)
		}
	}
	return all
}

// last returns the newest entry.
func (h *harness) last() journal.Entry {
	h.t.Helper()
	all := h.entries()
	return all[len(all)-1]
}

// Every write says which fields it changed, from what to what; a deletion says what was there.
func TestJournalKeepsWhatAWriteChanges(t *testing.T) {
	h, _ := connected(t)
	wants := func(what string, want ...rotation.EntryChange) {
		t.Helper()
		entry := h.last()
		if entry.What != what || !slices.Equal(entry.Changes, want) {
			t.Errorf("%q: %+v\nwant %q: %+v", entry.What, entry.Changes, what, want)
		}
	}
	ctx := t.Context()
	c := h.engine.Config()
	c.Soak, c.JournalEntries = time.Minute, 50_000
	h.ok(h.engine.PutConfig(ctx, c, testActor))
	wants("config written", rotation.EntryChange{Field: "journal_max_entries", From: "100000", To: "50000"}, rotation.EntryChange{Field: "soak", From: "30s", To: "1m"})

	d := catalog.Definition{Name: "database-url", Kind: "token", Policy: key.Policy{Soak: key.Inherit, Observe: key.Inherit, Deadline: key.Inherit}}
	_, err := h.engine.PutKey(ctx, d, testActor)
	h.ok(err)
	d.Policy.Observe, d.Policy.Confirm = 25*time.Hour, rotation.ConfirmManual
	d.Protects = []key.Column{{Table: "t", Column: "c", Layout: key.TagFirst}}
	_, err = h.engine.PutKey(ctx, d, testActor)
	h.ok(err)
	wants("key changed", rotation.EntryChange{Field: "confirm", From: "", To: "manual"}, rotation.EntryChange{Field: "observe", From: "inherited", To: "25h"}, rotation.EntryChange{Field: "protects", From: "", To: "t.c:tag-first"})

	w := workload.Workload{Name: "api", MinInstances: 1, MaxUnavailable: "1", Keys: map[string]workload.Role{"database-url": {Verifies: true}}}
	h.ok(h.engine.PutWorkload(ctx, w, false, testActor))
	w.Keys = map[string]workload.Role{"database-url": {Presents: true, Verifies: true, Single: true}}
	w.MaxUnavailable = "50%"
	h.ok(h.engine.PutWorkload(ctx, w, false, testActor))
	wants("workload written", rotation.EntryChange{Field: "max_unavailable", From: "1", To: "50%"}, rotation.EntryChange{Field: "keys.database-url", From: "verifies", To: "presents, verifies, single_value"})

	web := workload.Workload{Name: "web", MaxUnavailable: "1", After: []string{"api"}, Keys: w.Keys}
	h.ok(h.engine.PutWorkload(ctx, web, false, testActor))
	web.After = nil
	h.ok(h.engine.PutWorkload(ctx, web, false, testActor))
	wants("workload written", rotation.EntryChange{Field: "after", From: "api", To: ""})
	for _, name := range []string{"web", "api"} {
		h.ok(h.engine.DeleteWorkload(ctx, name, false, testActor))
	}
	wants("workload deleted",
		rotation.EntryChange{Field: "max_instances", From: "1000", To: ""}, rotation.EntryChange{Field: "max_unavailable", From: "50%", To: ""}, rotation.EntryChange{Field: "min_instances", From: "1", To: ""}, rotation.EntryChange{Field: "reencrypts", From: "false", To: ""}, rotation.EntryChange{Field: "require_proof", From: "none", To: ""},
		rotation.EntryChange{Field: "keys.database-url", From: "presents, verifies, single_value", To: ""})

	h.ok(h.engine.DeleteKey(ctx, "database-url", testActor))
	if entry := h.last(); entry.What != "key deleted" || !slices.Contains(entry.Changes, rotation.EntryChange{Field: "observe", From: "25h", To: ""}) {
		t.Errorf("%+v", entry)
	}
	_, err = h.engine.PutConnection(ctx, kind.Connection{Name: "main", Options: kind.Options{"note": "z"}}, false, testActor)
	h.ok(err)
	wants("connection written", rotation.EntryChange{Field: "note", From: "", To: "z"}, rotation.EntryChange{Field: "verify_connection", From: "", To: "false"})
}

// A list that is longer than an entry may be is kept member by member.
func TestLongListsAreJournaledWhole(t *testing.T) {
	h := newHarness(t)
	roles := map[string]workload.Role{}
	for n := range 40 {
		name := strings.Repeat("n", 20+n)
		h.key(name, "token")
		roles[name] = workload.Role{Presents: true, Verifies: true}
	}
	h.workload(workload.Workload{Name: "api", Keys: roles})
	roles = maps.Clone(roles)
	delete(roles, strings.Repeat("n", 59))
	h.workload(workload.Workload{Name: "api", Keys: roles})
	want := rotation.EntryChange{Field: "keys." + strings.Repeat("n", 59), From: "presents, verifies", To: ""}
	if entry := h.last(); !slices.Equal(entry.Changes, []rotation.EntryChange{want}) {
		t.Errorf("%+v", entry.Changes)
	}
}

// What a request sets in place of the keys' policies stands in the first entry of the rotation.
func TestJournalKeepsWhatARotationWasAskedFor(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	id := h.ask(Request{Keys: []string{"service-token"}, Confirm: rotation.ConfirmManual, OnFailure: rotation.FailureRevert, Value: key.NewValue(strings.Repeat("v", 40)), Deadline: time.Hour})
	want := []rotation.EntryChange{{Field: "confirm", From: "auto", To: "manual"}, {Field: "deadline", From: "0s", To: "1h"}, {Field: "on_failure", From: "pause", To: "revert"}, {Field: "value", From: "", To: catalog.SecretGiven}}
	for _, entry := range h.entries() {
		if entry.Rotation == id && entry.Event == 1 && !slices.Equal(entry.Changes, want) || entry.Event > 1 && len(entry.Changes) > 0 {
			t.Errorf("event %d: %+v", entry.Event, entry.Changes)
		}
	}
}
