// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// How many waves are previewed.
const (
	maxWaves  = 100
	nextWaves = 5 // of a rotation that is looked at
)

// Wave is the instances of a workload that change at a time.
type Wave struct {
	Workload  string
	Instances []string // ids
}

// waves returns the waves that are left of the rotation's step, at most so many, as grant will let them go when each
// instance arrives and is healthy.
func waves(r Rotation, f Facts, most int) []Wave {
	target := r.at().target
	f = arrivedNow(r, f)
	var all []Wave
	for {
		before := r.Stages
		next, granted := grant(r, f)
		if !granted || len(all) >= most {
			return all
		}
		for _, w := range f.Workloads {
			wave := Wave{Workload: w.Name}
			want := r.wants(w.Workload)
			for _, i := range w.Instances {
				was, now := r.StageOf(i.Name()), next.Stages[i.Name()]
				_, known := before[i.Name()]
				if !i.Anonymous && now == target && (was != target || !known) && !heldIs(want[target], want[was]) {
					wave.Instances = append(wave.Instances, i.ID)
				}
			}
			if len(wave.Instances) > 0 {
				all = append(all, wave)
			}
		}
		r = next
		f = arrivedNow(r, f)
	}
}

// NextWaves are the next waves of the rotation's step.
func NextWaves(r Rotation, f Facts) []Wave { return waves(r, f, nextWaves) }

// arrivedNow returns facts in which every instance runs with what it was let go to, and is healthy.
func arrivedNow(r Rotation, f Facts) Facts {
	f.Workloads = slices.Clone(f.Workloads)
	for n, w := range f.Workloads {
		want := r.wants(w.Workload)
		w.Instances = slices.Clone(w.Instances)
		for m, i := range w.Instances {
			held := workload.Holding{Keys: want[r.StageOf(i.Name())]}
			i = i.Given(held).Proved(f.Now)
			i.Healthy, i.Proof = true, workload.ProofEtag
			w.Instances[m] = i
		}
		f.Workloads[n] = w
	}
	return f
}

// Move is a step of a plan.
type Move struct {
	State    State
	Step     Step
	Text     string
	Waves    []Wave
	Expected time.Duration // median of earlier rotations of these keys; 0: not known
}

// Moves are the steps of a rotation as if every gate opened, from where it is. past are earlier rotations of its keys.
func Moves(r Rotation, f Facts, past []Rotation) (all []Move) {
	for {
		move := Move{State: r.State, Step: r.Step, Text: r.entering(r.at(), f), Waves: waves(r, f, maxWaves)}
		move.Expected = median(durations(past, r.State, r.Step))
		switch {
		case r.Step == StepSoak:
			move.Expected = max(move.Expected, r.Soak)
		case r.Step == StepUnused && f.Sampled:
			move.Expected = max(move.Expected, r.Window()-r.Soak)
		}
		if r.Compromised { // earlier rotations have soaked
			move.Expected = min(move.Expected, r.Deadline)
			if r.Step == StepSoak || r.Step == StepUnused {
				move.Expected = 0
			}
		}
		all = append(all, move)
		to, ok := r.towards(r.at().next)
		if !ok {
			return all
		}
		r = r.Clone()
		for name := range r.Stages {
			r.Stages[name] = r.at().target
		}
		r.State, r.Step = to.state, to.name
	}
}

// Expected is how long a rotation may take, by the median of earlier ones; 0: not known.
func Expected(past []Rotation) time.Duration {
	var whole []time.Duration
	for _, old := range past {
		whole = append(whole, old.Timeline[len(old.Timeline)-1].At.Sub(old.Created))
	}
	return median(whole)
}

// Blockers are the reasons why gates on live instances would not hold now.
func Blockers(r Rotation, f Facts) []string {
	reasons := append(checkMinInstances(r, f), CheckMultiline(r, f)...)
	reasons = append(reasons, checkHealthy(r, f)...)
	for _, w := range f.Workloads {
		if text := ProvesLess(w); text != "" {
			reasons = append(reasons, text)
		}
		for _, i := range w.Instances {
			switch {
			case !i.Leaving.IsZero():
				reasons = append(reasons, fmt.Sprintf("%s: %s: %s", w.Name, i.ID, LeavingText(i)))
			case i.Anonymous:
				reasons = append(reasons, fmt.Sprintf("%s: %s reads without instance=, so that each move waits until its lease ends or it reads again", w.Name, i.ID))
			}
		}
	}
	return reasons
}

// SwitchWaves are the waves in which instances switch to the new version.
func SwitchWaves(r Rotation, f Facts) []Wave {
	r = r.Clone()
	r.State, r.Step = Presenting, StepSwitch
	for name := range r.Stages {
		r.Stages[name] = stageAccept
	}
	return waves(r, f, maxWaves)
}

// durations returns how long earlier rotations were in a step.
func durations(past []Rotation, state State, step Step) []time.Duration {
	var all []time.Duration
	for _, r := range past {
		if r.Omitted > 0 { // what lay between two events is not known
			continue
		}
		for n, event := range r.Timeline {
			if n+1 < len(r.Timeline) && event.State == state && event.Step == step {
				all = append(all, r.Timeline[n+1].At.Sub(event.At))
			}
		}
	}
	return all
}

func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// LongestSwitch is the longest that earlier rotations took until all presented the new version; 0: not known.
func LongestSwitch(past []Rotation) time.Duration {
	return slices.Max(append(durations(past, Presenting, StepSwitch), 0))
}

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

// settled reports whether the instance has arrived, proves that, and works. A revert asks only for the first two: it goes back to what was
// known to work. So does the way back for rows that were left: an instance may be unhealthy because it cannot read them.
func settled(r Rotation, w workload.Workload, i workload.Instance, all wants) bool {
	return arrived(r, i, all) && proves(w, i) && (i.Healthy || i.Anonymous || r.State == Reverting || r.Step == StepAcceptBoth)
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
			if !settled(r, other.Workload, i, all) {
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
		if r.StageOf(i.Name()) == r.at().target && !settled(r, w.Workload, i, all) {
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
