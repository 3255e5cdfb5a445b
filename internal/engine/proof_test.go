// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// An instance has the proof that it has reported last of the bundle that it has loaded, after a restart of the engine, too. What it says
// of another bundle changes nothing.
func TestProofOfALoad(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	r := h.join("api", "api-1")
	proof := func() workload.Proof {
		i, _ := h.engine.Instance("api", "api-1")
		return i.Proof
	}
	report := func(etag string, p workload.Proof) {
		t.Helper()
		_, err := h.engine.Report(t.Context(), Report{Workload: "api", Instance: "api-1", Secret: r.reading.Secret, Etag: etag, Proof: p, Healthy: true})
		h.ok(err)
	}
	if got := proof(); got.AtLeast(workload.ProofReload) {
		t.Errorf("a sidecar that does not say proves %s", got)
	}
	report(r.reading.Bundle.Holding.Etag, workload.ProofHealth)
	report("another", workload.ProofEtag)
	report("", workload.ProofNone)
	if got := proof(); got != workload.ProofHealth {
		t.Errorf("it is %s", got)
	}
	h.open()
	if got := proof(); got != workload.ProofHealth {
		t.Errorf("it is %s after a restart", got)
	}
	report(r.reading.Bundle.Holding.Etag, workload.ProofReload)
	if got := proof(); got != workload.ProofReload {
		t.Errorf("it is %s although it has said less since", got)
	}
}

// gate returns a gate of a rotation as it stands now; the zero one: the step does not have it.
func (h *harness) gate(id, name string) rotation.GateResult {
	h.t.Helper()
	for _, g := range h.view(id).Gates {
		if g.Name == name {
			return g
		}
	}
	return rotation.GateResult{}
}

// require changes what a workload requires.
func (h *harness) require(name string, p workload.Proof) {
	h.t.Helper()
	w, _ := h.engine.Workload(name)
	w.RequireProof = p
	h.ok(h.engine.PutWorkload(h.t.Context(), w, false, testActor))
}

// A rotation waits for each instance that proves less than its workload requires, and says which and what to do: in each of its moves,
// and in a revert, too. The plan and the write of the requirement name them beforehand.
func TestRotationWaitsForProof(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.readers["api/api-1"].proof = workload.ProofEtag
	h.readers["api/api-2"].proof = workload.ProofReload
	h.round()
	for _, r := range h.readers {
		h.report(r)
	}
	w, _ := h.engine.Workload("api")
	w.RequireProof = workload.ProofHealth
	planned, err := h.engine.PlanWorkload(w, false)
	h.ok(err)
	const less = "api: 1 of 2 instances prove less than health: api-2 (reload); add to their configuration what \"hyvve-sidecar validate\" says they lack, or: vault write hyvve/workloads/api require_proof=none"
	if !slices.Contains(planned.Affected, less) {
		t.Errorf("the dry run says %q", planned.Affected)
	}
	h.require("api", workload.ProofHealth)
	if got := h.engine.ProvesLess("api"); got != less {
		t.Errorf("the write says %q", got)
	}
	plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"service-token"}, By: testActor, Trigger: rotation.ByOperator})
	h.ok(err)
	if !slices.Contains(plan.Blockers, less) {
		t.Errorf("the plan says %q", plan.Blockers)
	}
	id := h.rotate("service-token")
	h.rounds(5)
	if v := h.view(id); v.State != rotation.Accepting || h.gate(id, "proof").Reason != less || !strings.HasSuffix(v.Waits(), less) {
		t.Errorf("it is %s and waits for %q", v.State, v.Waits())
	}
	_, err = h.engine.Revert(t.Context(), id, testActor, "")
	h.ok(err)
	h.rounds(5)
	if v := h.view(id); v.State != rotation.Reverting || v.Waits() != less {
		t.Errorf("it is %s and waits for %q", v.State, v.Waits())
	}
	h.readers["api/api-2"].proof = workload.ProofHealth
	h.report(h.readers["api/api-2"])
	h.until(id, rotation.Reverted)
	h.until(h.rotate("service-token"), rotation.Done)
	h.readers["api/api-2"].proof = workload.ProofNone
	id = h.rotate("service-token")
	h.rounds(5)
	if v := h.view(id); v.State != rotation.Accepting {
		t.Errorf("it is %s", v.State)
	}
	h.require("api", workload.ProofNone)
	h.until(id, rotation.Done)
}

// The next wave waits for the proof of the one before.
func TestWavesWaitForProof(t *testing.T) {
	h := newHarness(t)
	w := h.three()
	w.RequireProof = workload.ProofReload
	h.workload(w)
	id := h.rotate("one")
	h.rounds(5)
	switched := func() (n int) {
		for _, i := range h.engine.Instances("app") {
			if i.Issued.Keys["one"].Value == 2 {
				n++
			}
		}
		return n
	}
	if n := switched(); n > 1 {
		t.Errorf("%d instances have switched, and none has proved it", n)
	}
	for _, r := range h.readers {
		r.proof = workload.ProofReload
		h.report(r)
	}
	h.until(id, rotation.Done)
	if n := switched(); n != 3 {
		t.Errorf("%d instances have switched when all prove it", n)
	}
}

// A reader without a name never reports, so that it proves nothing, whatever it was given.
func TestAnonymousReadersProveNothing(t *testing.T) {
	h := newHarness(t)
	h.key("service-token", "token")
	h.workload(workload.Workload{Name: "api", RequireProof: workload.ProofReload, Keys: map[string]workload.Role{"service-token": {Verifies: true}}})
	_, err := h.engine.Read(t.Context(), fleet.Reader{Workload: "api"}, time.Hour)
	h.ok(err)
	if got := h.engine.ProvesLess("api"); !strings.Contains(got, "(a reader without instance=, which counts until its lease ends)") {
		t.Errorf("%q", got)
	}
}

// Gates that hold since there is no instance say so, and so do the plan and the receipt.
func TestGatesWithoutInstancesSaySo(t *testing.T) {
	h := newHarness(t)
	h.key("service-token", "token")
	h.workload(workload.Workload{Name: "web", Keys: map[string]workload.Role{"service-token": {Presents: true}}})
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"service-token": {Verifies: true}}})
	api := h.join("api", "api-1")
	plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"service-token"}, By: testActor, Trigger: rotation.ByOperator})
	h.ok(err)
	const nobody = "there is no live instance of web, so that nothing is proved there"
	if !strings.Contains(strings.Join(plan.Notes, "\n"), nobody) {
		t.Errorf("the plan says %q", plan.Notes)
	}
	api.deaf = true
	id := h.rotate("service-token")
	h.rounds(2)
	if g := h.gate(id, "min_instances"); !g.Holds || g.Note != nobody || g.Reason != "" {
		t.Errorf("%+v", g)
	}
	if g := h.gate(id, "loaded"); g.Holds || g.Note != "" {
		t.Errorf("%+v", g)
	}
	api.deaf = false
	h.until(id, rotation.Done)
	for _, s := range h.view(id).Receipt.Snapshots {
		if !slices.Equal(s.Empty, []string{"web"}) {
			t.Errorf("the receipt of %s %s says that these are empty: %q", s.State, s.Step, s.Empty)
		}
		if len(s.Holders) != 1 || s.Holders[0].Proof != rotation.ProofReport || s.Holders[0].Grade.AtLeast(workload.ProofReload) {
			t.Errorf("the receipt of %s %s says %+v", s.State, s.Step, s.Holders)
		}
	}
}
