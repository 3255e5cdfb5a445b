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
			i = i.Given(held).Proved()
			i.Healthy = true
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
		for _, i := range w.Instances {
			if i.Anonymous {
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
