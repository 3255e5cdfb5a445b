// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Next is the machine, a pure function. It returns the rotation after one transition, or paused or reverting because it has
// failed, or with more instances granted their change, or as it was. It also returns the gates of the step of r.
func Next(r Rotation, f Facts) (next Rotation, results []GateResult, changed bool) {
	if r.Finished() {
		return r, nil, false
	}
	r, noted := r.reached(f)
	results, open := Gates(r, f)
	if noted {
		return r, results, true
	}
	if r.Paused != nil {
		return r, results, false
	}
	if reason := failure(r, f); reason != "" {
		return failed(r, f, reason), results, true
	}
	if returned, ok := goBack(r, f); ok {
		return returned, results, true
	}
	if granted, ok := grant(r, f); ok {
		return granted, results, true
	}
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
	event := Event{Text: r.entering(to, f)}
	if cut := cutReasons(results); cut != "" {
		event.Reason = cut
		event.Text = strings.Replace(event.Text, enterUnused, enterCut, 1)
	}
	return Pinned(r, f).recorded(f, results).moved(to, f.Now, event), results, true
}

// Words on entering the step in which those that verify drop the old version: where all gates held, and where some were cut, so that
// nobody knows who uses it.
const (
	enterUnused = "nobody uses the old version; those that verify drop it"
	enterCut    = "those that verify drop the old version"
)

func cutReasons(results []GateResult) string {
	var cut []string
	for _, g := range results {
		if g.Holds && g.Reason != "" {
			cut = append(cut, g.Reason)
		}
	}
	return strings.Join(cut, "; ")
}

// failure says why a rotation that can still go back has failed, if it has. A compromised one never fails: it cuts.
func failure(r Rotation, f Facts) string {
	if _, canRevert := r.at().revert.to(); !canRevert || r.Compromised {
		return ""
	}
	if due := r.due(); !due.IsZero() && !f.Now.Before(f.notBefore(due)) {
		return checkDeadline(r, f)[0]
	}
	if r.State != Presenting {
		return ""
	}
	for _, w := range f.Workloads {
		for _, i := range w.Instances {
			if i.Anonymous || i.Healthy || !i.Judged.After(r.Clock) || r.StageOf(i.Name()) != r.at().target {
				continue
			}
			if heldIs(i.Issued.Keys, r.expected(w.Workload, r.at().target)) {
				return fmt.Sprintf("%s is not healthy with what it was given: %s", i.Name(), unhealthyReason(i))
			}
		}
	}
	return ""
}

// failed returns the rotation paused, or on its way back.
func failed(r Rotation, f Facts, reason string) Rotation {
	if r.OnFailure == FailureRevert {
		if reverted, err := Revert(r, f, Itself, reason); err == nil {
			return reverted
		}
	}
	return paused(r, f.Now, Itself, reason)
}

func paused(r Rotation, now time.Time, by Actor, reason string) Rotation {
	r = r.told(now, said("paused", reason, by))
	r.Paused = &Pause{At: now, By: by.Name, Reason: reason}
	return r
}

// Pinned records the stage of instances that joined in this step, so that the next step takes them in waves, too.
func Pinned(r Rotation, f Facts) Rotation {
	r = r.Clone()
	for _, w := range f.Workloads {
		for _, i := range w.Instances {
			if _, ok := r.Stages[i.Name()]; !ok && !i.Anonymous {
				r.Stages[i.Name()] = r.at().target
			}
		}
	}
	return r
}

// soakClock starts the soak time when all are healthy, and starts it again after one was not.
func soakClock(r Rotation, f Facts, results []GateResult) (Rotation, bool) {
	if r.Step != StepSoak || r.Soak == 0 {
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
		r = r.Clone()
		r.SoakFrom = f.Now
		return r, true
	case !healthy && !r.SoakFrom.IsZero():
		r = r.Clone()
		r.SoakFrom = time.Time{}
		return r, true
	}
	return r, false
}

// Revert returns the rotation on its way back. Refused once the old version may be gone.
func Revert(r Rotation, f Facts, by Actor, reason string) (Rotation, error) {
	if r.Finished() {
		return r, Refusef("rotation %s is %s; to go back to an earlier value, rotate again with value=%s", r.ID, r.State, r.undeleteHint())
	}
	if r.State == Reverting {
		return r, Refusef("rotation %s is being reverted already", r.ID)
	}
	to, ok := r.towards(r.at().revert)
	if !ok {
		return r, Refusef("rotation %s is retiring the old version: there is no way back any more; when it has ended, rotate again%s", r.ID, r.undeleteHint())
	}
	r = Pinned(r, f).moved(to, f.Now, said("revert: "+to.enter, reason, by))
	r.Paused = nil
	return r, nil
}

// Revertible reports whether a revert takes it back from where it is.
func (r Rotation) Revertible() bool {
	_, ok := r.at().revert.to()
	return ok
}

// undeleteHint says how old versions are accepted again that the rotation has retired, or is retiring.
func (r Rotation) undeleteHint() string {
	if r.State == Reverted {
		return ""
	}
	var commands []string
	for _, c := range r.Changes {
		commands = append(commands, fmt.Sprintf("vault write hyvve/keys/%s/undelete version=%d", c.Key, c.From))
	}
	return "; while the old value is retained, it is accepted again beside the new one with: " + strings.Join(commands, ", ")
}

// PauseBy returns the rotation paused.
func PauseBy(r Rotation, now time.Time, by Actor, reason string) (Rotation, error) {
	switch {
	case r.Finished():
		return r, Refusef("rotation %s is %s; there is nothing to pause", r.ID, r.State)
	case r.Paused != nil:
		return r, Refusef("rotation %s is paused already, by %s: %s", r.ID, r.Paused.By, r.Paused.Reason)
	}
	if reason == "" {
		reason = "no reason given"
	}
	return paused(r, now, by, reason), nil
}

// Resume returns the rotation without its pause. Its deadline begins to run again, and so does its soak time. Where it is not paused
// and its last attempt at a server has failed, the next one is due now.
func Resume(r Rotation, f Facts, by Actor, reason string) (Rotation, error) {
	now := f.Now
	switch {
	case r.Finished():
		return r, Refusef("rotation %s is %s; there is nothing to resume", r.ID, r.State)
	case r.Paused == nil && (r.failing() || f.LookFailing()):
		return r.told(now, said("tried again at once", reason, by)).Retried(now), nil
	case r.Paused == nil:
		return r, Refusef("rotation %s is not paused; see what it waits for with: vault read hyvve/rotations/%s", r.ID, r.ID)
	}
	r = r.told(now, said("resumed", reason, by))
	r.Paused, r.Clock, r.SoakFrom = nil, now, time.Time{}
	return r.Retried(now), nil
}

// failing reports whether the last attempt at what the step asks of a server has failed.
func (r Rotation) failing() bool { return r.Fault != "" && !r.Acted }

// Retried returns the rotation with the next attempt due now, if the last one has failed.
func (r Rotation) Retried(now time.Time) Rotation {
	if r.failing() {
		r.RetryAt, r.Attempts = now, 1
	}
	return r
}

// retryHint says how an attempt that has failed is made again at once, as the tail of a sentence.
func (r Rotation) retryHint() string {
	return fmt.Sprintf("; to try again at once: vault write -f hyvve/rotations/%s/resume", r.ID)
}

// Confirm returns the rotation confirmed: somebody has looked, and the old version may go.
func Confirm(r Rotation, now time.Time, by Actor, reason string) (Rotation, error) {
	switch {
	case r.Finished():
		return r, Refusef("rotation %s is %s; there is nothing to confirm any more", r.ID, r.State)
	case !r.Confirm:
		return r, Refusef("rotation %s does not wait for a confirmation; confirm=manual of the key or of rotate asks for one", r.ID)
	case r.Confirmed != "":
		return r, Refusef("rotation %s is confirmed already, by %s", r.ID, r.Confirmed)
	case r.State != Soaking:
		return r, Refusef("rotation %s is %s; confirm it when the new version is in use everywhere, while it is soaking", r.ID, r.State)
	}
	text := "confirmed"
	if r.ConfirmBy == ConfirmByOther {
		if err := r.mayConfirm(by); err != nil {
			return r, err
		}
		text = "confirmed by another user than the one who started it, " + r.starter()
		if r.ChangedBy != nil {
			text = "confirmed by another user than the one who escalated or tuned it, " + r.starter()
		}
	}
	r = r.told(now, said(text, reason, by))
	r.Confirmed = by.Name
	return r, nil
}

// WorkID identifies the work of this step for one key. It changes with the step and the pass, so that evidence never counts
// for an earlier one.
func (r Rotation) WorkID(c Change) string {
	id := fmt.Sprintf("%s/%s/%s-%s", r.ID, c.Key, r.State, r.Step)
	if r.Pass > 0 {
		id += fmt.Sprintf("/%d", r.Pass)
	}
	return id
}

// WorkFor returns the work that the step asks of instances that re-encrypt.
func (r Rotation) WorkFor(c Change) (workload.Work, bool) {
	p := r.at()
	if p.phase == "" || len(c.Protects) == 0 || p.phase == workload.PhaseCheck && !r.Presented() {
		return workload.Work{}, false
	}
	return workload.Work{
		ID: r.WorkID(c), Rotation: r.ID, Key: c.Key, Env: c.Env, Phase: p.phase,
		From: c.From, To: c.To, Columns: c.Protects, Upgrade: r.Upgrade, Pass: r.Pass,
	}, true
}

// WakeAt is when time alone may change something, zero if never.
func (r Rotation) WakeAt() time.Time {
	if r.Paused != nil {
		return time.Time{}
	}
	var at time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	sooner(r.RetryAt)
	sooner(r.due())
	if r.Step == StepSoak && !r.SoakFrom.IsZero() {
		sooner(r.SoakFrom.Add(r.Soak))
	}
	sooner(r.paceEnd())
	return at
}

// Refused is an error that the caller can mend: it says what is wrong and what to do, and nothing was changed.
type Refused struct{ text string }

func (e *Refused) Error() string { return e.text }

// Refusef makes a Refused.
func Refusef(format string, args ...any) error { return &Refused{fmt.Errorf(format, args...).Error()} }

// Further calls Next until nothing changes. The steps between need no record of their own: no instance has seen them. It also
// returns the gates of the step where the rotation stays.
func Further(r Rotation, f Facts) (stays Rotation, results []GateResult, moved bool) {
	for {
		next, results, changed := Next(r, f)
		if !changed {
			return r, results, moved
		}
		r, moved = next, true
	}
}
