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
