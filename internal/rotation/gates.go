// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Facts are all that Next may know of the world.
type Facts struct {
	Now       time.Time
	Workloads []WorkloadFact                 // those that use a key of the rotation, sorted by name
	Progress  map[string]workload.WorkReport // of work under way, by Work.ID
	WaitUntil time.Time                      // until then, instances that took part and are gone may come back
}

// WorkloadFact is a workload and its live instances, sorted by name.
type WorkloadFact struct {
	workload.Workload
	Instances []workload.Instance
}

// GateResult is a gate's answer. Reason is in plain words, empty where it holds.
type GateResult struct {
	Name   string `json:"name"`
	Holds  bool   `json:"holds"`
	Reason string `json:"reason,omitempty"`
}

// gate names a condition that the table puts before leaving a place.
type gate string

// The gates.
const (
	gateAction       gate = "action"
	gateMinInstances gate = "min_instances"
	gateReturned     gate = "returned"
	gateLoaded       gate = "loaded"
	gateHealthy      gate = "healthy"
	gateRows         gate = "rows"
	gateSoak         gate = "soak"
	gateUnused       gate = "unused"
)

// checks gives the reasons why a gate does not hold, none if it does.
var checks = map[gate]func(r Rotation, f Facts) []string{
	gateAction:       checkAction,
	gateMinInstances: checkMinInstances,
	gateReturned:     checkReturned,
	gateLoaded:       checkLoaded,
	gateHealthy:      checkHealthy,
	gateRows:         checkRows,
	gateSoak:         checkSoak,
	gateUnused:       checkUnused,
}

// gates asks those of the rotation's place.
func gates(r Rotation, f Facts) (results []GateResult, open bool) {
	open = true
	for _, g := range r.at().gates {
		reasons := checks[g](r, f)
		results = append(results, GateResult{string(g), len(reasons) == 0, strings.Join(reasons, "; ")})
		open = open && len(reasons) == 0
	}
	return results, open
}

func checkAction(r Rotation, _ Facts) []string {
	switch {
	case r.Acted:
		return nil
	case r.Fault != "":
		return []string{fmt.Sprintf("%s failed %d times, next try at %s: %s", r.at().action, r.Attempts, r.RetryAt.UTC().Format(time.RFC3339), r.Fault)}
	}
	return []string{fmt.Sprintf("%s is under way", r.at().action)}
}

func checkMinInstances(_ Rotation, f Facts) []string {
	var reasons []string
	for _, w := range f.Workloads {
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

// checkReturned waits a while for instances that took part and are not live. Leases that ended while Vault was sealed or
// away say nothing of their instances: these come back when Vault does, and must not find that it went on without them.
func checkReturned(r Rotation, f Facts) []string {
	if !f.Now.Before(f.WaitUntil) {
		return nil
	}
	live := map[string]bool{}
	for _, w := range f.Workloads {
		for _, i := range w.Instances {
			live[i.Name()] = true
		}
	}
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(r.Positions)) {
		if !live[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the engine has just started, and %d instances that took part are not back: %s; they are waited for until %s", len(missing), some(missing), f.WaitUntil.UTC().Format(time.RFC3339))}
}

func checkLoaded(r Rotation, f Facts) []string {
	var reasons []string
	for _, w := range f.Workloads {
		var late []string
		for _, i := range w.Instances {
			if (i.Anonymous || r.Position(i.Name()) == r.at().target) && holds(r, w.Workload, i, r.at().target) {
				continue
			}
			late = append(late, fmt.Sprintf("%s, %s", i.ID, lacks(r, w.Workload, i, f.Now)))
		}
		if len(late) > 0 {
			reasons = append(reasons, fmt.Sprintf("%s: %d of %d instances not there yet: %s", w.Name, len(late), len(w.Instances), some(late)))
		}
	}
	return reasons
}

// lacks says in words what keeps an instance.
func lacks(r Rotation, w workload.Workload, i workload.Instance, now time.Time) string {
	seen := fmt.Sprintf("last seen %s ago", now.Sub(i.Seen).Round(time.Second))
	if i.Anonymous {
		return "a reader without instance=, holds an older bundle until its lease ends"
	}
	if r.Position(i.Name()) != r.at().target {
		return "waits for its wave"
	}
	loaded, ok := i.HoldsLoaded()
	if !ok {
		return "has read its bundle but not reported that it is loaded, " + seen
	}
	for _, c := range r.Changes {
		role, uses := w.Keys[c.Key]
		if !uses {
			continue
		}
		want, have := heldAt(role, c, r.at().target), loaded.Keys[c.Key]
		switch {
		case have.Value != want.Value:
			return fmt.Sprintf("still holds version %d of %s, %s", have.Value, c.Env, seen)
		case !slices.Equal(have.Accepts, want.Accepts):
			return fmt.Sprintf("accepts versions %v of %s, should accept %v, %s", have.Accepts, c.Env, want.Accepts, seen)
		}
	}
	return seen
}

func checkHealthy(_ Rotation, f Facts) []string {
	var reasons []string
	for _, w := range f.Workloads {
		var ill []string
		for _, i := range w.Instances {
			if !i.Anonymous && !i.Healthy {
				reason := i.Reason
				if reason == "" {
					reason = "has not reported yet"
				}
				ill = append(ill, i.ID+": "+reason)
			}
		}
		if len(ill) > 0 {
			reasons = append(reasons, fmt.Sprintf("%s: %d of %d instances are not healthy: %s", w.Name, len(ill), len(w.Instances), some(ill)))
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
		return []string{fmt.Sprintf("%s of %s soak time left", left.Round(time.Second), r.Soak)}
	}
	return nil
}

// checkUnused looks at leases: an instance that was given the old version may still present it.
func checkUnused(r Rotation, f Facts) []string {
	var reasons []string
	for _, w := range f.Workloads {
		for _, c := range r.Changes {
			var users []string
			for _, i := range w.Instances {
				if i.MayPresent(c.Key, c.From) {
					users = append(users, i.ID)
				}
			}
			if len(users) > 0 {
				reasons = append(reasons, fmt.Sprintf("%s: %d leases on version %d of %s are outstanding: %s", w.Name, len(users), c.From, c.Env, some(users)))
			}
		}
	}
	return reasons
}

// checkRows wants a report that the place's work is done and that no row is left.
func checkRows(r Rotation, f Facts) []string {
	var reasons []string
	for _, c := range r.Changes {
		if len(c.Protects) == 0 {
			continue
		}
		id := r.workID(c)
		evidence, ok := r.Work[id]
		if !ok {
			reasons = append(reasons, waiting(c, r.at().phase, f.Progress[id]))
			continue
		}
		left, bad := evidence.Report.Left()
		switch {
		case evidence.Report.Error != "":
			reasons = append(reasons, fmt.Sprintf("%s: %s by %s failed: %s", c.Env, r.at().phase, evidence.Instance, evidence.Report.Error))
		case !evidence.Report.Done:
			reasons = append(reasons, waiting(c, r.at().phase, evidence.Report))
		case r.at().phase == workload.PhaseWipe:
		case bad > 0:
			reasons = append(reasons, fmt.Sprintf("%s: %d rows open under no key that %s holds: %s; mend or delete them", c.Env, bad, evidence.Instance, columns(evidence.Report)))
		case left > 0 && r.at().phase != workload.PhaseStage:
			reasons = append(reasons, fmt.Sprintf("%s: %d rows left: %s", c.Env, left, columns(evidence.Report)))
		}
	}
	return reasons
}

func waiting(c Change, phase workload.Phase, progress workload.WorkReport) string {
	if len(progress.Columns) == 0 {
		return fmt.Sprintf("%s: waiting for an instance that re-encrypts to %s its rows", c.Env, phase)
	}
	return fmt.Sprintf("%s: %s is under way: %s", c.Env, phase, columns(progress))
}

// columns says how far each column is.
func columns(report workload.WorkReport) string {
	var parts []string
	for _, c := range report.Columns {
		text := fmt.Sprintf("%s %d rows, %d staged, %d rotated, %d left", c.Column, c.Total, c.Staged, c.Rotated, c.Left)
		if c.Bad > 0 {
			text += fmt.Sprintf(", %d unreadable", c.Bad)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// some lists at most three.
func some(items []string) string {
	const most = 3
	if len(items) > most {
		return strings.Join(items[:most], " | ") + fmt.Sprintf(" | and %d more", len(items)-most)
	}
	return strings.Join(items, " | ")
}
