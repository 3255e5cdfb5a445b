// SPDX-License-Identifier: Apache-2.0

package workload_test

import (
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Proofs have a total order, and what nobody knows proves nothing.
func TestProofsAreOrdered(t *testing.T) {
	order := []workload.Proof{workload.ProofNone, workload.ProofReload, workload.ProofHealth, workload.ProofEtag}
	for n, p := range order {
		for m, q := range order {
			if p.AtLeast(q) != (n >= m) {
				t.Errorf("%s at least %s: %v", p, q, p.AtLeast(q))
			}
		}
		if read, err := workload.ParseProof(string(p)); read != p || err != nil {
			t.Errorf("%s reads as %s, %v", p, read, err)
		}
	}
	for _, unknown := range []workload.Proof{"", "Health", "certain"} {
		if unknown.AtLeast(workload.ProofReload) || unknown.String() != "none" || !workload.ProofNone.AtLeast(unknown) {
			t.Errorf("%q proves something", unknown)
		}
	}
	if _, err := workload.ParseProof("certain"); err == nil {
		t.Error("a proof that is not known was read")
	}
	if p, err := workload.ParseProof(""); p != workload.ProofNone || err != nil {
		t.Errorf("nothing reads as %s, %v", p, err)
	}
}
