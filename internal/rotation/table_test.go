// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Every step leads to an end by both ways, and no way leads back into an earlier state.
func TestTableEnds(t *testing.T) {
	order := map[State]int{Planned: 0, Accepting: 1, Presenting: 2, Soaking: 3, Retiring: 4, Done: 5, Reverting: 6, Reverted: 7}
	for _, p := range table {
		seen := 0
		for at := p; at.state != Done && at.state != Reverted; seen++ {
			next, ok := at.next.to()
			if !ok || seen > len(table) {
				t.Fatalf("%s %s does not lead to an end", p.state, p.name)
			}
			if order[next.state] < order[at.state] {
				t.Errorf("%s %s leads back to %s", at.state, at.name, next.state)
			}
			if next.from != at.target && next.target != at.target {
				t.Errorf("%s %s takes instances to %q, %s %s starts at %q", at.state, at.name, at.target, next.state, next.name, next.from)
			}
			at = next
		}
		if back, ok := p.left.to(); ok {
			if back.state != p.state || back.from != p.target || back.revert != (transition{}) || !slices.Contains(p.gates, gateRows) {
				t.Errorf("%s %s goes back to %s %s for rows that are left", p.state, p.name, back.state, back.name)
			}
		} else if p.action == ActErase || p.phase == workload.PhaseWipe {
			t.Errorf("%s %s has no way back for rows that are left", p.state, p.name)
		}
		back, canRevert := p.revert.to()
		if before := order[p.state] < order[Retiring]; before != canRevert {
			t.Errorf("%s %s: revert is possible: %v, want %v", p.state, p.name, canRevert, before)
		}
		if canRevert && (back.state != Reverting || max(back.from, back.target) < p.target && p.name != StepLoad && p.name != StepStage) {
			t.Errorf("%s %s reverts to %s %s", p.state, p.name, back.state, back.name)
		}
	}
}

// Every state against every event: time passing with nobody there, gates open, revert.
func TestEveryPlaceAndEvent(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	for _, p := range table {
		r := Rotation{ID: "r", Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2, Protects: []key.Column{{Table: "t", Column: "c", Layout: key.TagFirst}}}}, State: p.state, Step: p.name, Soak: time.Minute}
		absent := Facts{Now: now, Workloads: []WorkloadFact{{Workload: workload.Workload{Name: "w", MinInstances: 1, MaxUnavailable: "1", Keys: map[string]workload.Role{"k": {Presents: true, Verifies: true}}}}}}
		for _, g := range p.gates {
			if reasons := checks[g](r, absent); g == gateMinInstances && len(reasons) == 0 {
				t.Errorf("%s %s: nobody is there, and gate %s holds", p.state, p.name, g)
			}
		}
		r.Acted, r.SoakFrom = true, now.Add(-time.Hour)
		done := workload.WorkReport{Done: true, Columns: []workload.ColumnReport{{Column: "t.c"}}, Place: &workload.Place{Tables: []workload.PlaceTable{{Column: "t.c"}}}}
		r.Work = map[string]Evidence{r.WorkID(r.Changes[0]): {Report: done}}
		r.Witnesses = map[string][]Evidence{r.WorkID(r.Changes[0]): {{Report: done, Instance: "w/1"}, {Report: done, Connection: "main"}}}
		open := absent
		open.Workloads = nil
		next, _, changed := Next(r, open)
		want, ends := p.next.to()
		if changed != ends || ends && (next.State != want.state || next.Step != want.name) {
			t.Errorf("%s %s continues with %s %s", p.state, p.name, next.State, next.Step)
		}
		if len(r.Timeline) != 0 {
			t.Fatalf("%s %s: Next wrote into its argument", p.state, p.name)
		}
		rowless := r
		rowless.Changes = []Change{{Key: "k", Env: "K", From: 1, To: 2}}
		if next, _, _ := Next(rowless, open); next.at().onlyRows() && next.State != r.State {
			t.Errorf("%s %s continues with %s %s although there are no rows", p.state, p.name, next.State, next.Step)
		}
		_, err := Revert(r, open, testActor, "")
		var refused *Refused
		if _, can := p.revert.to(); can != (err == nil) || err != nil && !errors.As(err, &refused) {
			t.Errorf("%s %s: revert gives %v", p.state, p.name, err)
		}
	}
}

var update = flag.Bool("update", false, "regenerate the table and the diagram of docs/rotation.md")

// What people do and what goes wrong, in every step: refused where it makes no sense, and otherwise it leads nowhere but
// where it should.
func TestEveryPlaceAndOperator(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	changes := []Change{{Key: "k", Env: "K", From: 1, To: 2}}
	for _, p := range table {
		name := stepName(p.state, p.name)
		finished := p.state == Done || p.state == Reverted
		_, canRevert := p.revert.to()
		at := Rotation{ID: "r", Changes: changes, State: p.state, Step: p.name, Since: now, Clock: now, OnFailure: FailurePause}

		paused, err := PauseBy(at, now, testActor, "")
		if refused(err) != finished || err == nil && (paused.Paused == nil || paused.State != p.state || paused.Step != p.name) {
			t.Errorf("%s: pause gives %s %s, %v", name, paused.State, paused.Step, err)
		}
		if _, err := Resume(at, Facts{Now: now}, testActor, ""); !refused(err) {
			t.Errorf("%s: resumed without a pause", name)
		}
		confirm := at
		confirm.Confirm = true
		if _, err := Confirm(confirm, now, testActor, ""); refused(err) != (p.state != Soaking) {
			t.Errorf("%s: confirmation gives %v", name, err)
		}
		confirm.ConfirmBy, confirm.NotBy, confirm.Compromised = ConfirmByOther, ann.Entity, true
		for by, may := range map[Actor]bool{ann: false, nobody: false, bob: p.state == Soaking} {
			if _, err := Confirm(confirm, now, by, ""); refused(err) == may {
				t.Errorf("%s: confirmation by %s with confirm_by=other gives %v", name, by, err)
			}
		}
		if late := (Facts{Now: now.Add(1000 * time.Hour)}); slices.Contains(p.gates, gateConfirmed) && confirm.cuts(gateConfirmed, late) {
			t.Errorf("%s: another user's confirmation is cut", name)
		}
		if finished {
			continue
		}
		if next, _, changed := Next(paused, Facts{Now: now.Add(time.Hour)}); changed {
			t.Errorf("%s: goes on to %s %s while paused", name, next.State, next.Step)
		}
		resumed, err := Resume(paused, Facts{Now: now.Add(time.Hour)}, testActor, "")
		if err != nil || resumed.Paused != nil || !resumed.Clock.Equal(now.Add(time.Hour)) || resumed.State != p.state {
			t.Errorf("%s: resumption gives %+v, %v", name, resumed, err)
		}
		if back, err := Revert(paused, Facts{Now: now}, testActor, ""); refused(err) == canRevert || err == nil && (back.Paused != nil || back.State != Reverting) {
			t.Errorf("%s: revert of a paused one gives %s, %v", name, back.State, err)
		}
	}
}

// A deadline that has passed and an unhealthy report are failures where there is a way back, and only there.
func TestEveryPlaceAndFailure(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	w := workload.Workload{Name: "w", MinInstances: 1, MaxUnavailable: "1", Keys: map[string]workload.Role{"k": {Presents: true, Verifies: true}}}
	for _, p := range table {
		if p.state == Done || p.state == Reverted {
			continue
		}
		at := Rotation{ID: "r", Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2}}, State: p.state, Step: p.name, Since: now, Clock: now}
		unhealthy := workload.Instance{Workload: "w", ID: "i"}.Given(workload.Holding{Keys: at.expected(w, p.target)}).Proved(time.Time{})
		unhealthy.Judged = now.Add(time.Second)
		late := at
		late.Deadline = time.Minute
		_, canRevert := p.revert.to()
		checkFailure(t, "longer than the deadline", canRevert, late, Facts{Now: now.Add(2 * time.Minute)})
		checkFailure(t, "is not healthy", p.state == Presenting, at, Facts{Now: now, Workloads: []WorkloadFact{{Workload: w, Instances: []workload.Instance{unhealthy}}}})
	}
}

func checkFailure(t *testing.T, reason string, fails bool, r Rotation, f Facts) {
	t.Helper()
	name := stepName(r.State, r.Step)
	for _, onFailure := range []string{FailurePause, FailureRevert} {
		r.OnFailure = onFailure
		next, _, _ := Next(r, f)
		switch {
		case !fails && (next.Paused != nil || next.State == Reverting && r.State != Reverting):
			t.Errorf("%s: %q is a failure", name, reason)
		case fails && onFailure == FailurePause && (next.Paused == nil || !strings.Contains(next.Paused.Reason, reason)):
			t.Errorf("%s: %q does not pause it", name, reason)
		case fails && onFailure == FailureRevert && next.State != Reverting:
			t.Errorf("%s: %q does not revert it", name, reason)
		}
	}
	r.Compromised = true
	if next, _, _ := Next(r, f); next.Paused != nil || next.State == Reverting && r.State != Reverting {
		t.Errorf("%s: %q stops a compromised one", name, reason)
	}
}

// docs/rotation.md has the table's steps and transitions, and draws them.
func TestDocsDrawTheTable(t *testing.T) {
	path := "../../docs/rotation.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := string(data)
	for mark, text := range map[string]string{"table": docsTable(), "diagram": docsDiagram()} {
		begin, end := "<!-- "+mark+" -->\n", "<!-- end of "+mark+" -->\n"
		before, rest, ok := strings.Cut(want, begin)
		if _, after, has := strings.Cut(rest, end); has {
			rest = after
		}
		if !ok {
			t.Fatalf("%s lacks %q", path, begin)
		}
		want = before + begin + "\n" + text + "\n" + end + rest
	}
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if want != string(data) {
		t.Errorf("%s is not that of the table; regenerate it with: go test ./internal/rotation -run TestDocsDrawTheTable -update", path)
	}
}

func stepName(s State, step Step) string {
	return strings.TrimSuffix(string(s)+" "+string(step), " ")
}

func docsTable() string {
	var text strings.Builder
	text.WriteString("| Step | Then | A revert goes to | Where rows are left | Escalated | Stage | Rows | Action | Gates |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, p := range table {
		then, back, left, escalated, stage := "", "—", "", "", fmt.Sprint(p.target)
		if next, ok := p.next.to(); ok {
			then = stepName(next.state, next.name)
		}
		if to, ok := p.revert.to(); ok {
			back = stepName(to.state, to.name)
		}
		if to, ok := p.left.to(); ok {
			left = stepName(to.state, to.name)
		}
		if to, ok := p.escalated.to(); ok {
			escalated = stepName(to.state, to.name)
		}
		if p.from != p.target {
			stage = fmt.Sprintf("%s → %s", p.from, p.target)
		}
		gates := make([]string, 0, len(p.gates))
		for _, g := range p.gates {
			gates = append(gates, string(g))
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", stepName(p.state, p.name), then, back, left, escalated, stage, p.phase, p.action, strings.Join(gates, ", "))
	}
	return text.String()
}

func docsDiagram() string {
	var text strings.Builder
	text.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> planned\n")
	id := func(p step) string {
		return strings.NewReplacer(" ", "_", "-", "_").Replace(stepName(p.state, p.name))
	}
	for _, p := range table {
		next, ok := p.next.to()
		if !ok {
			fmt.Fprintf(&text, "    %s --> [*]\n", id(p))
			continue
		}
		fmt.Fprintf(&text, "    %s --> %s\n", id(p), id(next))
		if back, ok := p.revert.to(); ok {
			fmt.Fprintf(&text, "    %s --> %s: revert\n", id(p), id(back))
		}
		if back, ok := p.left.to(); ok {
			fmt.Fprintf(&text, "    %s --> %s: rows are left\n", id(p), id(back))
		}
		if to, ok := p.escalated.to(); ok {
			fmt.Fprintf(&text, "    %s --> %s: escalated\n", id(p), id(to))
		}
	}
	text.WriteString("```\n")
	return text.String()
}

// Whatever Decode accepts is written again as a record that reads the same, and can be moved on without a panic.
func FuzzDecode(f *testing.F) {
	r := Rotation{ID: "r", Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2}}, State: Presenting, Step: StepSwitch, Stages: map[string]Stage{"w/i": 1}}
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
			return // a time that no record can hold
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
		_, _, _ = Next(r, Facts{Workloads: []WorkloadFact{{Workload: w, Instances: []workload.Instance{i}}}})
	})
}
