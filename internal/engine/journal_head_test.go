// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// faults returns what verify says.
func (h *harness) faults() string {
	h.t.Helper()
	v, err := h.engine.journal.Verify(h.t.Context())
	h.ok(err)
	return strings.Join(v.Faults, "; ")
}

// oldest returns the number of the first entry of the chain.
func (h *harness) oldest() uint64 {
	h.t.Helper()
	v, err := h.engine.journal.Verify(h.t.Context())
	h.ok(err)
	return v.First
}

// What is taken from the end of the journal is missed, after a restart, too, and for good: the chain has a gap from then on.
func TestAdversaryCutsTheJournalsTail(t *testing.T) {
	for name, c := range map[string]struct {
		cut  func(h *harness, newest uint64)
		want string
	}{
		"the newest entry":    {func(h *harness, n uint64) { delete(h.store.data, pathEntries+journal.ID(n)) }, "the newest, is missing"},
		"the newest three":    {func(h *harness, n uint64) { h.cut(n-2, n) }, "the newest, is missing"},
		"the head, too":       {func(h *harness, n uint64) { h.cut(n-2, n); delete(h.store.data, pathHead) }, "the stored head is gone"},
		"the head alone":      {func(h *harness, _ uint64) { delete(h.store.data, pathHead) }, "the stored head is gone"},
		"the head is garbage": {func(h *harness, _ uint64) { h.store.data[pathHead] = []byte("{") }, "the stored head is gone"},
		"the newest is another": {func(h *harness, n uint64) {
			path := pathEntries + journal.ID(n)
			h.store.data[path] = h.resealed(h.store.data[path])
		}, "is not the one that was written last"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.hyvve()
			h.until(h.rotate("service-token"), rotation.Done)
			newest := h.engine.journal.Head().Count
			c.cut(h, newest)
			if faults := h.faults(); faults == "" {
				t.Error("verify says that the journal is whole, before a restart")
			}
			h.open()
			found := false
			for _, entry := range h.entries() {
				found = found || strings.HasPrefix(entry.What, "the journal was found damaged: ") && strings.Contains(entry.What, c.want)
			}
			if !found {
				t.Errorf("no entry says %q", c.want)
			}
			h.until(h.rotate("service-token"), rotation.Done)
			h.open()
			n := 0
			for _, entry := range h.entries() {
				if strings.HasPrefix(entry.What, "the journal was found damaged") {
					n++
				}
			}
			if faults := h.faults(); n != 1 || !strings.Contains(name, "head") && faults == "" {
				t.Errorf("%d entries, %q, after further ones were added", n, faults)
			}
		})
	}
}

func (h *harness) cut(from, to uint64) {
	for ; from <= to; from++ {
		delete(h.store.data, pathEntries+journal.ID(from))
	}
}

// Killed before or after any write, entries and head agree after the next start, and verify finds no fault.
func TestHeadSurvivesACrashAtEveryWrite(t *testing.T) {
	for _, after := range []bool{false, true} {
		for at := 1; at < 40; at++ {
			h := newHarness(t)
			h.hyvve()
			h.store.failAt, h.store.after = h.store.writes+at, after
			_, _, _ = h.engine.Rotate(t.Context(), Request{Keys: []string{"service-token"}, By: testActor, Trigger: rotation.ByOperator})
			for range 5 {
				tryRound(h)
			}
			h.open()
			if faults := h.faults(); faults != "" {
				t.Errorf("write %d (after %v): %q", at, after, faults)
			}
			for _, entry := range h.entries() {
				if strings.Contains(entry.What, "damaged") {
					t.Errorf("write %d (after %v): %s", at, after, entry.What)
				}
			}
		}
	}
}

// Nobody hides what was done by letting retention take it: not by bounds below the floor, and lowering the floor leaves an
// entry that stays.
func TestAdversaryHidesBehindRetention(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	before := len(h.entries())
	c := h.engine.Config()
	for _, change := range []func(*catalog.Config){
		func(c *catalog.Config) { c.JournalAge = time.Second },
		func(c *catalog.Config) { c.JournalEntries = catalog.MinJournal },
	} {
		bad := c
		change(&bad)
		if err := h.engine.PutConfig(t.Context(), bad, testActor); !refused(err) || !strings.Contains(err.Error(), "hyvve/journal/config") {
			t.Errorf("below the floor: %v", err)
		}
	}
	// As an older release has stored it.
	h.store.data[pathConfig] = []byte(`{"lease_ttl":300000000000,"soak":0,"on_failure":"pause","compromised_deadline":60000000000,"journal_max_entries":100,"journal_max_age":1000000000}`)
	h.open()
	for range 12 {
		h.until(h.rotate("service-token"), rotation.Done)
		h.clock.advance(24 * time.Hour)
	}
	h.engine.Tick(t.Context())
	if n := len(h.entries()); n < before+120 || h.oldest() != 1 {
		t.Errorf("%d entries are left, from %d on", n, h.oldest())
	}

	auditor := rotation.Actor{Name: "auditor", Entity: "e-9"}
	for _, f := range []catalog.Floor{{Entries: 200}, {Entries: catalog.MinJournal}} {
		h.ok(h.engine.PutFloor(t.Context(), f, auditor))
	}
	h.ok(h.engine.PutFloor(t.Context(), catalog.Floor{Entries: 150}, auditor)) // raising it is an entry like others
	h.ok(h.engine.PutFloor(t.Context(), catalog.Floor{Entries: catalog.MinJournal}, auditor))
	for range 25 {
		h.until(h.rotate("service-token"), rotation.Done)
		h.clock.advance(24 * time.Hour)
	}
	h.engine.Tick(t.Context())
	v, err := h.engine.journal.Verify(t.Context())
	h.ok(err)
	all := h.entries()
	if len(v.Faults) > 0 || v.Kept != 3 || v.First == 1 || all[2].What != "journal's floor lowered" || all[2].By != "auditor" {
		t.Errorf("%+v, third is %+v", v, all[2])
	}

	// What stays is missed as well.
	for n, entry := range all[:3] {
		h.open()
		path := pathEntries + entry.ID()
		was := h.store.data[path]
		delete(h.store.data, path)
		if faults := h.faults(); !strings.Contains(faults, "kept before it") && !strings.Contains(faults, "which retention leaves") {
			t.Errorf("without entry %d: %q", n, faults)
		}
		h.store.data[path] = h.resealed(was)
		if faults := h.faults(); faults == "" {
			t.Errorf("with another entry %d verify says that all is whole", n)
		}
		h.store.data[path] = was
	}
	h.open() // which removes what a crash may have left below the chain
	h.clock.advance(2 * retainEvery)
	h.until(h.rotate("service-token"), rotation.Done)
	h.engine.Tick(t.Context())
	if faults := h.faults(); faults != "" {
		t.Errorf("in the end: %q", faults)
	}
}

// Entries are added and taken away while the journal is verified: that waits for nobody, and nobody waits for it.
func TestVerifyHoldsNoLock(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.ok(h.engine.PutFloor(t.Context(), catalog.Floor{Entries: catalog.MinJournal}, testActor))
	c := h.engine.Config()
	c.JournalEntries = catalog.MinJournal
	h.ok(h.engine.PutConfig(t.Context(), c, testActor))
	for range 14 {
		h.until(h.rotate("service-token"), rotation.Done)
	}
	done, first := false, h.oldest()
	h.store.onGet = func(path string) {
		if done || path != pathEntries+journal.ID(first+2) {
			return
		}
		done = true
		h.clock.advance(2 * retainEvery)
		h.until(h.rotate("service-token"), rotation.Done)
		h.engine.Tick(t.Context())
		if _, err := h.engine.journal.Verify(t.Context()); !refused(err) || !strings.Contains(err.Error(), "try again") {
			t.Errorf("a second walk at the same time: %v", err)
		}
	}
	v, err := h.engine.journal.Verify(t.Context())
	h.ok(err)
	if !done || len(v.Faults) > 0 || v.First <= first+2 || h.oldest() != v.First {
		t.Errorf("%+v; first is %d", v, h.oldest())
	}
}
