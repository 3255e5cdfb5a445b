// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// CheckRows wants a report that the step's work is done and that no row is left.
func CheckRows(r Rotation, f Facts) []string {
	var reasons []string
	for _, c := range r.Changes {
		if len(c.Protects) == 0 || r.at().phase == workload.PhaseCheck && !r.Presented() {
			continue
		}
		if r.at().phase == workload.PhaseCheck {
			reasons = append(reasons, checkWitnesses(r, c, f)...)
			continue
		}
		id := r.WorkID(c)
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
		case RowsLeft(r, c) != "":
			reasons = append(reasons, RowsLeft(r, c))
		case bad > 0:
			reasons = append(reasons, fmt.Sprintf("%s: %d rows open under no key that %s holds: %s; mend or delete them", c.Env, bad, evidence.Instance, columns(evidence.Report)))
		case left > 0 && r.at().phase != workload.PhaseStage:
			reasons = append(reasons, fmt.Sprintf("%s: %d rows left: %s", c.Env, left, columns(evidence.Report)))
		case r.at().phase == workload.PhaseSweep:
			reasons = append(reasons, unconfigured(r, c, evidence.Report, f.Ignored[c.Key])...)
		}
	}
	return reasons
}

// RowsLeft says which rows do not open under the version that stays, by the report in a step that can go back for them.
// Empty: none, or there is no such report.
func RowsLeft(r Rotation, c Change) string {
	_, canGoBack := r.at().left.to()
	if !canGoBack {
		return ""
	}
	id := r.WorkID(c)
	for _, evidence := range append([]Evidence{r.Work[id]}, r.Witnesses[id]...) {
		if left, bad := evidence.Report.Left(); evidence.Report.Done && left+bad > 0 {
			return fmt.Sprintf("%s: %d rows do not open under version %d, by %s: %s", c.Env, left+bad, r.Staying(c), evidence.Witness(), columns(evidence.Report))
		}
	}
	return ""
}

// goBack returns the rotation on its way back to where rows that were left are re-encrypted, if a report says that there
// are some. Nothing is lost so far: the version that they need has not been erased.
func goBack(r Rotation, f Facts) (Rotation, bool) {
	to, ok := r.at().left.to()
	if !ok {
		return r, false
	}
	var reasons []string
	for _, c := range r.Changes {
		if reason := RowsLeft(r, c); reason != "" {
			reasons = append(reasons, reason+r.saidDone(c))
		}
	}
	if len(reasons) == 0 {
		return r, false
	}
	r = Pinned(r, f)
	r.Pass++
	r.OneWitness = "" // what was accepted is out of date
	return r.moved(to, f.Now, Event{Text: to.enter, Reason: strings.Join(reasons, "; ")}), true
}

// saidDone names who has reported that the rows were brought over, as the tail of a sentence: an instance that lies, or looks at
// another database, is found so.
func (r Rotation) saidDone(c Change) string {
	var last Evidence
	for id, e := range r.Work {
		if id != r.WorkID(c) && strings.HasPrefix(id, r.ID+"/"+c.Key+"/") && e.Report.Done && len(e.Report.Columns) > 0 && e.At.After(last.At) {
			last = e
		}
	}
	if last.Instance == "" {
		return ""
	}
	return fmt.Sprintf(" (%s had reported that none was left)", last.Instance)
}

// Bounds of how long both versions stay accepted after rows were left again. Each round lets all instances load twice.
const (
	firstPace = 5 * time.Second
	maxPace   = time.Hour
)

// paceEnd is when the version that goes may be dropped again after rows were left; zero: at once. It is only late from the second
// time on: rows that are left again and again are those of an instance that lies, or still writes. One that was resumed continues.
func (r Rotation) paceEnd() time.Time {
	if r.Step != StepRows || r.Pass < 2 || r.Clock.After(r.Since) {
		return time.Time{}
	}
	return r.Since.Add(min(firstPace<<min(r.Pass-2, 12), maxPace))
}

// checkPace waits longer each time that rows were left.
func checkPace(r Rotation, f Facts) []string {
	if left := r.paceEnd().Sub(f.Now); !r.paceEnd().IsZero() && left > 0 {
		return []string{fmt.Sprintf("rows were left %d times; both versions stay accepted for another %s. The timeline says who reported that none was left: if that instance errs or lies, end it; pause and resume the rotation to go on at once", r.Pass, left.Round(time.Second))}
	}
	return nil
}

// NobodyReencrypts says that no live instance would re-encrypt the rows of a change, and what to start; empty: one would.
func NobodyReencrypts(c Change, f Facts) string {
	var names []string
	for _, w := range f.Workloads {
		if !w.Reencrypts || !w.Keys[c.Key].AcceptsBoth() {
			continue
		}
		if slices.ContainsFunc(w.Instances, func(i workload.Instance) bool { return !i.Anonymous }) {
			return ""
		}
		names = append(names, w.Name)
	}
	if len(c.Protects) == 0 {
		return ""
	}
	return fmt.Sprintf("no live instance re-encrypts its rows, and the rotation waits for one; start a sidecar with a reencrypt block for workload %s", strings.Join(names, " or "))
}

// Staying is the version of a change that remains when the rotation has ended, as far as is decided.
func (r Rotation) Staying(c Change) int {
	if r.State == Reverting || r.State == Reverted {
		return c.From
	}
	return c.To
}

// Leaving is the other one.
func (r Rotation) Leaving(c Change) int { return c.From + c.To - r.Staying(c) }

// Presented reports whether any instance was ever let present the new version. Before, no row can be under it.
func (r Rotation) Presented() bool {
	return r.State != Reverting || slices.ContainsFunc(r.Timeline, func(e Event) bool { return e.State == Presenting })
}

// checkWriters looks at who may still write rows under the version that goes: a check of the rows is no evidence before
// they have stopped.
func checkWriters(r Rotation, f Facts) []string {
	var reasons []string
	for _, w := range f.Workloads {
		for _, c := range r.Changes {
			var writers firstThree
			for _, i := range w.Instances {
				if len(c.Protects) > 0 && i.MayPresent(c.Key, r.Leaving(c)) {
					writers.add(func() string { return i.ID })
				}
			}
			if writers.n > 0 {
				reasons = append(reasons, fmt.Sprintf(
					"%s: %d instances may still write rows under version %d of %s: %s; wait until they have loaded their bundles or their leases have ended, or end them",
					w.Name, writers.n, r.Leaving(c), c.Env, writers))
			}
		}
	}
	return reasons
}

// unconfigured says where there are envelopes that would be lost with the old version.
func unconfigured(r Rotation, c Change, report workload.WorkReport, ignored []string) (reasons []string) {
	for _, f := range report.Finds {
		if f.Opened == 0 || slices.Contains(ignored, f.Column) {
			continue
		}
		reason := fmt.Sprintf("%s: %s holds envelopes of version %d and is not among the columns that key %s protects (%d of %d strings tried open, %d rows have such strings)",
			c.Env, f.Column, c.From, c.Key, f.Opened, f.Tried, f.Shaped)
		if f.JSON {
			reason += "; they stand in JSON, which cannot be re-encrypted: move them to a text column"
		} else {
			reason += fmt.Sprintf("; revert with hyvve/rotations/%s/revert, add the column to protects, and rotate again", r.ID)
		}
		reasons = append(reasons, fmt.Sprintf("%s; or, if they may be lost: vault write hyvve/keys/%s ignore_columns=%s", reason, c.Key, strings.Join(append(slices.Clone(ignored), f.Column), ",")))
	}
	if report.MoreFinds > 0 {
		reasons = append(reasons, fmt.Sprintf("%s: %d more columns hold envelopes of version %d and are cut from the report, which is too long; see to those that it names, and the next report names others", c.Env, report.MoreFinds, c.From))
	}
	return reasons
}

func waiting(c Change, phase workload.Phase, progress workload.WorkReport) string {
	if len(progress.Columns) == 0 {
		return fmt.Sprintf("%s: waiting for an instance that re-encrypts to %s its rows", c.Env, phase)
	}
	text := fmt.Sprintf("%s: %s is under way: %s", c.Env, phase, columns(progress))
	if left, ok := TimeLeft(progress); ok {
		text += fmt.Sprintf("; %.0f rows/s, about %s left", progress.Rate, left)
	}
	return text
}

// TimeLeft is how long work under way will take at its present rate.
func TimeLeft(progress workload.WorkReport) (time.Duration, bool) {
	if progress.Done || progress.Rate <= 0 {
		return 0, false
	}
	return time.Duration(float64(progress.Remaining()) / progress.Rate * float64(time.Second)).Round(time.Second), true
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
