// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"
	"strconv"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// database has rows that a key encrypts, each the number of the version whose value opens it, by key name. It keeps
// what the real worker keeps in its side schema: how far the work of each rotation is, so that a late worker cannot do
// what the rotation has gone back on (sidecar/reencrypt).
type database struct {
	w    *world
	rows map[string][]int
	rank map[string]int // of the newest work, by rotation and key

	flipped map[string]bool // rotations and keys of which some rows were under the new version
	stray   map[string]bool // keys with a row that nobody who is left has written, or of a backup; it need not open everywhere
}

// work does a piece of work and counts.
func (d *database) work(task workload.Work, accepts []int) workload.WorkReport {
	job := task.Rotation + "/" + task.Key
	report := workload.WorkReport{ID: task.ID, Done: true}
	if task.Rank() < d.rank[job] {
		return workload.WorkReport{ID: task.ID, Error: "the rotation has gone on"}
	}
	d.commitLate(task, accepts)
	d.rank[job] = max(d.rank[job], task.Rank())
	rows := d.rows[task.Key]
	to := task.To
	d.flipped[job] = d.flipped[job] || task.Phase == workload.PhaseFlip
	if task.Phase == workload.PhaseRevert || task.Phase == workload.PhaseCheck && accepts[0] == task.From {
		to = task.From
	}
	count := workload.ColumnReport{Column: "t.c", Total: len(rows)}
	for n, version := range rows {
		if version != to && slices.Contains(accepts, version) && replaces[task.Phase] { // those of undeleted versions, too
			rows[n] = to
		}
		switch {
		case rows[n] == to:
			count.Rotated++
		case task.Phase == workload.PhaseCheck && slices.Contains(accepts, rows[n]):
			count.Other++
		case task.Phase == workload.PhaseCheck: // it opens under nothing that is at hand
			count.Bad++
		default:
			count.Left++
		}
	}
	if replaces[task.Phase] {
		delete(d.stray, task.Key)
	}
	if task.Phase != workload.PhaseWipe {
		report.Columns, report.Place = []workload.ColumnReport{count}, place(1)
	}
	d.w.changed = true
	d.w.logf("%s of %s: %d rows, %d left", task.Phase, task.Key, count.Total, count.Left+count.Bad)
	if replaces[task.Phase] || task.Phase == workload.PhaseWipe { // what it has just made sure of, somebody may undo
		d.w.writeSoon()
	}
	return report
}

// place is a database; 1 is the only one that there is.
func place(system int) *workload.Place {
	return &workload.Place{System: strconv.Itoa(system), Database: "hyvve", OID: 5, Primary: true, Tables: []workload.PlaceTable{{Column: "t.c", OID: 7}}}
}

// commitLate commits a transaction, now and then, that an instance which is gone had begun: between the last pass over the
// rows and the end of the version that goes, a row is under it again.
func (d *database) commitLate(task workload.Work, accepts []int) {
	rows := d.rows[task.Key]
	flipped := d.flipped[task.Rotation+"/"+task.Key]
	if task.Phase != workload.PhaseWipe || d.w.calm || !flipped || len(accepts) == 0 || !d.w.chance(25) {
		return
	}
	leaving := task.From + task.To - accepts[0]
	rows[d.w.rng.IntN(len(rows))], d.stray[task.Key] = leaving, true
	d.w.logf("a late transaction writes a row of %s under version %d", task.Key, leaving)
}

// replaces are the phases that bring rows from one version to the other.
var replaces = map[workload.Phase]bool{workload.PhaseFlip: true, workload.PhaseSweep: true, workload.PhaseRevert: true}
