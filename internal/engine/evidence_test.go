// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// flood is a report with as much text as CheckWork lets through, all of it longer when it is stored.
func flood(opened int) workload.WorkReport {
	r := workload.WorkReport{Done: true, Place: here(), Columns: []workload.ColumnReport{good}}
	for n := range untrusted.MaxFinds {
		r.Finds = append(r.Finds, workload.Find{Column: fmt.Sprintf("%03d%s", n, strings.Repeat("<", 250)), Shaped: 1, Tried: 1, Opened: opened})
		r.Unseen = append(r.Unseen, strings.Repeat("&", untrusted.MaxWorkText))
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
	for n := range 2 * rotation.MaxWitnesses {
		liars = append(liars, h.join("api", fmt.Sprintf("liar-%d", n)))
		liars[n].finds = flood(0).Finds
	}
	id := h.rotate("master")
	h.reach(id, rotation.Retiring, rotation.StepErase)
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
			report.Done, report.Error = false, strings.Repeat("<\"", untrusted.MaxReason)
			h.reports(liar, report)
			look()
		}
		h.saw(liars[0], here(), workload.ColumnReport{Column: "t.c", Total: 3, Left: 3})
		look()
		for _, r := range h.readers {
			r.works, r.noChecks = true, true
		}
		for n := 0; n < 100 && h.view(id).Step != rotation.StepErase; n++ {
			h.rounds(1)
			h.clock.advance(time.Minute) // pace
		}
		if view := h.view(id); view.Step != rotation.StepErase {
			t.Fatalf("%s %s: %s", view.State, view.Step, view.Waits())
		}
		look()
	}
	h.saw(one, here(), good)
	for _, liar := range liars {
		report := flood(0)
		report.Done, report.Error = false, strings.Repeat("<\"", untrusted.MaxReason)
		h.reports(liar, report)
	}
	h.saw(two, here(), good)
	h.until(id, rotation.Done)
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
	h.until(id, rotation.Soaking)
	ignore := func(finds []workload.Find) {
		k, _ := h.engine.Key("master")
		k.IgnoreColumns = nil
		for _, f := range finds {
			k.IgnoreColumns = append(k.IgnoreColumns, f.Column)
		}
		h.engine.lock(func(m *memory) { m.Keys["master"] = k })
	}
	h.rounds(3)
	ignore(h.view(id).Progress["master"].Finds)
	h.rounds(3)
	view := h.view(id)
	if more := view.Progress["master"].MoreFinds; view.State != rotation.Soaking || more == 0 || !strings.Contains(view.Waits(), fmt.Sprintf("%d more columns hold envelopes of version 1", more)) {
		t.Errorf("%s with %d finds cut: %s", view.State, more, view.Waits())
	}
	ignore(r.finds)
	h.read(r)
	h.until(id, rotation.Done)
}

// The timeline keeps its beginning and its end, and the journal has all of it, over restarts, too.
func TestTimelineIsBounded(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	id := h.rotate("service-token")
	for n := range 2 * rotation.MaxEvents {
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
	view := h.until(id, rotation.Done)
	entries := 0
	ids, err := h.engine.journal.IDs(t.Context())
	h.ok(err)
	for _, name := range ids {
		entry, _, err := h.engine.journal.Entry(t.Context(), name)
		h.ok(err)
		if entry.Rotation != id {
			continue
		}
		if entries++; entry.Event != entries {
			t.Fatalf("entry %d of the rotation is on event %d", entries, entry.Event)
		}
	}
	if len(view.Timeline) != rotation.MaxEvents || entries != view.EventCount() || entries < 4*rotation.MaxEvents {
		t.Errorf("%d events in the timeline, %d in all, %d in the journal", len(view.Timeline), view.EventCount(), entries)
	}
	states := map[rotation.State]bool{}
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
	h.reach(id, rotation.Presenting, rotation.StepStageRows)
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
	h.until(id, rotation.Done)
}
