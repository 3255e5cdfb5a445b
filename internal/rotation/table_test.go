// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Every place leads to an end by both ways, and no way leads back into an earlier move.
func TestTableEnds(t *testing.T) {
	order := map[State]int{Planned: 0, Accepting: 1, Presenting: 2, Soaking: 3, Retiring: 4, Done: 5, Reverting: 6, Reverted: 7}
	for _, p := range table {
		seen := 0
		for at := p; at.state != Done && at.state != Reverted; seen++ {
			next, ok := at.next.row()
			if !ok || seen > len(table) {
				t.Fatalf("%s %s does not lead to an end", p.state, p.step)
			}
			if order[next.state] < order[at.state] {
				t.Errorf("%s %s leads back to %s", at.state, at.step, next.state)
			}
			if next.from != at.target && next.target != at.target {
				t.Errorf("%s %s takes instances to %d, %s %s starts at %d", at.state, at.step, at.target, next.state, next.step, next.from)
			}
			at = next
		}
		back, canRevert := p.revert.row()
		if before := order[p.state] < order[Retiring]; before != canRevert {
			t.Errorf("%s %s: revert is possible: %v, want %v", p.state, p.step, canRevert, before)
		}
		if canRevert && (back.state != Reverting || max(back.from, back.target) < p.target && p.step != StepLoad && p.step != StepStage) {
			t.Errorf("%s %s reverts to %s %s", p.state, p.step, back.state, back.step)
		}
	}
}

// Every state against every event: time passing with nobody there, gates open, revert.
func TestEveryPlaceAndEvent(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	for _, p := range table {
		r := Rotation{ID: "r", Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2, Protects: []key.Column{{Table: "t", Column: "c", Layout: key.TagFirst}}}}, State: p.state, Step: p.step, Soak: time.Minute}
		absent := Facts{Now: now, Workloads: []WorkloadFact{{Workload: workload.Workload{Name: "w", MinInstances: 1, MaxUnavailable: "1", Keys: map[string]workload.Role{"k": {Presents: true, Verifies: true}}}}}}
		for _, g := range p.gates {
			if reasons := checks[g](r, absent); g == gateMinInstances && len(reasons) == 0 {
				t.Errorf("%s %s: nobody is there, and gate %s holds", p.state, p.step, g)
			}
		}
		r.Acted, r.SoakFrom = true, now.Add(-time.Hour)
		r.Work = map[string]Evidence{r.workID(r.Changes[0]): {Report: workload.WorkReport{Done: true}}}
		open := absent
		open.Workloads = nil
		next, _, changed := Next(r, open)
		want, ends := p.next.row()
		if changed != ends || ends && (next.State != want.state || next.Step != want.step) {
			t.Errorf("%s %s goes on to %s %s", p.state, p.step, next.State, next.Step)
		}
		if len(r.Timeline) != 0 {
			t.Fatalf("%s %s: Next wrote into its argument", p.state, p.step)
		}
		rowless := r
		rowless.Changes = []Change{{Key: "k", Env: "K", From: 1, To: 2}}
		if next, _, _ := Next(rowless, open); next.at().onlyRows() && next.State != r.State {
			t.Errorf("%s %s goes on to %s %s although there are no rows", p.state, p.step, next.State, next.Step)
		}
		_, err := Revert(r, open, "me", "")
		var refused *Refused
		if _, can := p.revert.row(); can != (err == nil) || err != nil && !errors.As(err, &refused) {
			t.Errorf("%s %s: revert gives %v", p.state, p.step, err)
		}
	}
}

// The diagram in the docs shows the table's transitions.
func TestDocsDrawTheTable(t *testing.T) {
	docs, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	name := func(s State, step Step) string { return strings.TrimSuffix(string(s)+" "+string(step), " ") }
	for _, p := range table {
		next, ok := p.next.row()
		if !ok {
			continue
		}
		line := "| " + name(p.state, p.step) + " | " + name(next.state, next.step) + " | "
		if back, ok := p.revert.row(); ok {
			line += name(back.state, back.step)
		} else {
			line += "—"
		}
		if !strings.Contains(string(docs), line) {
			t.Errorf("docs/architecture.md lacks the row %q", line)
		}
	}
}

// Whatever Decode accepts is written again as a record that reads the same, and can be moved on without a panic.
func FuzzDecode(f *testing.F) {
	r := Rotation{ID: "r", Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2}}, State: Presenting, Step: StepSwitch, Positions: map[string]int{"w/i": 1}}
	data, err := r.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(data)
		if err != nil {
			return
		}
		once, err := r.Encode()
		if err != nil {
			t.Skip() // a time that no record can hold
		}
		back, err := Decode(once)
		if err != nil {
			t.Fatalf("what was accepted is refused when written again: %v", err)
		}
		if twice, err := back.Encode(); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("written again differently: %v", err)
		}
		i := workload.Instance{Workload: "w", ID: "i"}
		w := workload.Workload{Name: "w", MaxUnavailable: "1", Keys: map[string]workload.Role{r.Changes[0].Key: {Presents: true, Verifies: true}}}
		_, _, _ = Next(r, Facts{Workloads: []WorkloadFact{{w, []workload.Instance{i}}}})
	})
}
