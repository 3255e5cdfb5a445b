// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"hash/fnv"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// proofs are all, and that of a sidecar which says nothing.
var proofs = []workload.Proof{"", workload.ProofNone, workload.ProofReload, workload.ProofHealth, workload.ProofEtag}

// drawn is one of n that a name stands for in this world, independent of the caller and the time.
func (w *world) drawn(name string, n int) int {
	hash := fnv.New64a()
	_, _ = fmt.Fprintf(hash, "%d %s", w.seed, name)
	return int(hash.Sum64() >> 32 % uint64(n))
}

// proofOf is what the sidecar of an instance can prove. Most can prove much.
func (w *world) proofOf(name string) workload.Proof {
	if w.drawn("little "+name, 3) > 0 {
		return workload.ProofEtag
	}
	return proofs[w.drawn(name, len(proofs))]
}

// requireProofs lets some workloads require proofs of their instances.
func (w *world) requireProofs() {
	for _, name := range w.workloads {
		load, _ := w.engine.Workload(name)
		if load.RequireProof = ""; w.drawn("require "+name, 2) > 0 {
			load.RequireProof = proofs[w.drawn(name, len(proofs))]
		}
		w.must(w.engine.PutWorkload(ctx, load, false, operator))
	}
}

// requireNothing lets operators do what the gate says: some instances will never prove what is required.
func (w *world) requireNothing() {
	w.lenient = true // from the first of them on
	for _, name := range w.workloads {
		if w.engine == nil || w.node.dead {
			return // again later
		}
		if load, _ := w.engine.Workload(name); load.RequireProof != "" {
			load.RequireProof = ""
			if err := w.engine.PutWorkload(ctx, load, false, operator); err != nil {
				w.expect(err, "require_proof of "+name)
			}
		}
	}
}

// checkProofs: no gate that waits for instances holds while one of them proves less than its workload requires. Only what the
// sidecars can prove counts, whatever the engine has stored of that.
func (w *world) checkProofs(r rotation.Rotation) {
	if w.lenient || w.engine == nil || len(r.Receipt.Snapshots) == 0 {
		return
	}
	s := r.Receipt.Snapshots[len(r.Receipt.Snapshots)-1]
	for _, c := range r.Receipt.Cuts {
		if c.State == s.State && c.Step == s.Step {
			return
		}
	}
	for _, h := range s.Holders {
		load, _ := w.engine.Workload(h.Workload)
		for _, n := range h.Names.List {
			name := h.Workload + "/" + n.ID
			proof := w.proofOf(name)
			if h.Proof != rotation.ProofReport {
				proof = ""
			}
			if load.RequireProof.AtLeast(workload.ProofReload) {
				w.stats.Proved++
			}
			if !proof.AtLeast(load.RequireProof) && !w.liar(name) {
				w.violate("rotation %s has left %s %s although %s proves %s (%s), and %s is required", r.ID, s.State, s.Step, name, proof, h.Proof, load.RequireProof)
			}
		}
	}
}

// liar reports whether one who lies has, or had, this name.
func (w *world) liar(name string) bool {
	for _, p := range w.procs {
		if p.liar && p.name() == name {
			return true
		}
	}
	return false
}
