// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// heldAt is what an instance of a role holds of a changing key at a stage. It is the whole meaning of stages.
func heldAt(role workload.Role, c Change, stage Stage) workload.Held {
	var h workload.Held
	if role.Presents {
		h.Value = c.From
		if stage >= stagePresent {
			h.Value = c.To
		}
	}
	switch {
	case !role.Verifies:
	case role.Single && stage < stagePresent:
		h.Accepts = []int{c.From}
	case role.Single || stage == stageNew:
		h.Accepts = []int{c.To}
	case stage == stageOld:
		h.Accepts = append([]int{c.From}, c.Also...)
	default:
		h.Accepts = append([]int{c.To, c.From}, c.Also...)
	}
	return h
}

// HeldAtRest is what an instance of a role holds of a key that no rotation changes.
func HeldAtRest(role workload.Role, current int, undeleted []int) workload.Held {
	return heldAt(role, Change{From: current, Also: undeleted}, stageOld)
}

// StageOf returns the stage of an instance: what was granted, within what the step allows.
func (r Rotation) StageOf(instance string) Stage {
	p := r.at()
	granted, ok := r.Stages[instance]
	if !ok {
		return p.target
	}
	return min(max(granted, min(p.from, p.target)), max(p.from, p.target))
}

// expected is what the instance should hold of the rotation's keys at a stage, by key name.
func (r Rotation) expected(w workload.Workload, stage Stage) map[string]workload.Held {
	held := map[string]workload.Held{}
	for _, c := range r.Changes {
		if role, ok := w.Keys[c.Key]; ok {
			held[c.Key] = heldAt(role, c, stage)
		}
	}
	return held
}

// Held is what the instance of w should hold of the rotation's keys now, by key name. An anonymous reader cannot be
// held back in a wave, since it never says what it has loaded.
func (r Rotation) Held(w workload.Workload, instance workload.Instance) map[string]workload.Held {
	return r.expected(w, r.instanceStage(instance))
}

// instanceStage returns the stage of an instance. That of an anonymous one is the target of the step.
func (r Rotation) instanceStage(i workload.Instance) Stage {
	if i.Anonymous {
		return r.at().target
	}
	return r.StageOf(i.Name())
}

// wants is what a workload's instances should hold of the rotation's keys, by stage.
type wants [stageNew + 1]map[string]workload.Held

func (r Rotation) wants(w workload.Workload) (all wants) {
	for n := range all {
		all[n] = r.expected(w, Stage(n))
	}
	return all
}

// runsWith reports whether the instance is known to run with what is wanted.
func runsWith(i workload.Instance, want map[string]workload.Held) bool {
	for name := range want {
		if !i.Runs(name) {
			return false
		}
	}
	return heldIs(i.Issued.Keys, want)
}

// heldIs reports whether what is held agrees with what is wanted of some keys.
func heldIs(held, want map[string]workload.Held) bool {
	for name, h := range want {
		if !held[name].Equal(h) {
			return false
		}
	}
	return true
}

// arrived reports whether the instance is at the step's target, as far as it is known.
func arrived(r Rotation, i workload.Instance, all wants) bool {
	target := r.at().target
	return (i.Anonymous || r.StageOf(i.Name()) == target) && runsWith(i, all[target])
}

// settled reports whether the instance has arrived and works. A revert asks only for the first: it goes back to what was
// known to work. So does the way back for rows that were left: an instance may be unhealthy because it cannot read them.
func settled(r Rotation, i workload.Instance, all wants) bool {
	return arrived(r, i, all) && (i.Healthy || i.Anonymous || r.State == Reverting || r.Step == StepAcceptBoth)
}

// grant returns the stages after letting as many more instances change as the waves allow: workloads after those they
// name in After, and within one at most max_unavailable that have not arrived. It reports whether anything changed.
func grant(r Rotation, f Facts) (Rotation, bool) {
	target := r.at().target
	changed := false
	for _, w := range f.Workloads {
		if !f.waiting(r, w) || !f.ready(r, w.Workload) {
			continue
		}
		all := r.wants(w.Workload)
		budget := f.budget(r, w, all)
		for _, i := range w.Instances {
			if i.Anonymous || r.StageOf(i.Name()) == target {
				continue
			}
			free := heldIs(all[target], all[r.StageOf(i.Name())])
			if !free && budget <= 0 {
				continue
			}
			if !free {
				budget--
			}
			if !changed {
				r, changed = r.Clone(), true
			}
			r.Stages[i.Name()] = target
		}
	}
	return r, changed
}

// waiting reports whether any instance of the workload has still to be let go.
func (f Facts) waiting(r Rotation, w WorkloadFact) bool {
	return slices.ContainsFunc(w.Instances, func(i workload.Instance) bool {
		return !i.Anonymous && r.StageOf(i.Name()) != r.at().target
	})
}

// ready reports whether all workloads that w comes after have arrived.
func (f Facts) ready(r Rotation, w workload.Workload) bool {
	for _, other := range f.Workloads {
		if !slices.Contains(w.After, other.Name) {
			continue
		}
		all := r.wants(other.Workload)
		for _, i := range other.Instances {
			if !settled(r, i, all) {
				return false
			}
		}
	}
	return true
}

// budget is how many further instances of w may change now.
func (f Facts) budget(r Rotation, w WorkloadFact, all wants) int {
	total, onTheWay := 0, 0
	for _, i := range w.Instances {
		if i.Anonymous {
			continue
		}
		total++
		if r.StageOf(i.Name()) == r.at().target && !settled(r, i, all) {
			onTheWay++
		}
	}
	n, err := w.AtATime(total)
	if err != nil { // refused on write; a stored one that is odd goes one by one
		n = 1
	}
	return n - onTheWay
}

// InstanceView is an instance in a rotation.
type InstanceView struct {
	Instance workload.Instance
	Stage    Stage // how far it may go
	Loaded   bool  // whether it runs with what it should hold
}

// Standing returns where each instance stands.
func Standing(r Rotation, f Facts) (all []InstanceView) {
	for _, w := range f.Workloads {
		wants := r.wants(w.Workload)
		for _, i := range w.Instances {
			stage := r.instanceStage(i)
			all = append(all, InstanceView{i, stage, runsWith(i, wants[stage])})
		}
	}
	return all
}
