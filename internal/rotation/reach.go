// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"slices"
	"strings"
)

// reached returns the rotation with the workloads of which an instance may have been given something else than before it.
// A revert waits for no other workload to be there: its instances have nothing to give back. It reports whether that
// changed the rotation.
func (r Rotation) reached(f Facts) (Rotation, bool) {
	if p := r.at(); r.Reached == nil || p.from == stageOld && p.target == stageOld {
		return r, false
	}
	changed := false
	for _, w := range f.Workloads {
		if slices.Contains(r.Reached, w.Name) || !r.reaches(w) {
			continue
		}
		r, changed = r.Clone(), true
		r.Reached = append(r.Reached, w.Name)
	}
	return r, changed
}

// reaches reports whether an instance of the workload was let go, or has come, to where it holds something else.
func (r Rotation) reaches(w WorkloadFact) bool {
	all := r.wants(w.Workload)
	for name := range r.Stages { // of those that have gone, too
		if strings.HasPrefix(name, w.Name+"/") && !heldIs(all[r.StageOf(name)], all[stageOld]) {
			return true
		}
	}
	for _, i := range w.Instances {
		if !heldIs(all[r.instanceStage(i)], all[stageOld]) {
			return true
		}
	}
	return false
}

// awaits reports whether the step waits for instances of a workload to be there.
func (r Rotation) awaits(workloadName string) bool {
	return r.State != Reverting || r.Reached == nil || slices.Contains(r.Reached, workloadName)
}

// stagedRows reports whether rows may have been re-encrypted, or copies of them staged.
func (r Rotation) stagedRows() bool {
	return r.Reached == nil || r.State != Planned && r.State != Accepting && r.Presented()
}
