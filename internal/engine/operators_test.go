// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// rounds goes round some times, a second each.
func (h *harness) rounds(n int) {
	for range n {
		h.round()
		h.clock.advance(time.Second)
	}
}

func (h *harness) ask(request Request) string {
	h.t.Helper()
	request.By, request.Trigger = testActor, rotation.ByOperator
	view, _, err := h.engine.Rotate(h.t.Context(), request)
	h.ok(err)
	return view.ID
}

func TestPauseAndResume(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	id := h.rotate("service-token")
	_, err := h.engine.Pause(t.Context(), id, rotation.Actor{Name: "ann"}, "lunch")
	h.ok(err)
	before := len(h.readers["api/api-2"].held)
	h.rounds(30)
	view := h.view(id)
	if view.State != rotation.Accepting || !strings.Contains(view.Waits(), "paused by ann") || !strings.Contains(view.Waits(), "lunch") || !strings.Contains(view.Waits(), "/resume") {
		t.Errorf("%s: %s", view.State, view.Waits())
	}
	if n := len(h.readers["api/api-2"].held); n != before {
		t.Error("an instance was let go while the rotation is paused")
	}
	h.open()
	if _, err := h.engine.Pause(t.Context(), id, testActor, ""); !refused(err) {
		t.Errorf("a second pause: %v", err)
	}
	_, err = h.engine.Resume(t.Context(), id, testActor, "")
	h.ok(err)
	if _, err := h.engine.Resume(t.Context(), id, testActor, ""); !refused(err) {
		t.Errorf("a second resumption: %v", err)
	}
	for _, r := range h.readers {
		h.read(r)
	}
	h.until(id, rotation.Done)
	for _, do := range []func() (View, error){
		func() (View, error) { return h.engine.Pause(t.Context(), id, testActor, "") },
		func() (View, error) { return h.engine.Resume(t.Context(), id, testActor, "") },
		func() (View, error) { return h.engine.Confirm(t.Context(), id, testActor, "") },
		func() (View, error) { return h.engine.Revert(t.Context(), id, testActor, "") },
	} {
		if _, err := do(); !refused(err) || !strings.Contains(err.Error(), "done") {
			t.Errorf("of an ended rotation: %v", err)
		}
	}
}

// A rotation in which nobody took part is taken back at once, though no sidecar is there.
func TestRevertOfARotationWithoutInstances(t *testing.T) {
	for _, protects := range [][]key.Column{nil, {{Table: "t", Column: "c", Layout: key.TagFirst}}} {
		h := newHarness(t)
		h.key("service-token", "token", protects...)
		h.workload(workload.Workload{Name: "api", MinInstances: 2, Reencrypts: true, Keys: map[string]workload.Role{"service-token": {Presents: true, Verifies: true}}})
		id := h.rotate("service-token")
		h.rounds(3)
		if waits := h.view(id).Waits(); !strings.Contains(waits, "0 of at least 2 instances are there") {
			t.Fatalf("the rotation waits for %q", waits)
		}
		_, err := h.engine.Revert(t.Context(), id, testActor, "nobody is there")
		h.ok(err)
		h.rounds(3)
		if view := h.view(id); view.State != rotation.Reverted {
			t.Errorf("protects %v: the revert is %s %s: %s", protects, view.State, view.Step, view.Waits())
		}
	}
}

func TestPausedRotationCanBeReverted(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	id := h.rotate("service-token")
	h.until(id, rotation.Presenting)
	_, err := h.engine.Pause(t.Context(), id, testActor, "")
	h.ok(err)
	_, err = h.engine.Revert(t.Context(), id, testActor, "")
	h.ok(err)
	h.until(id, rotation.Reverted)
}

func TestManualConfirmation(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	id := h.ask(Request{Keys: []string{"service-token"}, Confirm: rotation.ConfirmManual})
	if _, err := h.engine.Confirm(t.Context(), id, testActor, ""); !refused(err) || !strings.Contains(err.Error(), "while it is soaking") {
		t.Errorf("confirmed before there is anything to see: %v", err)
	}
	h.until(id, rotation.Soaking)
	h.rounds(60)
	if view := h.view(id); view.State != rotation.Soaking || !strings.Contains(view.Waits(), "/confirm") {
		t.Errorf("%s: %s", view.State, view.Waits())
	}
	_, err := h.engine.Confirm(t.Context(), id, rotation.Actor{Name: "ann", Entity: "e-7"}, "looked at the graphs")
	h.ok(err)
	h.until(id, rotation.Done)
	found := false
	ids, err := h.engine.journal.IDs(t.Context())
	h.ok(err)
	for _, n := range ids {
		entry, _, err := h.engine.journal.Entry(t.Context(), n)
		h.ok(err)
		found = found || entry.What == "confirmed" && entry.By == "ann" && entry.Entity == "e-7" && entry.Reason == "looked at the graphs"
	}
	if !found {
		t.Error("the journal does not say who confirmed it")
	}
	plain := h.rotate("service-token")
	if _, err := h.engine.Confirm(t.Context(), plain, testActor, ""); !refused(err) {
		t.Errorf("confirmed what waits for no confirmation: %v", err)
	}
}

func TestUnhealthyWhilePresentingIsAFailure(t *testing.T) {
	for _, onFailure := range []string{rotation.FailurePause, rotation.FailureRevert} {
		h := newHarness(t)
		h.hyvve()
		id := h.ask(Request{Keys: []string{"service-token"}, OnFailure: onFailure})
		h.until(id, rotation.Presenting)
		r := h.readers["agents/agents-1"]
		r.healthy = false
		h.rounds(5)
		view := h.view(id)
		if onFailure == rotation.FailureRevert {
			h.until(id, rotation.Reverted)
			continue
		}
		if view.Paused == nil || !strings.Contains(view.Waits(), "agents/agents-1 is not healthy with what it was given: ill") {
			t.Errorf("%s: %s", view.State, view.Waits())
		}
		if other := h.readers["agents/agents-2"]; len(other.held) > 1 {
			t.Error("the next instance was let go after the failure")
		}
		_, err := h.engine.Resume(t.Context(), id, testActor, "it was the network")
		h.ok(err)
		h.rounds(1)
		h.report(r)
		h.rounds(1)
		if h.view(id).Paused == nil {
			t.Error("a new unhealthy report after the resumption does not pause it again")
		}
		r.healthy = true
		h.report(r)
		_, err = h.engine.Resume(t.Context(), id, testActor, "")
		h.ok(err)
		h.until(id, rotation.Done)
	}
}

func TestDeadline(t *testing.T) {
	for _, onFailure := range []string{rotation.FailurePause, rotation.FailureRevert} {
		h := newHarness(t)
		h.hyvve()
		late := h.readers["api/api-2"]
		late.deaf = true
		id := h.ask(Request{Keys: []string{"service-token"}, OnFailure: onFailure, Deadline: 20 * time.Second})
		h.rounds(15)
		if view := h.view(id); view.Paused != nil || view.State != rotation.Accepting {
			t.Errorf("%s before the deadline", view.State)
		}
		h.rounds(10)
		view := h.view(id)
		switch onFailure {
		case rotation.FailurePause:
			if view.Paused == nil || !strings.Contains(view.Waits(), "longer than the deadline of 20s") {
				t.Errorf("%s: %s", view.State, view.Waits())
			}
			late.deaf = false
			_, err := h.engine.Resume(t.Context(), id, testActor, "")
			h.ok(err)
			h.until(id, rotation.Done)
		case rotation.FailureRevert:
			late.deaf = false
			h.until(id, rotation.Reverted)
		}
	}
}

// A compromised key is cut: nobody is waited for beyond the deadline, and nothing soaks.
func TestCompromisedIsCut(t *testing.T) {
	h := newHarness(t)
	h.key("db", "server")
	h.workload(workload.Workload{Name: "api", MinInstances: 3, Keys: map[string]workload.Role{"db": {Presents: true}}})
	h.join("api", "api-1")
	h.join("api", "api-2").deaf = true
	h.server.inUse = 1
	id := h.ask(Request{Keys: []string{"db"}, Compromised: true, Deadline: 5 * time.Second})
	if view := h.view(id); view.Soak != 0 || view.Confirm {
		t.Errorf("soak %s, confirm %v", view.Soak, view.Confirm)
	}
	h.rounds(2)
	if view := h.view(id); view.State == rotation.Done || !strings.Contains(view.Waits(), "cut at") {
		t.Errorf("%s: %s", view.State, view.Waits())
	}
	view := h.until(id, rotation.Done)
	cut := false
	for _, event := range view.Timeline {
		cut = cut || strings.Contains(event.Reason, "cut, since the key is compromised") && strings.Contains(event.Reason, "api-2")
	}
	if !cut {
		t.Errorf("the timeline does not say who was cut off: %+v", view.Timeline)
	}
	if !h.server.cut {
		t.Error("the server was not told to end what still uses the old version")
	}
}

// Rows that are left are never cut: their key would be gone.
func TestCompromisedKeepsRows(t *testing.T) {
	h := newHarness(t)
	h.key("master", "token", key.Column{Table: "t", Column: "c", Layout: key.TagFirst})
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Reencrypts: true, Keys: map[string]workload.Role{"master": {Presents: true, Verifies: true}}})
	r := h.join("api", "api-1")
	r.works = false
	id := h.ask(Request{Keys: []string{"master"}, Compromised: true, Deadline: 5 * time.Second})
	h.rounds(60)
	if view := h.view(id); view.Step != rotation.StepStageRows || strings.Contains(view.Waits(), "cut") {
		t.Errorf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	r.works = true
	h.report(r)
	h.until(id, rotation.Done)
}

func TestSingleValueWorkloads(t *testing.T) {
	h := newHarness(t)
	h.key("service-token", "token")
	h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"service-token": {Verifies: true, Single: true}}})
	h.workload(workload.Workload{Name: "agents", Keys: map[string]workload.Role{"service-token": {Presents: true}}})
	api := h.join("api", "api-1")
	h.join("agents", "agents-1")
	plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"service-token"}})
	h.ok(err)
	view, warnings, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"service-token"}, By: testActor, Trigger: rotation.ByOperator})
	h.ok(err)
	if len(plan.Gaps) != 1 || plan.Gaps[0].Waves != 2 || len(warnings) != 1 || !strings.Contains(warnings[0], "api verifies SERVICE_TOKEN against one value at a time") {
		t.Errorf("gaps %+v, warnings %v", plan.Gaps, warnings)
	}
	h.until(view.ID, rotation.Done)
	for _, held := range api.held {
		if n := len(held["service-token"].Accepts); n != 1 {
			t.Errorf("it was given %d values to accept", n)
		}
	}
}

// A plan tells what comes and changes nothing.
func TestPlan(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.until(h.rotate("service-token"), rotation.Done)
	h.readers["api/api-2"].healthy = false
	h.report(h.readers["api/api-2"])
	writes := h.store.writes
	plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"service-token"}, By: testActor})
	h.ok(err)
	if h.store.writes != writes {
		t.Errorf("a plan made %d writes", h.store.writes-writes)
	}
	if plan.History != 1 || plan.Expected <= 0 {
		t.Errorf("expected %s after %d rotations", plan.Expected, plan.History)
	}
	if len(plan.Blockers) != 1 || !strings.Contains(plan.Blockers[0], "api-2: ill") {
		t.Errorf("blockers %q", plan.Blockers)
	}
	var waves []string
	for _, m := range plan.Moves {
		for _, w := range m.Waves {
			waves = append(waves, string(m.State)+" "+w.Workload+" "+strings.Join(w.Instances, "+"))
		}
	}
	want := "accepting api api-1, accepting api api-2, presenting agents agents-1, presenting agents agents-2, retiring api api-1, retiring api api-2"
	if got := strings.Join(waves, ", "); got != want {
		t.Errorf("waves %s\nwant  %s", got, want)
	}
	if last := plan.Moves[len(plan.Moves)-1]; last.State != rotation.Done {
		t.Errorf("the plan ends at %s", last.State)
	}
	if _, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"nothing"}}); !refused(err) {
		t.Errorf("a plan of an unknown key: %v", err)
	}
}
