// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Facts are all that Next may know of the world.
type Facts struct {
	Now       time.Time
	Workloads []WorkloadFact                 // those that use a key of the rotation, sorted by name
	Progress  map[string]workload.WorkReport // of work under way, by Work.ID
	Ignored   map[string][]string            // columns that may keep envelopes of the old version, by key
	Witness   map[string]string              // the connection by which the engine looks at rows itself, or WitnessNone, by key
	Revisions map[string]uint64              // of connections by which the engine has looked at rows, or is to, by name
	Looks     map[string]Look                // of the engine's own, by Work.ID
	Sampled   bool                           // a server can be asked who uses an old version
	Dense     bool                           // all such servers can be sampled densely
	Observed  Observation
	Keeps     map[string]time.Duration // for how long the value that leaves is retained; 0: it is erased; by key

	// Grace is how long instances may still take to come back to an engine that has just started; 0: no longer. No
	// deadline is over before, since nobody could follow while the engine was away.
	Grace time.Duration
}

// WorkloadFact is a workload and its live instances, sorted by name.
type WorkloadFact struct {
	workload.Workload
	Instances []workload.Instance

	Given uint64 // how often instances had been given something else when Instances was taken
}

// GateResult is a gate's answer. Reason is in plain words, empty where it holds.
type GateResult struct {
	Name   string `json:"name"`
	Holds  bool   `json:"holds"`
	Reason string `json:"reason,omitempty"`
	Note   string `json:"note,omitempty"` // what a gate that holds has not looked at
}

// gate names a condition that must hold before a step can end.
type gate string

// The gates.
const (
	gateAction       gate = "action"
	gateMultiline    gate = "multiline"
	gateMinInstances gate = "min_instances"
	gateLoaded       gate = "loaded"
	gateProof        gate = "proof"
	gateHealthy      gate = "healthy"
	gateWriters      gate = "writers"
	gateRows         gate = "rows"
	gatePace         gate = "pace"
	gateSoak         gate = "soak"
	gateUnused       gate = "unused"
	gateObserved     gate = "observed"
	gateConfirmed    gate = "confirmed"
	gateDeadline     gate = "deadline"

	gatePaused gate = "paused" // before all others, wherever a rotation was paused
)

// checks maps each gate to a function that returns the reasons why the gate does not hold, and none if it holds.
var checks = map[gate]func(r Rotation, f Facts) []string{
	gateAction:       checkAction,
	gateMultiline:    CheckMultiline,
	gateMinInstances: checkMinInstances,
	gateLoaded:       checkLoaded,
	gateProof:        checkProof,
	gateHealthy:      checkHealthy,
	gateWriters:      checkWriters,
	gateRows:         CheckRows,
	gatePace:         checkPace,
	gateSoak:         checkSoak,
	gateUnused:       checkUnused,
	gateObserved:     checkObserved,
	gateConfirmed:    checkConfirmed,
	gateDeadline:     checkDeadline,
}

// cuttable are the gates that a compromised rotation does not wait for beyond its deadline. Never among them: what a
// server has to do, and rows with those who may still write them, since nobody could read rows that are left.
var cuttable = []gate{gateMinInstances, gateLoaded, gateProof, gateHealthy, gateSoak, gateUnused, gateObserved, gateConfirmed}

// cutSince begins the reason of a gate that was cut.
const cutSince = "cut, since the key is compromised"

// Gates checks the gates of the rotation's step.
func Gates(r Rotation, f Facts) (results []GateResult, open bool) {
	open = true
	if r.Paused != nil {
		open = false
		results = append(results, GateResult{Name: string(gatePaused), Reason: fmt.Sprintf(
			"paused by %s at %s: %s; go on with: vault write -f hyvve/rotations/%s/resume", r.Paused.By, Stamp(r.Paused.At), r.Paused.Reason, r.ID,
		)})
	}
	for _, g := range r.at().gates {
		if g == gateProof && !f.requiresProof() || g == gateConfirmed && !r.Confirm || g == gateDeadline && (r.Deadline == 0 || r.Compromised) {
			continue
		}
		reasons := checks[g](r, f)
		cut := len(reasons) > 0 && (r.cuts(g, f) || g == gateUnused && r.Compromised && !leased(r, f))
		result := GateResult{Name: string(g), Holds: len(reasons) == 0 || cut, Reason: strings.Join(reasons, "; ")}
		switch {
		case len(reasons) == 0 && slices.Contains(aboutInstances, g):
			result.Note = EmptyText(f)
		case cut:
			result.Reason = cutSince + ": " + result.Reason
		case !result.Holds && r.Compromised && r.cuttable(g):
			result.Reason += fmt.Sprintf(" (cut at %s)", Stamp(f.notBefore(r.Clock.Add(r.Deadline))))
		}
		results = append(results, result)
		open = open && result.Holds
	}
	return results, open
}

// cuts reports whether a compromised rotation continues although a gate does not hold.
func (r Rotation) cuts(g gate, f Facts) bool {
	return r.Compromised && r.cuttable(g) && !f.Now.Before(f.notBefore(r.Clock.Add(r.Deadline)))
}

// notBefore returns when a deadline is over: not while instances may still come back to an engine that has just started.
func (f Facts) notBefore(deadline time.Time) time.Time {
	if grace := f.Now.Add(f.Grace); f.Grace > 0 && grace.After(deadline) {
		return grace
	}
	return deadline
}

// cuttable reports whether a compromised rotation may go on without a gate. Where the keys want four eyes, one user alone
// cannot end the old version by saying that it is compromised.
func (r Rotation) cuttable(g gate) bool {
	return slices.Contains(cuttable, g) && (g != gateConfirmed || r.ConfirmBy != ConfirmByOther)
}

// Stamp returns a time as reasons write it.
func Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func checkConfirmed(r Rotation, f Facts) []string {
	if r.Confirmed != "" {
		return nil
	}
	if r.ConfirmBy == ConfirmByOther {
		return []string{fmt.Sprintf("another user than %s has to confirm that the old version may go (confirm_by=other): vault write -f hyvve/rotations/%s/confirm%s", r.starter(), r.ID, r.lossNote(f))}
	}
	return []string{fmt.Sprintf("somebody has to confirm that the old version may go: vault write -f hyvve/rotations/%s/confirm%s", r.ID, r.lossNote(f))}
}

// checkDeadline looks at how long the step takes. The soak time, and the time for which servers are observed, are not counted.
func checkDeadline(r Rotation, f Facts) []string {
	if f.Now.Before(f.notBefore(r.due())) {
		return nil
	}
	return []string{fmt.Sprintf("%s has taken longer than the deadline of %s", strings.TrimSpace(string(r.State)+" "+string(r.Step)), duration.Text(r.Deadline))}
}

// due is when the step's deadline is over, zero where it has none.
func (r Rotation) due() time.Time {
	if r.Deadline == 0 {
		return time.Time{}
	}
	due := r.Clock.Add(r.Deadline)
	if r.Step == StepSoak {
		return due.Add(r.Soak)
	}
	if r.Step == StepUnused {
		return due.Add(r.Window())
	}
	return due
}

func checkAction(r Rotation, f Facts) []string {
	switch {
	case r.Acted:
		return nil
	case r.Fault != "" && r.StillUsed:
		return []string{fmt.Sprintf("%s waits for the end of what it would cut off, next look at %s: %s; to look at once: vault write -f hyvve/rotations/%s/resume", r.at().action, Stamp(r.RetryAt), r.Fault, r.ID)}
	case r.Fault != "":
		return []string{fmt.Sprintf("%s failed %d times, next try at %s: %s%s", r.at().action, r.Attempts, Stamp(r.RetryAt), r.Fault, r.retryHint())}
	}
	if r.at().action == ActErase && len(CheckRows(r, f)) > 0 {
		return []string{"no value goes before the gate rows holds"}
	}
	return []string{fmt.Sprintf("%s is under way", r.at().action)}
}

func checkMinInstances(r Rotation, f Facts) []string {
	var reasons []string
	for _, w := range f.Workloads {
		if !r.awaits(w.Name) {
			continue
		}
		live := 0
		for _, i := range w.Instances {
			if !i.Anonymous {
				live++
			}
		}
		if live < w.MinInstances {
			reasons = append(reasons, fmt.Sprintf("%s: %d of at least %d instances are there; start its sidecars, or lower min_instances of hyvve/workloads/%s if it is meant to be absent", w.Name, live, w.MinInstances, w.Name))
		}
	}
	return reasons
}

func checkLoaded(r Rotation, f Facts) []string {
	var reasons []string
	for _, w := range f.Workloads {
		var late firstThree
		all := r.wants(w.Workload)
		for _, i := range w.Instances {
			if arrived(r, i, all) {
				continue
			}
			late.add(func() string { return fmt.Sprintf("%s, %s", i.ID, lacks(r, w.Workload, i, f.Now)) })
		}
		if late.n > 0 {
			reasons = append(reasons, fmt.Sprintf("%s: %d of %d instances not there yet: %s", w.Name, late.n, len(w.Instances), late))
		}
	}
	return reasons
}

// lacks says in words what keeps an instance.
func lacks(r Rotation, w workload.Workload, i workload.Instance, now time.Time) string {
	seen := fmt.Sprintf("last seen %s ago", duration.Text(now.Sub(i.Seen).Round(time.Second)))
	if i.Anonymous {
		return "a reader without instance=, holds an older bundle until its lease ends"
	}
	if r.StageOf(i.Name()) != r.at().target {
		return "waits for its wave"
	}
	if !i.Leaving.IsZero() {
		return missing(r, w, i) + "; " + LeavingText(i)
	}
	return missing(r, w, i) + ", " + seen
}

// missing says what an instance that has not loaded what it was given runs with, as far as is known.
func missing(r Rotation, w workload.Workload, i workload.Instance) string {
	loaded, ok := i.HoldsLoaded()
	for _, c := range r.Changes {
		role, uses := w.Keys[c.Key]
		if !ok || !uses {
			continue
		}
		want, have := heldAt(role, c, r.at().target), loaded.Keys[c.Key]
		switch {
		case have.Value != want.Value:
			return fmt.Sprintf("still holds version %d of %s", have.Value, c.Env)
		case !slices.Equal(have.Accepts, want.Accepts):
			return fmt.Sprintf("accepts versions %v of %s, should accept %v", have.Accepts, c.Env, want.Accepts)
		}
	}
	return "has read its bundle but not reported that it is loaded"
}

func checkHealthy(_ Rotation, f Facts) []string {
	var reasons []string
	for _, w := range f.Workloads {
		var unhealthy firstThree
		for _, i := range w.Instances {
			if !i.Anonymous && !i.Healthy {
				unhealthy.add(func() string { return i.ID + ": " + unhealthyReason(i) })
			}
		}
		if unhealthy.n > 0 {
			reasons = append(reasons, fmt.Sprintf("%s: %d of %d instances are not healthy: %s", w.Name, unhealthy.n, len(w.Instances), unhealthy))
		}
	}
	return reasons
}

func checkSoak(r Rotation, f Facts) []string {
	if r.SoakFrom.IsZero() {
		if r.Soak == 0 {
			return nil
		}
		return []string{"the soak time starts when every instance is healthy"}
	}
	if left := r.SoakFrom.Add(r.Soak).Sub(f.Now); left > 0 {
		return []string{fmt.Sprintf("%s of %s soak time left", duration.Text(left.Round(time.Second)), duration.Text(r.Soak))}
	}
	return nil
}

// checkUnused checks leases, since an instance that has received the old version may still present it, and the sightings of
// proxies, which show that some client presents it.
func checkUnused(r Rotation, f Facts) []string {
	reasons := checkLeases(r, f)
	for _, w := range f.Workloads {
		for _, c := range r.Changes {
			if seen := Sighted(w, c, f.Now); seen != "" {
				reasons = append(reasons, fmt.Sprintf("%s: %s", w.Name, seen))
			}
		}
	}
	return reasons
}

// leased reports whether an instance may still present an old version. If none does, only clients that the engine does not
// know present it. One of them may be who should not: it must not keep a compromised version accepted by presenting it.
func leased(r Rotation, f Facts) bool { return len(checkLeases(r, f)) > 0 }

func checkLeases(r Rotation, f Facts) []string {
	var reasons []string
	for _, w := range f.Workloads {
		for _, c := range r.Changes {
			var users firstThree
			for _, i := range w.Instances {
				if i.MayPresent(c.Key, c.From) {
					users.add(func() string {
						if !i.Leaving.IsZero() {
							return i.ID + ", " + LeavingText(i)
						}
						return i.ID
					})
				}
			}
			if users.n > 0 {
				reasons = append(reasons, fmt.Sprintf("%s: %d leases on version %d of %s are outstanding: %s", w.Name, users.n, c.From, c.Env, users))
			}
		}
	}
	return reasons
}

// firstThree lists the first three of n.
type firstThree struct {
	n     int
	words []string
}

func (l *firstThree) add(word func() string) {
	l.n++
	if len(l.words) < 3 {
		l.words = append(l.words, word())
	}
}

func (l firstThree) String() string {
	if more := l.n - len(l.words); more > 0 {
		return strings.Join(l.words, " | ") + fmt.Sprintf(" | and %d more", more)
	}
	return strings.Join(l.words, " | ")
}

// unhealthyReason returns why an instance is not healthy.
func unhealthyReason(i workload.Instance) string {
	if i.Reason == "" {
		return "has not reported yet"
	}
	return i.Reason
}

// Waits joins the reasons of the gates that do not hold.
func Waits(results []GateResult) string {
	var reasons []string
	for _, g := range results {
		if !g.Holds {
			reasons = append(reasons, g.Reason)
		}
	}
	return strings.Join(reasons, "; ")
}

// KeepText says what becomes of the value that leaves; empty where the facts do not say.
func (r Rotation) KeepText(c Change, f Facts) string {
	keep, ok := f.Keeps[c.Key]
	if !ok || r.Finished() {
		return ""
	}
	asked := ""
	if r.Retain != nil {
		asked = fmt.Sprintf(" (retain=%s of this rotation)", duration.Text(*r.Retain))
	}
	if keep == 0 {
		return fmt.Sprintf("the value of version %d is erased at the end, and not retained%s: it cannot be brought back", r.Leaving(c), asked)
	}
	return fmt.Sprintf("the value of version %d is retained for %s after its end, in no bundle%s", r.Leaving(c), duration.Text(keep), asked)
}

// lossNote tells a user who confirms which values cannot be brought back, or for a shorter or longer time than the keys say.
func (r Rotation) lossNote(f Facts) string {
	var all []string
	for _, c := range r.Changes {
		if keep, ok := f.Keeps[c.Key]; ok && (keep == 0 || r.Retain != nil) {
			all = append(all, c.Env+": "+r.KeepText(c, f))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, "; ") + ")"
}

// RetentionTexts returns, by key, what becomes of the value that a rotation replaces.
func (r Rotation) RetentionTexts(f Facts) map[string]string {
	texts := map[string]string{}
	for _, c := range r.Changes {
		if text := cmp.Or(r.Ends[c.Key], r.KeepText(c, f)); text != "" {
			texts[c.Key] = text
		}
	}
	return texts
}

// entering returns the timeline's text for entering a step, with what becomes of the values that are replaced.
func (r Rotation) entering(to step, f Facts) string {
	var all []string
	for _, c := range r.Changes {
		switch {
		case to.name == StepErase && r.KeepText(c, f) != "":
			all = append(all, c.Env+": "+r.KeepText(c, f))
		case (to.state == Done || to.state == Reverted) && r.Ends[c.Key] != "":
			all = append(all, c.Env+": "+r.Ends[c.Key])
		}
	}
	if r.Follow != nil && (to.state == Done || to.state == Reverted) {
		all = append(all, "rotation "+r.Follow.ID+" follows")
	}
	text := to.enter
	if to.name == StepSoak && r.Compromised {
		text = strings.Replace(text, "the soak time runs", "no soak time, since a version is compromised", 1)
	}
	return strings.Join(append([]string{text}, all...), "; ")
}

// EndText says what has become of the values that left.
func (r Rotation) EndText(k key.Key, c Change) string {
	numbers := []int{r.Leaving(c)}
	if r.State == Retiring {
		numbers = append(numbers, c.Also...)
	}
	var all []string
	for _, number := range numbers {
		if v, ok := k.Version(number); ok && v.State == key.Retained {
			all = append(all, fmt.Sprintf("the value of version %d is retained until %s", number, Stamp(v.Until)))
		} else {
			all = append(all, fmt.Sprintf("the value of version %d is erased", number))
		}
	}
	return strings.Join(all, ", ")
}
