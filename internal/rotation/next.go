// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Next is the machine. It gives the rotation one transition further, or with more instances granted their change, or
// as it was; and the gates of the place that it is given at. It is pure.
func Next(r Rotation, f Facts) (next Rotation, results []GateResult, changed bool) {
	if r.Finished() {
		return r, nil, false
	}
	if granted, ok := grant(r, f); ok {
		return granted, nil, true
	}
	results, open := gates(r, f)
	if soaked, ok := soakClock(r, f, results); ok {
		return soaked, results, true
	}
	if !open {
		return r, results, false
	}
	to, ok := r.towards(r.at().next)
	if !ok {
		return r, results, false
	}
	return pinned(r, f).moved(to, f.Now, to.enter, ""), results, true
}

// pinned records where instances stand that came during this place, so that the next move takes them in waves too.
func pinned(r Rotation, f Facts) Rotation {
	r = r.clone()
	for _, w := range f.Workloads {
		for _, i := range w.Instances {
			if _, ok := r.Positions[i.Name()]; !ok && !i.Anonymous {
				r.Positions[i.Name()] = r.at().target
			}
		}
	}
	return r
}

// soakClock starts the soak time when all are healthy, and starts it again after one was not.
func soakClock(r Rotation, f Facts, results []GateResult) (Rotation, bool) {
	if r.Step != StepSoak {
		return r, false
	}
	healthy := true
	for _, g := range results {
		if g.Name == string(gateHealthy) {
			healthy = g.Holds
		}
	}
	switch {
	case healthy && r.SoakFrom.IsZero():
		r = r.clone()
		r.SoakFrom = f.Now
		return r, true
	case !healthy && !r.SoakFrom.IsZero():
		r = r.clone()
		r.SoakFrom = time.Time{}
		return r, true
	}
	return r, false
}

// Revert gives the rotation on its way back. Refused once the old version may be gone.
func Revert(r Rotation, f Facts, by, reason string) (Rotation, error) {
	if r.Finished() {
		return r, Refusef("rotation %s is %s; to go back to an earlier value, rotate again with value=", r.ID, r.State)
	}
	if r.State == Reverting {
		return r, Refusef("rotation %s is being reverted already", r.ID)
	}
	to, ok := r.towards(r.at().revert)
	if !ok {
		return r, Refusef("rotation %s is retiring the old version: there is no way back any more; rotate again instead", r.ID)
	}
	text := "revert asked"
	if reason != "" {
		text += ": " + reason
	}
	return pinned(r, f).moved(to, f.Now, text, by), nil
}

// workID names what the place asks for one key; it changes with the place, so that evidence is never taken for that of
// an earlier one.
func (r Rotation) workID(c Change) string {
	return fmt.Sprintf("%s/%s/%s-%s", r.ID, c.Key, r.State, r.Step)
}

// WorkFor is what the place asks of instances that re-encrypt.
func (r Rotation) WorkFor(c Change) (workload.Work, bool) {
	p := r.at()
	if p.phase == "" || len(c.Protects) == 0 {
		return workload.Work{}, false
	}
	return workload.Work{
		ID: r.workID(c), Rotation: r.ID, Key: c.Key, Env: c.Env, Phase: p.phase,
		From: c.From, To: c.To, Columns: c.Protects,
	}, true
}

// WakeAt is when time alone may change something, zero if never.
func (r Rotation) WakeAt() time.Time {
	switch {
	case !r.RetryAt.IsZero():
		return r.RetryAt
	case r.Step == StepSoak && !r.SoakFrom.IsZero():
		return r.SoakFrom.Add(r.Soak)
	}
	return time.Time{}
}

// Refused is an error that the caller can mend: it says what is wrong and what to do, and nothing was changed.
type Refused struct{ text string }

func (e *Refused) Error() string { return e.text }

// Refusef makes a Refused.
func Refusef(format string, args ...any) error { return &Refused{fmt.Errorf(format, args...).Error()} }
