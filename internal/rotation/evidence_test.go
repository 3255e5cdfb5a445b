// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// flood is a report with as much text as CheckWork lets through, all of it longer when it is stored.
func flood(opened int) workload.WorkReport {
	r := workload.WorkReport{Done: true, Place: here(), Columns: []workload.ColumnReport{good}}
	for n := range mostFinds {
		r.Finds = append(r.Finds, workload.Find{Column: fmt.Sprintf("%03d%s", n, strings.Repeat("<", 250)), Shaped: 1, Tried: 1, Opened: opened})
		r.Unseen = append(r.Unseen, strings.Repeat("&", maxWorkText))
	}
	return r
}

// Whatever instances say of rows, at every step and in every pass, the rotation's record stays small, and the rotation ends.
func TestAdversaryReportsFillTheRecord(t *testing.T) {
	h := newHarness(t)
	h.place = here()
	h.engine.Store = tight{h.store, 1 << 20}
	one := h.rows()
	h.witness("")
	two := h.join("api", "api-2")
	var liars []*reader
	for n := range 2 * mostWitnesses {
		liars = append(liars, h.join("api", fmt.Sprintf("liar-%d", n)))
		liars[n].finds = flood(0).Finds
	}
	id := h.rotate("master")
	h.reach(id, Retiring, StepErase)
	largest := 0
	look := func() {
		t.Helper()
		if h.engine.Stale() {
			t.Fatal("the engine is stale")
		}
		largest = max(largest, len(h.store.data[pathActive+id]))
	}
	for range 10 {
		for _, liar := range liars {
			report := flood(0)
			report.Done, report.Error = false, strings.Repeat("<\"", maxReason)
			h.reports(liar, report)
			look()
		}
		h.saw(liars[0], here(), workload.ColumnReport{Column: "t.c", Total: 3, Left: 3})
		look()
		for _, r := range h.readers {
			r.works, r.noChecks = true, true
		}
		for n := 0; n < 100 && h.view(id).Step != StepErase; n++ {
			h.rounds(1)
			h.clock.advance(time.Minute) // pace
		}
		if view := h.view(id); view.Step != StepErase {
			t.Fatalf("%s %s: %s", view.State, view.Step, view.Waits())
		}
		look()
	}
	h.saw(one, here(), good)
	for _, liar := range liars {
		report := flood(0)
		report.Done, report.Error = false, strings.Repeat("<\"", maxReason)
		h.reports(liar, report)
	}
	h.saw(two, here(), good)
	h.until(id, Done)
	if largest > 96<<10 {
		t.Errorf("the record grew to %d bytes", largest)
	}
	t.Logf("the record grew to %d bytes", largest)
}

// Finds that are cut from a report hold the rotation as those that are named do, until a report names none that does.
func TestFindsThatAreCutHoldRetire(t *testing.T) {
	h := newHarness(t)
	r := h.rows()
	r.finds = flood(1).Finds
	id := h.rotate("master")
	h.until(id, Soaking)
	waive := func(finds []workload.Find) {
		k, _ := h.engine.Key("master")
		k.Waives = nil
		for _, f := range finds {
			k.Waives = append(k.Waives, f.Column)
		}
		h.engine.lock(func() { h.engine.keys["master"] = k })
	}
	h.rounds(3)
	waive(h.view(id).Progress["master"].Finds)
	h.rounds(3)
	view := h.view(id)
	if more := view.Progress["master"].MoreFinds; view.State != Soaking || more == 0 || !strings.Contains(view.Waits(), fmt.Sprintf("%d more columns hold envelopes of version 1", more)) {
		t.Errorf("%s with %d finds cut: %s", view.State, more, view.Waits())
	}
	waive(r.finds)
	h.read(r)
	h.until(id, Done)
}

// The timeline keeps its beginning and its end, and the journal has all of it, over restarts, too.
func TestTimelineIsBounded(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	id := h.rotate("service-token")
	for n := range 2 * mostEvents {
		_, err := h.engine.Pause(t.Context(), id, testActor, strings.Repeat("<", longestReason))
		h.ok(err)
		_, err = h.engine.Resume(t.Context(), id, testActor, "")
		h.ok(err)
		if n%100 == 50 {
			h.open()
		}
	}
	if size := len(h.store.data[pathActive+id]); size > 200<<10 {
		t.Errorf("the record has %d bytes", size)
	}
	view := h.until(id, Done)
	entries := 0
	ids, err := h.engine.JournalIDs(t.Context())
	h.ok(err)
	for _, name := range ids {
		entry, _, err := h.engine.JournalEntry(t.Context(), name)
		h.ok(err)
		if entry.Rotation != id {
			continue
		}
		if entries++; entry.Event != entries {
			t.Fatalf("entry %d of the rotation is on event %d", entries, entry.Event)
		}
	}
	if len(view.Timeline) != mostEvents || entries != view.events() || entries < 4*mostEvents {
		t.Errorf("%d events in the timeline, %d in all, %d in the journal", len(view.Timeline), view.events(), entries)
	}
	states := map[State]bool{}
	for _, e := range view.Timeline {
		states[e.State] = true
	}
	if len(states) != 6 {
		t.Errorf("the timeline has lost states: %v", states)
	}
}

// A record that is too large as the first of what is being done changes nothing, and the engine need not read its records again.
func TestFirstRecordTooLarge(t *testing.T) {
	h := newHarness(t)
	r := h.rows()
	id := h.rotate("master")
	h.reach(id, Presenting, StepStageRows)
	h.engine.Store = tight{h.store, 100}
	_, err := h.engine.Report(t.Context(), Report{
		Workload: "api", Instance: "api-1", Secret: r.reading.Secret, Etag: r.reading.Bundle.Holding.Etag, Healthy: true,
		Work: []workload.WorkReport{{ID: r.reading.Bundle.Work[0].ID, Done: true, Columns: []workload.ColumnReport{good}}},
	})
	if !refused(err) || h.engine.Stale() {
		t.Fatalf("%v, stale %v", err, h.engine.Stale())
	}
	h.engine.Store = h.store
	for _, r := range h.readers {
		r.works = true
		h.read(r)
	}
	h.until(id, Done)
}

// Over the bound, details go that nothing reads, and no more than that: rows, finds and the place are shown and compared as before.
func TestEvidenceKeepsWhatIsRead(t *testing.T) {
	c := Change{Key: "k", Env: "K", From: 1, To: 2, Protects: []key.Column{{Table: "t", Column: "c"}, {Table: "t", Column: "d"}}}
	r := Rotation{ID: "r", State: Presenting, Step: StepStageRows, Changes: []Change{c}}.clone()
	at := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	for _, p := range table {
		if p.phase == "" || p.state == Reverting {
			continue
		}
		r.State, r.Step = p.state, p.step
		at = at.Add(time.Minute)
		report := boundedLook(floodZZ(1), p.phase, nil)
		report.ID, report.Columns = r.workID(c), []workload.ColumnReport{goodZZ, {Column: "t.d", Total: 1, Rotated: 1}}
		if p.phase == workload.PhaseWipe {
			report.Columns, report.Place = nil, nil
		}
		r.Work[report.ID] = Evidence{Report: report, At: at, Instance: "w/i"}
		for n := range mostWitnesses {
			report.Error = strings.Repeat("x", maxReasonZZ)
			r.Witnesses[report.ID] = append(r.Witnesses[report.ID], Evidence{Report: report, At: at, Instance: fmt.Sprintf("w/%d", n)})
		}
	}
	r.State, r.Step = Retiring, StepErase
	before, _ := r.lastRows(c)
	placed, _ := r.reencryptedAt(c)
	size := r.evidenceSize()
	b := r.bounded()
	after, _ := b.lastRows(c)
	still, ok := b.reencryptedAt(c)
	if b.evidenceSize() > mostEvidence || size < 2*mostEvidence || r.evidenceSize() != size {
		t.Errorf("of %d bytes are left %d", size, b.evidenceSize())
	}
	if len(after.Columns) != 2 || len(after.Finds) != len(before.Finds) || after.MoreFinds != before.MoreFinds || !ok || !still.at.Equal(placed.at) || b.saidDone(c) != r.saidDone(c) {
		t.Errorf("left are %d columns, %d finds and %d more, %v", len(after.Columns), len(after.Finds), after.MoreFinds, still)
	}
	if n := len(b.WitnessesOf(c)); n < leastWitnesses {
		t.Errorf("%d witnesses are left", n)
	}
}

// The engine's own word stays longest, and where there is nothing else, the oldest goes.
func TestWeakestWitnessGoes(t *testing.T) {
	r := Rotation{ID: "r", State: Retiring, Step: StepErase, Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2, Protects: []key.Column{{Table: "t", Column: "c"}}}}}
	for n := range 2 * mostWitnesses {
		r = r.witnessed(r.Changes[0], Evidence{Connection: fmt.Sprintf("c-%d", n)})
	}
	all := r.Witnesses[r.workID(r.Changes[0])]
	if len(all) != mostWitnesses || all[0].Connection != fmt.Sprintf("c-%d", mostWitnesses) {
		t.Errorf("%d, the first %+v", len(all), all[0])
	}
	sound := workload.WorkReport{Done: true, Place: hereZZ()}
	all = withoutWeakest([]Evidence{{Connection: "c"}, {Instance: "w/1", Report: sound}, {Instance: "w/2"}, {Instance: "w/3", Report: sound}})
	if len(all) != 3 || all[1].Instance != "w/1" || all[2].Instance != "w/3" {
		t.Errorf("left are %+v", all)
	}
}
