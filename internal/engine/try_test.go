// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// seeing is a platform whose key has a connection for a witness, which sees what look says.
func seeing(t *testing.T) (h *harness, one *reader, look *eyes) {
	t.Helper()
	look = &eyes{server: &server{}, report: workload.WorkReport{Done: true, Place: here(), Columns: []workload.ColumnReport{good}}}
	h = newHarness(t)
	h.kinds = kind.List{look}
	h.open()
	one = h.rows()
	_, err := h.engine.PutConnection(t.Context(), kind.Connection{Name: "main", Kind: "eyes"}, true, testActor)
	h.ok(err)
	h.witness("main")
	return h, one, look
}

// A witness that cannot look shows in the plan, refuses a rotation before anything is changed, and is warned of where the key
// is compromised.
func TestWitnessIsTriedBeforeARotation(t *testing.T) {
	h, one, look := seeing(t)
	k, _ := h.engine.Key("master")
	h.place = here()
	_, err := h.engine.Report(t.Context(), Report{
		Workload: one.workload, Instance: one.id, Secret: one.reading.Secret, Etag: one.reading.Bundle.Holding.Etag, Healthy: true,
		Work: []workload.WorkReport{{ID: catalog.CountID(k, 1), Done: true, Place: here(), Columns: []workload.ColumnReport{good}}},
	})
	h.ok(err)
	if p := h.planned(); len(p.Blockers) > 0 || len(h.engine.TryWitness(t.Context(), "master")) > 0 {
		t.Errorf("with a good witness: %v", p.Blockers)
	}
	if tried := look.looks[0]; tried.Most != tryRows {
		t.Errorf("it has opened %d rows of each column, where 0 is all", tried.Most)
	}
	whole := look.report
	elsewhereReport := whole
	elsewhereReport.Place = elsewhere()
	closed := whole
	closed.Columns = []workload.ColumnReport{{Column: "t.c", Total: 3, Bad: 3}}
	for _, c := range []struct {
		report workload.WorkReport
		fault  error
		want   string
	}{
		{whole, errors.New("role hyvve may not read column c"), "MASTER: the engine cannot look at the rows by connection main, its witness: role hyvve may not read column c"},
		{elsewhereReport, nil, "database hyvve of system …654321 and database hyvve of system …234567, where connection main, its witness, leads to and where api/api-1 has counted the rows"},
		{closed, nil, "none of the 3 rows that the engine has tried by connection main, its witness, opens under version 1"},
	} {
		look.report, look.fault = c.report, c.fault
		before := h.states("master")
		if p := h.planned(); !strings.Contains(strings.Join(p.Blockers, "; "), c.want) {
			t.Errorf("the plan does not say %q: %v", c.want, p.Blockers)
		}
		if warned := h.engine.TryWitness(t.Context(), "master"); !strings.Contains(strings.Join(warned, "; "), c.want) {
			t.Errorf("a write does not warn of %q: %v", c.want, warned)
		}
		_, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"master"}, By: testActor, Trigger: rotation.ByOperator})
		if !refused(err) || !strings.Contains(err.Error(), c.want) || h.states("master") != before {
			t.Errorf("rotate, %s: %v", h.states("master"), err)
		}
	}
	_, warnings, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"master"}, By: testActor, Trigger: rotation.ByOperator, Compromised: true})
	if err != nil || !strings.Contains(strings.Join(warnings, "; "), "none of the 3 rows") {
		t.Errorf("a compromised key: %v, %v", warnings, err)
	}
}

// A rotation by period tries the witness, too. It fails visibly, and starts once the witness is mended.
func TestWitnessIsTriedBeforeAnAutomaticRotation(t *testing.T) {
	h, _, look := seeing(t)
	k, _ := h.engine.Key("master")
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: k.Name, Kind: k.Kind, Protects: k.Protects, Witness: k.Witness, Policy: key.Policy{Period: time.Hour}}, testActor)
	h.ok(err)
	look.fault = errors.New("role hyvve may not read column c")
	h.clock.advance(time.Hour)
	for range 3 {
		h.round()
	}
	if fault := h.records().starts["master"]; fault.Attempts != 1 || !strings.Contains(fault.Reason, "may not read column c") || h.records().rotating["master"] != "" {
		t.Errorf("%d attempts, %q, rotation %q", fault.Attempts, fault.Reason, h.records().rotating["master"])
	}
	look.fault = nil
	h.clock.advance(time.Minute)
	for range 3 {
		h.round()
	}
	if h.records().rotating["master"] == "" {
		t.Errorf("it does not start with a good witness: %+v", h.records().starts["master"])
	}
}

// With one witness a rotation would wait where there is no way back. It does not start, by hand or by itself, unless the key is
// compromised.
func TestOneWitnessStartsNoRotation(t *testing.T) {
	h := newHarness(t)
	one := h.rows()
	h.witness("")
	for _, name := range []string{"", "api-2"} {
		if name != "" {
			h.joinWith("api", name, one.login)
		}
		want := "there is api/api-1 alone now"
		if name != "" {
			want += "; with the same token logs in: api/api-2"
		}
		before := h.states("master")
		_, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"master"}, By: testActor, Trigger: rotation.ByOperator})
		if !refused(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "witness=none") || h.states("master") != before {
			t.Errorf("not %q, %s: %v", want, h.states("master"), err)
		}
	}
	k, _ := h.engine.Key("master")
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: k.Name, Kind: k.Kind, Protects: k.Protects, Policy: key.Policy{Period: time.Hour}}, testActor)
	h.ok(err)
	h.clock.advance(time.Hour)
	h.round()
	if fault := h.records().starts["master"]; !strings.Contains(fault.Reason, "two independent witnesses") || h.records().rotating["master"] != "" {
		t.Errorf("by itself: %+v, rotation %q", fault, h.records().rotating["master"])
	}
	_, warnings, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"master"}, By: testActor, Trigger: rotation.ByOperator, Compromised: true})
	if err != nil || !strings.Contains(strings.Join(warnings, "; "), "will wait before the old value is erased: MASTER: two independent witnesses") {
		t.Errorf("a compromised key: %v, %v", warnings, err)
	}
}
