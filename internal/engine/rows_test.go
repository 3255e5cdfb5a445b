// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// reach goes round until the rotation is at a step of a state, and stops the readers' work there.
func (h *harness) reach(id string, state rotation.State, step rotation.Step) {
	h.t.Helper()
	for range 120 {
		view := h.view(id)
		for _, r := range h.readers {
			r.works = view.State != state || view.Step != step
		}
		h.round()
		h.clock.advance(time.Second)
		if view = h.view(id); view.State == state && view.Step == step {
			for _, r := range h.readers {
				r.works = false
				h.read(r)
			}
			return
		}
	}
	h.t.Fatalf("rotation does not come to %s %s: %s", state, step, h.view(id).Waits())
}

// says lets an instance report one column on the work that it is asked for.
func (h *harness) says(r *reader, columns ...workload.ColumnReport) {
	h.t.Helper()
	if len(r.reading.Bundle.Work) != 1 {
		h.t.Fatalf("%s is asked for %+v", r.id, r.reading.Bundle.Work)
	}
	_, err := h.engine.Report(h.t.Context(), Report{
		Workload: r.workload, Instance: r.id, Secret: r.reading.Secret, Etag: r.reading.Bundle.Holding.Etag, Healthy: true,
		Work: []workload.WorkReport{{ID: r.reading.Bundle.Work[0].ID, Done: true, Columns: columns}},
	})
	h.ok(err)
}

// Whatever is reported right before a value goes: while rows need it, it stays, those that verify learn it again, the rows
// are re-encrypted, and only then it goes. That somebody else has seen no such row makes no difference.
func TestRowsThatAreLeftAreGoneBackFor(t *testing.T) {
	for _, c := range []struct {
		name  string
		state rotation.State
		step  rotation.Step
		end   rotation.State
		left  workload.ColumnReport
	}{
		{"retiring, wiped", rotation.Retiring, rotation.StepWipeRows, rotation.Done, workload.ColumnReport{Column: "t.c", Total: 3, Left: 2, Rotated: 1}},
		{"retiring, checked", rotation.Retiring, rotation.StepErase, rotation.Done, workload.ColumnReport{Column: "t.c", Total: 3, Bad: 2, Rotated: 1}},
		{"reverting, wiped", rotation.Reverting, rotation.StepWipeRows, rotation.Reverted, workload.ColumnReport{Column: "t.c", Total: 3, Left: 2, Rotated: 1}},
		{"reverting, checked", rotation.Reverting, rotation.StepErase, rotation.Reverted, workload.ColumnReport{Column: "t.c", Total: 3, Bad: 2, Rotated: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHarness(t)
			one := h.rows()
			two := h.join("api", "api-2")
			id := h.rotate("master")
			if c.state == rotation.Reverting {
				h.until(id, rotation.Soaking)
				_, err := h.engine.Revert(t.Context(), id, testActor, "second thoughts")
				h.ok(err)
			}
			h.reach(id, c.state, c.step)
			leaving := h.view(id).Leaving(h.view(id).Changes[0])
			h.says(one, c.left)
			h.says(two, workload.ColumnReport{Column: "t.c", Total: 3, Rotated: 3})
			h.engine.Tick(t.Context())
			view := h.view(id)
			if view.Step != rotation.StepAcceptBoth || !strings.Contains(view.Timeline[len(view.Timeline)-1].Reason, "2 rows do not open") {
				t.Fatalf("%s %s: %+v", view.State, view.Step, view.Timeline[len(view.Timeline)-1])
			}
			h.reach(id, c.state, rotation.StepRows)
			for _, r := range h.readers {
				if held := r.reading.Bundle.Holding.Keys["master"]; !slices.Equal(held.Accepts, []int{2, 1}) || held.Value == leaving {
					t.Errorf("%s is asked to re-encrypt with %+v", r.id, held)
				}
			}
			k, _ := h.engine.Key("master")
			if v, _ := k.Version(leaving); v.Value.Empty() {
				t.Fatalf("version %d is erased with rows under it", leaving)
			}
			for _, r := range h.readers {
				r.works = true
				h.report(r)
			}
			h.until(id, c.end)
			if k, _ = h.engine.Key("master"); k.Versions[leaving-1].State != map[rotation.State]key.State{rotation.Done: key.Destroyed, rotation.Reverted: key.Aborted}[c.end] {
				t.Error(h.states("master"))
			}
		})
	}
}

// To say that the rows were checked, and count none, is no evidence.
func TestCheckWithoutCounts(t *testing.T) {
	h := newHarness(t)
	r := h.rows()
	id := h.rotate("master")
	h.reach(id, rotation.Retiring, rotation.StepErase)
	h.says(r)
	h.engine.Tick(t.Context())
	if view := h.view(id); view.Step != rotation.StepErase || !strings.Contains(view.Waits(), "counts 0 of 1 columns") {
		t.Errorf("%s %s: %s", view.State, view.Step, view.Waits())
	}
}

// Where no instance was ever let present the new version there is nothing to check, and nobody has to be there for it.
func TestRevertBeforeAnybodyPresented(t *testing.T) {
	h := newHarness(t)
	h.key("db", "server")
	h.rows()
	h.workload(workload.Workload{Name: "absent", Keys: map[string]workload.Role{"db": {Presents: true}}})
	h.server.fail["stage"] = errInjected
	id := h.rotate("db", "master")
	h.readers["api/api-1"].works = false
	_, err := h.engine.Revert(t.Context(), id, testActor, "")
	h.ok(err)
	h.until(id, rotation.Reverted)
}

// A compromised rotation does not wait for instances beyond its deadline, but for those that may still write rows under
// the version that goes.
func TestCompromisedWaitsForWriters(t *testing.T) {
	for _, state := range []rotation.State{rotation.Retiring, rotation.Reverting} {
		h := newHarness(t)
		h.rows()
		id := h.ask(Request{Keys: []string{"master"}, Compromised: true, Deadline: 5 * time.Second})
		late := h.join("api", "api-2")
		if state == rotation.Reverting {
			h.until(id, rotation.Soaking)
			late.deaf = true
			_, err := h.engine.Revert(t.Context(), id, testActor, "")
			h.ok(err)
		} else {
			late.deaf = true
		}
		h.rounds(60)
		view := h.view(id)
		if view.State != state || view.Step != rotation.StepWipeRows || !strings.Contains(view.Waits(), "1 instances may still write rows under version") || !strings.Contains(view.Waits(), "api-2") {
			t.Errorf("%s %s: %s", view.State, view.Step, view.Waits())
		}
		h.ok(h.engine.Revoke(t.Context(), "api", "api-2", late.reading.Epoch))
		delete(h.readers, "api/api-2")
		h.until(id, map[rotation.State]rotation.State{rotation.Retiring: rotation.Done, rotation.Reverting: rotation.Reverted}[state])
	}
}

// While the engine is away, nobody can follow: no deadline is over before instances had the time to come back, however
// often it was killed.
func TestDeadlinesWaitForInstancesToComeBack(t *testing.T) {
	for _, compromised := range []bool{true, false} {
		h := newHarness(t)
		h.hyvve()
		late := h.readers["api/api-2"]
		late.deaf = true
		id := h.ask(Request{Keys: []string{"service-token"}, Compromised: compromised, Deadline: 20 * time.Second, OnFailure: rotation.FailureRevert})
		h.round()
		before := h.view(id)
		for range 3 {
			h.clock.advance(15 * time.Second)
			h.open()
			h.clock.advance(time.Second)
			h.engine.Tick(t.Context())
		}
		if view := h.view(id); view.State != before.State || view.Step != before.Step {
			t.Errorf("compromised %v: with Vault away it went from %s %s to %s %s", compromised, before.State, before.Step, view.State, view.Step)
		}
		h.rounds(int(fleet.ReturnTime / time.Second))
		if view := h.view(id); view.State == before.State && view.Step == before.Step {
			t.Errorf("compromised %v: it stays at %s %s: %s", compromised, view.State, view.Step, view.Waits())
		}
	}
}

// A plan says that nobody is there who would re-encrypt, and so does the rotation's start.
func TestNobodyReencrypts(t *testing.T) {
	look := &eyes{server: &server{}, report: workload.WorkReport{Done: true, Place: here(), Columns: []workload.ColumnReport{good}}}
	for _, witness := range []string{rotation.WitnessNone, "main"} {
		h := newHarness(t)
		h.kinds = append(h.kinds, look)
		h.open()
		one := h.rows()
		h.mend()
		h.workload(workload.Workload{Name: "api", Reencrypts: true, Keys: map[string]workload.Role{"master": {Presents: true, Verifies: true}}})
		h.witness(witness)
		if p := h.planned(); len(p.Blockers) > 0 {
			t.Errorf("blockers: %v", p.Blockers)
		}
		delete(h.readers, "api/api-1")
		h.ok(h.engine.Leave(t.Context(), "api", one.id, one.reading.Secret))
		want := "MASTER: no live instance re-encrypts its rows, and the rotation waits for one; start a sidecar with a reencrypt block for workload api"
		if p := h.planned(); len(p.Blockers) != 1 || p.Blockers[0] != want {
			t.Errorf("blockers: %q", p.Blockers)
		}
		_, warnings, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"master"}, By: testActor, Trigger: rotation.ByOperator})
		h.ok(err)
		if !strings.Contains(strings.Join(warnings, "\n"), want) {
			t.Errorf("warnings: %q", warnings)
		}
	}
}
