// SPDX-License-Identifier: Apache-2.0

package sim

import "github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"

// database has rows that a key encrypts, each the number of the version whose value opens it, by key name. It keeps
// what the real worker keeps in its side schema: how far the work of each rotation is, so that a late worker cannot do
// what the rotation has gone back on (sidecar/reencrypt).
type database struct {
	w     *world
	rows  map[string][]int
	phase map[string]int // by rotation and key
}

var phases = map[workload.Phase]int{
	workload.PhaseStage: 1, workload.PhaseFlip: 2, workload.PhaseSweep: 2, workload.PhaseRevert: 3, workload.PhaseWipe: 4,
}

// work does a piece of work and counts.
func (d *database) work(task workload.Work) workload.WorkReport {
	job := task.Rotation + "/" + task.Key
	report := workload.WorkReport{ID: task.ID, Done: true}
	if phases[task.Phase] < d.phase[job] {
		return workload.WorkReport{ID: task.ID, Error: "the rotation has gone on"}
	}
	d.phase[job] = phases[task.Phase]
	rows := d.rows[task.Key]
	from, to := task.From, task.To
	if task.Phase == workload.PhaseRevert {
		from, to = task.To, task.From
	}
	count := workload.ColumnReport{Column: "t.c", Total: len(rows)}
	for n, version := range rows {
		if version == from && task.Phase != workload.PhaseStage && task.Phase != workload.PhaseWipe {
			rows[n] = to
		}
		if rows[n] == to {
			count.Rotated++
		} else {
			count.Left++
		}
	}
	if task.Phase != workload.PhaseWipe {
		report.Columns = []workload.ColumnReport{count}
	}
	d.w.changed = true
	d.w.logf("%s of %s: %d rows, %d left", task.Phase, task.Key, count.Total, count.Left)
	return report
}
