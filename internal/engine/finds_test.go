// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// rows is a platform whose key protects rows, and an instance that re-encrypts them.
func (h *harness) rows() *reader {
	h.t.Helper()
	h.key("master", "token", key.Column{Table: "t", Column: "c", Layout: key.TagFirst})
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Reencrypts: true, Keys: map[string]workload.Role{"master": {Presents: true, Verifies: true}}})
	return h.join("api", "api-1")
}

// Envelopes where nobody has configured them are shown from the start, and hold the old version until somebody says that
// they may be lost.
func TestUnconfiguredEnvelopesHoldRetire(t *testing.T) {
	h := newHarness(t)
	r := h.rows()
	r.finds = []workload.Find{
		{Column: "audit.copies.body", Shaped: 30, Tried: 30, Opened: 10},
		{Column: "events.payload", JSON: true, Shaped: 1, Tried: 1, Opened: 1},
		{Column: "others.v", Shaped: 9, Tried: 9},
	}
	id := h.rotate("master")
	h.until(id, rotation.Soaking)
	for range 20 {
		h.round()
	}
	view := h.view(id)
	waits := view.Waits()
	for _, words := range []string{"audit.copies.body", "10 of 30 strings", "add the column to protects", "events.payload", "move them to a text column", "ignore_columns=events.payload"} {
		if view.State != rotation.Soaking || !strings.Contains(waits, words) {
			t.Errorf("%s %s does not say %q: %s", view.State, view.Step, words, waits)
		}
	}
	if strings.Contains(waits, "others.v") {
		t.Errorf("strings that do not open hold it: %s", waits)
	}
	if report := view.Progress["master"]; len(report.Finds) != 3 {
		t.Errorf("the rotation shows %d finds", len(report.Finds))
	}
	ignore := func(columns ...string) {
		t.Helper()
		k, _ := h.engine.Key("master")
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: k.Name, Kind: k.Kind, Options: k.Options, Protects: k.Protects, Witness: k.Witness, Policy: k.Policy, IgnoreColumns: columns}, testActor)
		h.ok(err)
	}
	ignore("audit.copies.body")
	for range 5 {
		h.round()
	}
	if waits := h.view(id).Waits(); strings.Contains(waits, "copies.body holds") || !strings.Contains(waits, "ignore_columns=audit.copies.body,events.payload") {
		t.Errorf("with one of two ignored: %s", waits)
	}
	ignore("audit.copies.body", "public.events.payload")
	h.until(id, rotation.Done)
	if _, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "master", Kind: "token", IgnoreColumns: []string{"nothing"}}, testActor); err == nil || !strings.Contains(err.Error(), "ignore_columns") {
		t.Errorf("ignore_columns=nothing: %v", err)
	}
}

// An upgrade is asked of those that re-encrypt, where another key has rows in the same columns.
func TestUpgrade(t *testing.T) {
	h := newHarness(t)
	r := h.rows()
	r.works = false
	ask := func(keys ...string) (View, error) {
		view, _, err := h.engine.Rotate(t.Context(), Request{Keys: keys, By: testActor, Trigger: rotation.ByOperator, Upgrade: true})
		return view, err
	}
	if _, err := ask("master"); err == nil || !strings.Contains(err.Error(), "no other key has rows") {
		t.Errorf("nothing to upgrade: %v", err)
	}
	h.key("legacy", "token", key.Column{Table: "t", Column: "c", Layout: key.TagLast})
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Reencrypts: true, Keys: map[string]workload.Role{"master": {Presents: true, Verifies: true}, "legacy": {Presents: true, Verifies: true}}})
	if _, err := ask("master", "legacy"); err == nil || !strings.Contains(err.Error(), "is for one key") {
		t.Errorf("two keys: %v", err)
	}
	view, err := ask("master")
	h.ok(err)
	for range 10 {
		h.round()
	}
	if work := r.reading.Bundle.Work; len(work) != 1 || !work[0].Upgrade || len(work[0].Others) != 1 {
		t.Errorf("%s: the work is %+v", h.view(view.ID).Step, work)
	}
	r.works = true
	h.read(r)
	h.until(view.ID, rotation.Done)
}

// planned is what a rotation of the key of those rows would do.
func (h *harness) planned() Plan {
	h.t.Helper()
	p, _, err := h.engine.Plan(h.t.Context(), Request{Keys: []string{"master"}, By: testActor, Trigger: rotation.ByOperator})
	h.ok(err)
	return p
}

// A plan knows the rows from what those that re-encrypt have counted while nothing was asked of them, and what would keep
// them from it.
func TestPlanKnowsRowsFromCounts(t *testing.T) {
	h := newHarness(t)
	r := h.rows()
	work := r.reading.Bundle.Work
	if len(work) != 1 || work[0].Phase != workload.PhaseCount || len(work[0].Columns) != 1 {
		t.Fatalf("the work is %+v", work)
	}
	if p := h.planned(); len(p.Rows) != 1 || !p.Rows[0].Known || p.Rows[0].Columns[0].Total != 3 || len(p.Blockers) > 0 {
		t.Errorf("rows are %+v, blockers %v", p.Rows, p.Blockers)
	}
	_, err := h.engine.Report(t.Context(), Report{
		Workload: "api", Instance: "api-1", Secret: r.reading.Secret, Etag: r.reading.Bundle.Holding.Etag, Healthy: true,
		Work: []workload.WorkReport{{ID: work[0].ID, Error: "an update of t.c sets off trigger touch"}},
	})
	h.ok(err)
	if p := h.planned(); len(p.Blockers) != 1 || !strings.Contains(p.Blockers[0], "api/api-1 could not look at its rows: an update of t.c") {
		t.Errorf("blockers are %v", p.Blockers)
	}
	id := h.rotate("master")
	for range 5 {
		h.round()
	}
	for _, held := range r.reading.Bundle.Work {
		if held.Phase == workload.PhaseCount {
			t.Error("rows are to be counted while they are re-encrypted")
		}
	}
	h.until(id, rotation.Done)
}

// Once a key protects other columns, what was counted of those before says nothing, nor what kept an instance from it.
func TestCountsOfOtherColumnsAreForgotten(t *testing.T) {
	h := newHarness(t)
	r := h.rows()
	late := r.reading.Bundle.Work[0].ID
	report := func() {
		t.Helper()
		_, err := h.engine.Report(t.Context(), Report{
			Workload: "api", Instance: "api-1", Secret: r.reading.Secret, Etag: r.reading.Bundle.Holding.Etag, Healthy: true,
			Work: []workload.WorkReport{{ID: late, Error: "an update of t.c sets off trigger touch"}},
		})
		h.ok(err)
	}
	report()
	if p := h.planned(); len(p.Blockers) != 1 {
		t.Fatalf("blockers are %v", p.Blockers)
	}
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "master", Kind: "token", Witness: rotation.WitnessNone, Protects: []key.Column{
		{Table: "t", Column: "c", Layout: key.TagFirst, Where: []key.Term{{Column: "kind", Is: "=", Value: "oauth"}}},
	}}, testActor)
	h.ok(err)
	for range 2 {
		if p := h.planned(); len(p.Blockers) > 0 || p.Rows[0].Known {
			t.Errorf("rows are %+v, blockers %v", p.Rows, p.Blockers)
		}
		report() // of an instance that has not read yet
	}
	h.read(r)
	if work := r.reading.Bundle.Work; len(work) != 1 || work[0].ID == late || len(work[0].Columns[0].Where) != 1 {
		t.Errorf("the work is %+v", work)
	}
	h.report(r)
	if p := h.planned(); !p.Rows[0].Known || p.Rows[0].Columns[0].Total != 3 {
		t.Errorf("rows are %+v", p.Rows)
	}
}

// The list in a stored key is its own: others read it while a caller still has the list that it passed.
func TestIgnoredColumnsAreNotWrittenOver(t *testing.T) {
	h := newHarness(t)
	h.rows()
	given := []string{"public.events.payload"}
	k, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "master", Kind: "token", IgnoreColumns: given}, testActor)
	h.ok(err)
	if k.IgnoreColumns[0] != "events.payload" || given[0] != "public.events.payload" {
		t.Errorf("of %v the key ignores %v", given, k.IgnoreColumns)
	}
}
