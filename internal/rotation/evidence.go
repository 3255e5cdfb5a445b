// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Bounds of the evidence in a rotation's record, encoded, in bytes. Storage takes about 1 MiB in one entry. What a rotation
// still needs stays beyond maxEvidence: it grows with the columns that its keys protect, and not with what instances say.
const (
	maxEvidence = 32 << 10
	maxLookText = 8 << 10 // of finds, and again of tables that were not looked at, in one report
)

// UnseenBeyond stands for further tables that were not looked at, at the end of a list that was cut.
const UnseenBeyond = "… and others"

// leastWitnesses stay of each key, however long their reports are.
const leastWitnesses = 2

// encode writes a record. It leaves <, > and & as they are: escaped for HTML, what an instance says would take six times
// its bytes.
func encode(record any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(record)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// encodedSize is how many bytes a part of a record takes.
func encodedSize(part any) int {
	data, _ := encode(part) // the record itself is encoded later, with its error
	return len(data)
}

// looks reports whether a phase looks for envelopes in columns that nobody has configured.
func looks(phase workload.Phase) bool {
	return phase == workload.PhaseStage || phase == workload.PhaseSweep
}

// BoundedLook drops what a report says of columns that nobody has configured where its phase does not look for them, and cuts it
// where it is too long. Finds that hold the rotation stay longest, and those that are cut still hold it.
func BoundedLook(report workload.WorkReport, phase workload.Phase, ignored []string) workload.WorkReport {
	if !looks(phase) {
		report.Finds, report.MoreFinds, report.Unseen = nil, 0, nil
		return report
	}
	rank := func(f workload.Find) int {
		switch {
		case f.Opened > 0 && !slices.Contains(ignored, f.Column):
			return 0
		case f.Opened > 0:
			return 1
		}
		return 2
	}
	report.Finds = slices.Clone(report.Finds)
	slices.SortStableFunc(report.Finds, func(a, b workload.Find) int { return rank(a) - rank(b) })
	size := 0
	for n, f := range report.Finds {
		if size += encodedSize(f); size <= maxLookText {
			continue
		}
		for _, cut := range report.Finds[n:] {
			if rank(cut) == 0 {
				report.MoreFinds++
			}
		}
		report.Finds = report.Finds[:n]
		break
	}
	size = 0
	for n, text := range report.Unseen {
		if size += encodedSize(text); size > maxLookText {
			report.Unseen = append(slices.Clone(report.Unseen[:n]), UnseenBeyond)
			break
		}
	}
	return report
}

// Bounded returns the rotation with the evidence that its record may have. What nothing reads any more is dropped first, then
// witnesses beyond two of each key.
func (r Rotation) Bounded() Rotation {
	if r.evidenceSize() <= maxEvidence {
		return r
	}
	r = r.Clone()
	for _, c := range r.Changes {
		r.dropEarlier(c)
		r.dropDetails(c)
	}
	for r.evidenceSize() > maxEvidence && r.dropWitness() {
		continue
	}
	return r
}

func (r Rotation) evidenceSize() int { return encodedSize(r.Work) + encodedSize(r.Witnesses) }

// dropEarlier removes evidence of passes before the newest one of the same step. The maps are the rotation's own.
func (r Rotation) dropEarlier(c Change) {
	prefix := r.ID + "/" + c.Key + "/"
	stepOf := func(id string) string {
		step, _, _ := strings.Cut(strings.TrimPrefix(id, prefix), "/")
		return step
	}
	newest, at := map[string]string{}, map[string]time.Time{}
	for id, e := range r.Work {
		if step := stepOf(id); strings.HasPrefix(id, prefix) && e.At.After(at[step]) {
			newest[step], at[step] = id, e.At
		}
	}
	maps.DeleteFunc(r.Work, func(id string, _ Evidence) bool {
		return strings.HasPrefix(id, prefix) && id != newest[stepOf(id)] && id != r.WorkID(c)
	})
	shown := r.WitnessesOf(c)
	maps.DeleteFunc(r.Witnesses, func(id string, all []Evidence) bool {
		return strings.HasPrefix(id, prefix) && id != r.WorkID(c) && (len(all) == 0 || all[0].Report.ID != shown[0].Report.ID)
	})
}

// dropDetails shortens evidence of other steps than the present one to what is still read: the newest counts of rows, the newest
// look for other columns, and the newest place. The maps are the rotation's own.
func (r Rotation) dropDetails(c Change) {
	rows, look, place := "", "", ""
	newest := map[*string]time.Time{}
	note := func(kept *string, id string, at time.Time) {
		if at.After(newest[kept]) {
			*kept, newest[kept] = id, at
		}
	}
	prefix, current := r.ID+"/"+c.Key+"/", r.WorkID(c)
	_, lookedAt := r.lastLook(c)
	for id, e := range r.Work {
		if !strings.HasPrefix(id, prefix) {
			continue
		}
		if len(e.Report.Columns) > 0 {
			note(&rows, id, e.At)
		}
		if e.At.Equal(lookedAt) {
			look = id
		}
		if id != current && e.Report.Place != nil && e.Report.Done {
			note(&place, id, e.At)
		}
	}
	for id, e := range r.Work {
		if !strings.HasPrefix(id, prefix) || id == current {
			continue
		}
		e.Report.Error = ""
		if id != rows {
			e.Report.Columns = summary(e.Report.Columns)
		}
		if id != look {
			e.Report.Finds, e.Report.MoreFinds, e.Report.Unseen = nil, 0, nil
		}
		if id != place && e.Report.Place != nil {
			where := *e.Report.Place
			where.Tables = nil
			e.Report.Place = &where
		}
		r.Work[id] = e
	}
}

// summary is one line in place of several.
func summary(all []workload.ColumnReport) []workload.ColumnReport {
	if len(all) < 2 {
		return all
	}
	sum := workload.ColumnReport{Column: fmt.Sprintf("%d columns", len(all))}
	for _, c := range all {
		sum.Total, sum.Staged, sum.Rotated = sum.Total+c.Total, sum.Staged+c.Staged, sum.Rotated+c.Rotated
		sum.Left, sum.Other, sum.Bad = sum.Left+c.Left, sum.Other+c.Other, sum.Bad+c.Bad
	}
	return []workload.ColumnReport{sum}
}

// dropWitness removes the witness that says least of the key that has most, and reports whether there was one. The maps are the
// rotation's own.
func (r Rotation) dropWitness() bool {
	most := ""
	for id, all := range r.Witnesses {
		if len(all) > leastWitnesses && len(all) > len(r.Witnesses[most]) {
			most = id
		}
	}
	if most == "" {
		return false
	}
	r.Witnesses[most] = withoutWeakest(r.Witnesses[most])
	return true
}

// withoutWeakest removes a witness: the oldest of those that have opened no rows, or else the oldest. The engine's own word goes
// last.
func withoutWeakest(all []Evidence) []Evidence {
	weakest, least := 0, 3
	for n, e := range all {
		rank := 1
		switch {
		case e.Connection != "":
			rank = 2
		case !e.Report.Done || e.Report.Error != "" || e.Report.Place == nil:
			rank = 0
		}
		if rank < least {
			weakest, least = n, rank
		}
	}
	return slices.Delete(slices.Clone(all), weakest, weakest+1)
}

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
		return []string{fmt.Sprintf("rows were left %d times; both versions stay accepted for another %s. The timeline says who reported that none was left: if that instance errs or lies, end it; pause and resume the rotation to go on at once", r.Pass, duration.Text(left.Round(time.Second)))}
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
		text += fmt.Sprintf("; %.0f rows/s, about %s left", progress.Rate, duration.Text(left))
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
