// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// here is the database of the platform, and elsewhere a copy of it.
func here() *workload.Place {
	return &workload.Place{System: "7412345678901234567", Database: "hyvve", OID: 16384, Primary: true, Tables: []workload.PlaceTable{{Column: "t.c", OID: 16400}}}
}

func elsewhere() *workload.Place {
	p := here()
	p.System = "7412345678907654321"
	return p
}

var good = workload.ColumnReport{Column: "t.c", Total: 3, Rotated: 3}

// saw lets an instance report that it has opened all rows somewhere.
func (h *harness) saw(r *reader, place *workload.Place, columns ...workload.ColumnReport) {
	h.t.Helper()
	h.reports(r, workload.WorkReport{Done: true, Place: place, Columns: columns})
}

func (h *harness) reports(r *reader, report workload.WorkReport) {
	h.t.Helper()
	h.read(r)
	if len(r.reading.Bundle.Work) != 1 {
		h.t.Fatalf("%s is asked for %+v", r.id, r.reading.Bundle.Work)
	}
	report.ID = r.reading.Bundle.Work[0].ID
	_, err := h.engine.Report(h.t.Context(), Report{
		Workload: r.workload, Instance: r.id, Secret: r.reading.Secret, Etag: r.reading.Bundle.Holding.Etag, Healthy: true,
		Work: []workload.WorkReport{report},
	})
	h.ok(err)
	h.engine.Tick(h.t.Context())
	h.settle()
}

// witnesses is a platform whose key waits for two witnesses, and whose rotation waits for them.
func (h *harness) witnesses(state rotation.State) (id string, one, two *reader) {
	h.t.Helper()
	one = h.rows()
	h.witness("")
	two = h.join("api", "api-2")
	id = h.rotate("master")
	if state == rotation.Reverting {
		h.until(id, rotation.Soaking)
		_, err := h.engine.Revert(h.t.Context(), id, testActor, "")
		h.ok(err)
	}
	h.reach(id, state, rotation.StepErase)
	return id, one, two
}

// witness changes the witness of the key.
func (h *harness) witness(name string) {
	h.t.Helper()
	k, _ := h.engine.Key("master")
	_, err := h.engine.PutKey(h.t.Context(), catalog.Definition{Name: k.Name, Kind: k.Kind, Protects: k.Protects, Policy: k.Policy, Witness: name}, testActor)
	h.ok(err)
}

// kept fails the test unless a rotation waits with both values in place, and says why.
func (h *harness) kept(id string, words ...string) {
	h.t.Helper()
	view := h.view(id)
	waits := view.Waits()
	for _, w := range words {
		if !strings.Contains(waits, w) {
			h.t.Errorf("it does not say %q: %s", w, waits)
		}
	}
	k, _ := h.engine.Key("master")
	for _, v := range k.Versions {
		if v.Value.Empty() || view.Finished() {
			h.t.Fatalf("%s %s: version %d is %s", view.State, view.Step, v.Number, v.State)
		}
	}
}

// A value is erased when two witnesses with logins of their own have opened every row in the same database.
func TestTwoWitnesses(t *testing.T) {
	for _, state := range []rotation.State{rotation.Retiring, rotation.Reverting} {
		h := newHarness(t)
		id, one, two := h.witnesses(state)
		h.kept(id, "waiting for an instance that re-encrypts")
		h.saw(one, here(), good)
		h.kept(id, "api/api-1 has opened all rows, and is one witness", "witness=CONNECTION", "start another instance", "accept-witness")
		twin := h.joinWith("api", "api-3", one.login)
		h.saw(twin, here(), good)
		h.kept(id, "api/api-3 has opened all rows, and is one witness")
		h.saw(two, nil, good)
		h.kept(id, "api/api-2 does not say which database it has looked at", "update its sidecar")
		h.saw(two, elsewhere(), good)
		h.kept(id, "have looked at different databases", "database hyvve of system …234567", "database hyvve of system …654321", "api/api-2")
		h.reports(two, workload.WorkReport{Error: "no route to the database"})
		h.kept(id, "check by api/api-2 failed: no route to the database")
		h.saw(two, here(), good)
		if state := h.until(id, map[rotation.State]rotation.State{rotation.Retiring: rotation.Done, rotation.Reverting: rotation.Reverted}[state]); len(state.WitnessesOf(state.Changes[0])) != 2 {
			t.Errorf("witnesses are %+v", state.Witnesses)
		}
	}
}

// Both have looked at a database in which nobody has re-encrypted.
func TestWitnessesElsewhere(t *testing.T) {
	h := newHarness(t)
	h.place = here()
	id, one, two := h.witnesses(rotation.Retiring)
	h.saw(one, elsewhere(), good)
	h.saw(two, elsewhere(), good)
	h.kept(id, "different databases", "has re-encrypted")
	h.saw(one, here(), good)
	h.kept(id, "different databases")
	h.saw(two, here(), good)
	h.until(id, rotation.Done)
}

// Rows that one witness has found left outweigh whatever others say, before and after.
func TestOneWitnessFindsRows(t *testing.T) {
	h := newHarness(t)
	id, one, two := h.witnesses(rotation.Retiring)
	h.saw(one, here(), good)
	h.saw(two, elsewhere(), workload.ColumnReport{Column: "t.c", Total: 3, Bad: 3})
	if view := h.view(id); view.Step != rotation.StepAcceptBoth {
		t.Errorf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	h.kept(id)
}

// A user takes the responsibility for one witness: by name, in the timeline, once there is one, and for this pass alone.
func TestAcceptWitness(t *testing.T) {
	h := newHarness(t)
	one := h.rows()
	id := h.rotate("master")
	h.witness("")
	if _, err := h.engine.AcceptWitness(t.Context(), id, testActor, ""); !refused(err) || !strings.Contains(err.Error(), "accepting load") {
		t.Errorf("too early: %v", err)
	}
	h.reach(id, rotation.Retiring, rotation.StepErase)
	if _, err := h.engine.AcceptWitness(t.Context(), id, testActor, ""); !refused(err) || !strings.Contains(err.Error(), "no witness has opened every row yet") {
		t.Errorf("without any: %v", err)
	}
	h.saw(one, here(), good)
	h.kept(id, "accept-witness", "version 1 goes when a second", "no value goes before the gate rows holds")
	for _, reason := range []string{"", " \n"} {
		if _, err := h.engine.AcceptWitness(t.Context(), id, testActor, reason); !refused(err) || !strings.Contains(err.Error(), "reason is empty") {
			t.Errorf("without a reason: %v", err)
		}
	}
	_, err := h.engine.AcceptWitness(t.Context(), id, testActor, "one pod only")
	h.ok(err)
	view := h.until(id, rotation.Done)
	if view.OneWitness != testActor.Name {
		t.Errorf("accepted by %q", view.OneWitness)
	}
	told := false
	for _, e := range view.Timeline {
		told = told || strings.Contains(e.Text, "api/api-1 for MASTER") && e.By == testActor.Name && e.Reason == "one pod only"
	}
	if !told {
		t.Errorf("the timeline does not tell: %+v", view.Timeline)
	}
	if _, err := h.engine.AcceptWitness(t.Context(), id, testActor, ""); !refused(err) {
		t.Errorf("after the end: %v", err)
	}
}

// However many logins report, the record stays small, and the engine's own word stays.
func TestWitnessesAreFew(t *testing.T) {
	r := rotation.Rotation{ID: "r", State: rotation.Retiring, Step: rotation.StepErase, Changes: []rotation.Change{{Key: "k", Env: "K", From: 1, To: 2, Protects: []key.Column{{Table: "t", Column: "c"}}}}}
	r = r.Witnessed(r.Changes[0], rotation.Evidence{Connection: "main"})
	for n := range 5 * rotation.MaxWitnesses {
		r = r.Witnessed(r.Changes[0], rotation.Evidence{Instance: "w/" + strings.Repeat("x", n), Login: workload.Login{Accessor: strings.Repeat("y", n+1)}})
	}
	all := r.Witnesses[r.WorkID(r.Changes[0])]
	if len(all) != rotation.MaxWitnesses || all[0].Connection != "main" {
		t.Errorf("%d, the first %+v", len(all), all[0])
	}
}

// eyes is a kind by whose connections rows are looked at.
type eyes struct {
	*server
	fault  error
	report workload.WorkReport
	looks  []kind.RowLook
}

func (e *eyes) Name() string                                      { return "eyes" }
func (e *eyes) ConnectionFields() []kind.Field                    { return nil }
func (e *eyes) RotateRoot(context.Context, kind.Connection) error { return nil }
func (e *eyes) CheckConnection(context.Context, kind.Connection) ([]string, error) {
	return nil, nil
}

func (e *eyes) NormalizeConnection(c kind.Connection) (kind.Connection, error) { return c, nil }

func (e *eyes) LookAtRows(_ context.Context, _ kind.Connection, look kind.RowLook) (workload.WorkReport, error) {
	e.looks = append(e.looks, look)
	return e.report, e.fault
}

// The engine itself is a witness where the key says by which connection; it looks under the version that stays, again while it
// fails, and after a restart.
func TestEngineIsAWitness(t *testing.T) {
	for _, state := range []rotation.State{rotation.Retiring, rotation.Reverting} {
		look := &eyes{server: &server{}, report: workload.WorkReport{Done: true, Place: here(), Columns: []workload.ColumnReport{good}}}
		h := newHarness(t)
		h.kinds = kind.List{look}
		h.open()
		one := h.rows()
		_, err := h.engine.PutConnection(t.Context(), kind.Connection{Name: "main", Kind: "eyes"}, true, testActor)
		h.ok(err)
		h.witness("main")
		if err := h.engine.DeleteConnection(t.Context(), "main", testActor); !refused(err) {
			t.Errorf("its connection is deleted: %v", err)
		}
		if p := h.planned(); len(p.Blockers) > 0 || !strings.Contains(strings.Join(p.Notes, "; "), "the engine by connection main and api/api-1") {
			t.Errorf("the plan: %v, %v", p.Blockers, p.Notes)
		}
		id := h.rotate("master")
		look.fault, look.looks = errors.New("role hyvve may not read column c"), nil
		if state == rotation.Reverting {
			h.until(id, rotation.Soaking)
			_, err := h.engine.Revert(t.Context(), id, testActor, "")
			h.ok(err)
		}
		h.reach(id, state, rotation.StepErase)
		h.settle()
		h.saw(one, here(), good)
		h.kept(id, "own look by connection main failed", "next try at", "may not read column c")
		before := len(look.looks)
		for range 3 {
			h.engine.Tick(t.Context())
			h.settle()
		}
		if len(look.looks) != before {
			t.Errorf("it looks again at once after it has failed: %d times", len(look.looks))
		}
		k, _ := h.engine.Key("master")
		stays, _ := k.Version(map[rotation.State]int{rotation.Retiring: 2, rotation.Reverting: 1}[state])
		if !look.looks[0].Value.Equal(stays.Value) {
			t.Error("it looks under another version than the one that stays")
		}
		_, err = h.engine.PutConnection(t.Context(), kind.Connection{Name: "main", Kind: "eyes"}, true, testActor)
		h.ok(err)
		h.engine.Tick(h.t.Context())
		h.settle()
		if len(look.looks) != before+1 {
			t.Errorf("the connection was mended, and it does not look at once: %d times", len(look.looks)-before)
		}
		look.fault = nil
		h.open() // what was seen of others is stored
		h.read(one)
		h.clock.advance(time.Minute)
		if view := h.until(id, map[rotation.State]rotation.State{rotation.Retiring: rotation.Done, rotation.Reverting: rotation.Reverted}[state]); len(view.WitnessesOf(view.Changes[0])) != 2 {
			t.Errorf("witnesses are %+v", view.Witnesses)
		}
	}
}

// Rows that the engine itself finds left send the rotation back, and it looks again at the next pass.
func TestEngineFindsRows(t *testing.T) {
	look := &eyes{server: &server{}, report: workload.WorkReport{Done: true, Place: here(), Columns: []workload.ColumnReport{{Column: "t.c", Total: 3, Rotated: 1, Bad: 2}}}}
	h := newHarness(t)
	h.kinds = kind.List{look}
	h.open()
	h.rows()
	_, err := h.engine.PutConnection(t.Context(), kind.Connection{Name: "main", Kind: "eyes"}, true, testActor)
	h.ok(err)
	h.witness("main")
	id := h.rotate("master")
	view := h.view(id)
	for range 120 {
		if h.round(); view.Pass > 0 {
			break
		}
		h.clock.advance(time.Second)
		view = h.view(id)
	}
	if view.Step != rotation.StepAcceptBoth || !strings.Contains(view.Timeline[len(view.Timeline)-1].Reason, "by the engine by connection main") {
		t.Fatalf("%s %s: %+v", view.State, view.Step, view.Timeline[len(view.Timeline)-1])
	}
	h.kept(id)
	look.report.Columns = []workload.ColumnReport{good}
	for _, r := range h.readers {
		r.works, h.place = true, here()
	}
	h.until(id, rotation.Done)
}

// A key's witness must be a connection by which rows can be looked at, and its rows.
func TestWitnessIsChecked(t *testing.T) {
	h := newHarness(t)
	h.rows()
	put := func(name, witness string) error {
		k, _ := h.engine.Key(name)
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: name, Kind: "token", Protects: k.Protects, Witness: witness}, testActor)
		return err
	}
	if err := put("master", "nowhere"); !refused(err) || !strings.Contains(err.Error(), `connection "nowhere" is not known`) {
		t.Errorf("%v", err)
	}
	h.key("rowless", "token")
	if err := put("rowless", rotation.WitnessNone); err != nil {
		t.Errorf("%v", err)
	}
	if p := h.planned(); !strings.Contains(strings.Join(p.Notes, "; "), "one instance alone says") {
		t.Errorf("the plan with witness=none: %v", p.Notes)
	}
	h.ok(put("master", ""))
	if p := h.planned(); len(p.Blockers) != 1 || !strings.Contains(p.Blockers[0], "there is api/api-1 alone now; let the engine") {
		t.Errorf("the plan with one instance: %v", p.Blockers)
	}
	h.join("api", "api-2")
	if p := h.planned(); len(p.Blockers) > 0 || !strings.Contains(strings.Join(p.Notes, "; "), "api/api-1 and api/api-2, for example") || strings.Contains(strings.Join(p.Notes, "; "), "as one entity") {
		t.Errorf("the plan with two instances: %v, %v", p.Blockers, p.Notes)
	}
}

// Rows under an undeleted version are lost when the rotation retires it together with the old one, so that the engine's own
// look counts them; a revert leaves it accepted.
func TestEngineLooksForRowsOfUndeletedVersions(t *testing.T) {
	for state, want := range map[rotation.State]bool{rotation.Retiring: false, rotation.Reverting: true} {
		look := &eyes{server: &server{}, report: workload.WorkReport{Done: true, Place: here(), Columns: []workload.ColumnReport{good}}}
		h := newHarness(t)
		h.kinds = kind.List{look}
		h.open()
		h.rows()
		_, err := h.engine.PutConnection(t.Context(), kind.Connection{Name: "main", Kind: "eyes"}, true, testActor)
		h.ok(err)
		h.witness("main")
		h.retains("master", time.Hour)
		h.place = here()
		h.until(h.rotate("master"), rotation.Done)
		h.undelete(Undeletion{Key: "master", Version: 1})
		k, _ := h.engine.Key("master")
		id := h.rotate("master")
		look.looks = nil
		if state == rotation.Reverting {
			h.until(id, rotation.Soaking)
			_, err := h.engine.Revert(t.Context(), id, testActor, "")
			h.ok(err)
		}
		h.until(id, map[rotation.State]rotation.State{rotation.Retiring: rotation.Done, rotation.Reverting: rotation.Reverted}[state])
		if len(look.looks) == 0 {
			t.Fatal("it has not looked")
		}
		got := slices.ContainsFunc(look.looks[0].Others, func(o kind.RowValue) bool { return o.Value.Equal(k.Versions[0].Value) })
		if got != want {
			t.Errorf("%s: a row under the undeleted version counts as one that is not lost: %v", state, got)
		}
	}
}
