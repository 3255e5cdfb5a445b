// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Killed before or after any write, a rotation continues from storage and ends, and nothing is lost.
func TestCrashAtEveryWrite(t *testing.T) {
	for _, retain := range []time.Duration{0, 1000 * time.Hour} {
		for _, revert := range []bool{false, true} {
			atEveryWrite(t, 15, func(at int, after bool) bool { return crashAt(t, at, after, revert, retain) })
		}
	}
}

// atEveryWrite calls crash for the first write, the second and so on, each once to fail before it and once after it, until
// crash reports that there was no such write. A test of fewer than least writes fails.
func atEveryWrite(t *testing.T, least int, crash func(at int, after bool) bool) {
	t.Helper()
	for _, after := range []bool{false, true} {
		at := 1
		for crash(at, after) {
			at++
		}
		if at < least {
			t.Errorf("only %d writes were tried", at)
		}
	}
}

// throughCrash lets forty rounds pass in which the store may fail, each after a call of ask. It reports whether the store did.
func (h *harness) throughCrash(step time.Duration, ask func()) (crashed bool) {
	h.t.Helper()
	for range 40 {
		crashed = h.reopened() || crashed
		ask()
		tryRound(h)
		h.settle()
		h.clock.advance(step)
	}
	return crashed
}

// expectWholeJournal wants a journal without a fault.
func (h *harness) expectWholeJournal(when string) {
	h.t.Helper()
	if faults := h.faults(); faults != "" {
		h.t.Errorf("%s: journal: %s", when, faults)
	}
}

// failAt lets the store fail at the nth write from now on, before it or after.
func (h *harness) failAt(nth int, after bool) {
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	h.store.failAt, h.store.after = h.store.writes+nth, after
}

// reopened opens the engine again if its store has failed, as after a crash, and reports whether it has.
func (h *harness) reopened() bool {
	h.store.mu.Lock()
	dead := h.store.dead
	h.store.mu.Unlock()
	if dead {
		h.settle()
		h.open()
	}
	return dead
}

// crashAt reports whether there was an nth write to crash at.
func crashAt(t *testing.T, at int, after, revert bool, retain time.Duration) bool {
	t.Helper()
	h := newHarness(t)
	h.key("db", "server")
	h.key("master", "token", key.Column{Table: "t", Column: "c", Layout: key.TagFirst})
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Reencrypts: true, Keys: map[string]workload.Role{"db": {Presents: true}, "master": {Presents: true, Verifies: true}}})
	h.join("api", "api-1")
	h.retains("db", retain)
	h.retains("master", retain)
	first, _ := h.engine.Key("master")
	h.failAt(at, after)

	id, reverted := "", false
	crashed := false
	for range 200 {
		if h.reopened() {
			crashed = true
			for _, r := range h.readers { // what they have received may not have been stored
				h.read(r)
			}
			if ids, err := h.engine.RotationIDs(t.Context()); err == nil && len(ids) > 0 {
				id = ids[0]
			}
		}
		if id == "" {
			view, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"db", "master"}, By: testActor, Trigger: rotation.ByOperator})
			if err == nil {
				id = view.ID
			} else if !errors.Is(err, errInjected) && !errors.Is(err, errStale) {
				t.Fatalf("write %d: %v", at, err)
			}
			continue
		}
		view, err := h.engine.View(t.Context(), id)
		if err != nil {
			continue
		}
		if view.Finished() {
			break
		}
		if revert && !reverted && view.State == rotation.Soaking {
			_, err := h.engine.Revert(t.Context(), id, testActor, "")
			reverted = err == nil
		}
		tryRound(h)
		h.clock.advance(time.Minute)
	}
	h.settle()
	h.open()
	view := h.view(id)
	if !view.Finished() {
		t.Errorf("crash at write %d (after %v, revert %v): %s %s: %s", at, after, revert, view.State, view.Step, view.Waits())
	}
	for _, name := range []string{"db", "master"} {
		checkVersions(t, h, name, revert, at)
	}
	h.checkRetained(at, revert, retain)
	if k, _ := h.engine.Key("master"); revert {
		if current, _ := k.Current(); !current.Value.Equal(first.Versions[0].Value) {
			t.Errorf("crash at write %d: the old value is lost", at)
		}
	}
	checkJournal(t, h, view)
	return crashed
}

// checkRetained wants the value that its rotation has retired in quarantine, and none where nothing is retained. Of a revert it
// is that of a key that protects rows.
func (h *harness) checkRetained(at int, revert bool, retain time.Duration) {
	h.t.Helper()
	for name, want := range map[string]bool{"db": retain > 0 && !revert, "master": retain > 0} {
		h.versions(name)
		if k, _ := h.engine.Key(name); (len(k.Retained()) == 1) != want {
			h.t.Errorf("crash at write %d (revert %v, retain %s): versions of %s are %s", at, revert, retain, name, h.versions(name))
		}
	}
}

// checkVersions wants one current version and nothing on its way. A version that a crash left before its rotation was
// stored is aborted.
func checkVersions(t *testing.T, h *harness, name string, revert bool, at int) {
	t.Helper()
	states := h.states(name)
	k, _ := h.engine.Key(name)
	current, ok := k.Current()
	newest := k.Versions[len(k.Versions)-1].Number
	if !ok || strings.Contains(states, string(key.Staged)) || strings.Contains(states, string(key.Previous)) ||
		strings.Count(states, string(key.Current)) != 1 || (current.Number == 1) != revert || (current.Number == newest) == revert {
		t.Errorf("crash at write %d (revert %v): versions of %s are %s", at, revert, name, states)
	}
}

// tryRound is round that bears a dead store.
func tryRound(h *harness) {
	for _, r := range h.readers {
		if reading, err := h.engine.Read(h.t.Context(), fleet.Reader{Workload: r.workload, Instance: r.id}, time.Hour); err == nil {
			r.reading = reading
			var work []workload.WorkReport
			for _, w := range reading.Bundle.Work {
				work = append(work, workload.WorkReport{ID: w.ID, Done: true, Columns: []workload.ColumnReport{{Column: "t.c", Total: 3, Rotated: 3}}})
			}
			_, _ = h.engine.Report(h.t.Context(), Report{
				Workload: r.workload, Instance: r.id, Secret: reading.Secret, Etag: reading.Bundle.Holding.Etag, Healthy: true, Work: work,
			})
		}
	}
	h.engine.Tick(h.t.Context())
	h.settle()
}

// checkJournal wants each event of the rotation once, in their order, in a chain that is whole.
func checkJournal(t *testing.T, h *harness, view View) {
	t.Helper()
	verified, err := h.engine.journal.Verify(t.Context())
	h.ok(err)
	if len(verified.Faults) > 0 || verified.Entries == 0 {
		t.Errorf("journal: %+v", verified)
	}
	ids, err := h.engine.journal.IDs(t.Context())
	h.ok(err)
	n := 0
	for _, id := range ids {
		entry, _, err := h.engine.journal.Entry(t.Context(), id)
		h.ok(err)
		if entry.Rotation != view.ID {
			continue
		}
		if n >= len(view.Timeline) || entry.Event != n+1 || entry.State != view.Timeline[n].State || entry.Step != view.Timeline[n].Step {
			t.Errorf("event %d of the journal is %+v", n+1, entry)
		}
		n++
	}
	if n != len(view.Timeline) {
		t.Errorf("the journal has %d events, the rotation %d", n, len(view.Timeline))
	}
	if document, err := h.engine.Document(t.Context(), view.ID); err != nil || document.Missing != 0 || len(document.Entries) != n {
		t.Errorf("the document has %d of %d entries, and %d are missing: %v", len(document.Entries), n, document.Missing, err)
	} else if end := document.Entries[n-1].Changes; len(end) != 1 || end[0].To != document.Digest {
		t.Errorf("the digest of the receipt is %s, and the journal says %+v", document.Digest, end)
	}
}

// Vault was away for longer than its leases last: the instances are gone from the record, and still run. The revert
// must not take away what they present before they are back.
func TestInstancesComeBackAfterTheirLeasesEnded(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "service-token", Kind: "token", Policy: key.Policy{Soak: 5 * time.Second}}, testActor)
	h.ok(err)
	id := h.rotate("service-token")
	h.until(id, rotation.Soaking)
	_, err = h.engine.Revert(t.Context(), id, testActor, "")
	h.ok(err)
	h.clock.advance(time.Hour)
	h.open()
	for _, r := range h.readers {
		h.ok(h.engine.Revoke(t.Context(), r.workload, r.id, r.reading.Epoch))
	}
	back := []string{"api/api-1", "api/api-2", "agents/agents-1"} // min_instances of all workloads
	for _, name := range back {
		h.read(h.readers[name])
	}
	late := h.readers["agents/agents-2"]
	delete(h.readers, "agents/agents-2")
	for range 10 {
		h.round()
	}
	if view := h.view(id); view.Step != rotation.StepSwitch || !strings.Contains(view.Waits(), "agents-2, still holds version 2") {
		t.Errorf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	h.readers["agents/agents-2"] = late
	h.read(late)
	h.until(id, rotation.Reverted)

	id = h.rotate("service-token")
	h.until(id, rotation.Soaking)
	h.open()
	h.ok(h.engine.Revoke(t.Context(), late.workload, late.id, late.reading.Epoch))
	delete(h.readers, "agents/agents-2") // for good: waited for a minute, not forever
	h.until(id, rotation.Done)
}
