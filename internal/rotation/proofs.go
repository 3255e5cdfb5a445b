// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// aboutInstances are the gates that hold where there is no instance.
var aboutInstances = []gate{gateMinInstances, gateLoaded, gateProof, gateHealthy}

// empty returns the names of the workloads that have no live instance.
func (f Facts) empty() (names []string) {
	for _, w := range f.Workloads {
		if len(w.Instances) == 0 {
			names = append(names, w.Name)
		}
	}
	return names
}

// EmptyText says which workloads have no live instance, so that gates hold which would wait for them; empty: all have.
func EmptyText(f Facts) string {
	names := f.empty()
	if len(names) == 0 {
		return ""
	}
	return "there is no live instance of " + strings.Join(names, ", ") + ", so that nothing is proved there"
}

// proves reports whether an instance knows as well as its workload requires that it uses what it has loaded.
func proves(w workload.Workload, i workload.Instance) bool { return i.Proof.AtLeast(w.RequireProof) }

// requiresProof reports whether a workload requires any proof.
func (f Facts) requiresProof() bool {
	return slices.ContainsFunc(f.Workloads, func(w WorkloadFact) bool { return w.RequireProof.AtLeast(workload.ProofReload) })
}

// checkProof looks at the proofs of instances that are where the step takes them. The others are of the gate loaded.
func checkProof(r Rotation, f Facts) (reasons []string) {
	for _, w := range f.Workloads {
		all := r.wants(w.Workload)
		if text := provesLess(w, func(i workload.Instance) bool { return arrived(r, i, all) }); text != "" {
			reasons = append(reasons, text)
		}
	}
	return reasons
}

// Unproved is how many instances of a workload prove less than it requires: those that [ProvesLess] is about.
func Unproved(w WorkloadFact) (n int) {
	for _, i := range w.Instances {
		if !proves(w.Workload, i) {
			n++
		}
	}
	return n
}

// ProvesLess says which instances of a workload prove less than it requires, and what to do; empty: none.
func ProvesLess(w WorkloadFact) string {
	return provesLess(w, func(workload.Instance) bool { return true })
}

// provesLess is [ProvesLess] for some instances.
func provesLess(w WorkloadFact, of func(workload.Instance) bool) string {
	var less firstThree
	for _, i := range w.Instances {
		switch {
		case proves(w.Workload, i) || !of(i):
		case i.Anonymous:
			less.add(func() string { return i.ID + " (a reader without instance=, which counts until its lease ends)" })
		default:
			less.add(func() string { return fmt.Sprintf("%s (%s)", i.ID, i.Proof) })
		}
	}
	if less.n == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %d of %d instances prove less than %s: %s; add to their configuration what \"hyvve-sidecar validate\" says they lack, or: vault write hyvve/workloads/%s require_proof=none",
		w.Name, less.n, len(w.Instances), w.RequireProof, less, w.Name)
}
