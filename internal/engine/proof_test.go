// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"

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
