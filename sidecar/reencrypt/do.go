// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Do does the work that the engine asks of an instance. accepts are those of its bundle: by environment name, the new
// value first, the old one second, then those of undeleted versions, which are old, too. The report counts rows; an error is what kept the work from being done, and holds no
// value. Doing work again that is done costs little and changes nothing.
func (w *Worker) Do(ctx context.Context, work workload.Work, accepts map[string][]key.Value) (report workload.WorkReport, err error) {
	report.ID = work.ID
	t, err := taskOf(work, accepts)
	if err != nil {
		return report, err
	}
	j, err := w.open(ctx, t)
	if err != nil {
		return report, err
	}
	defer j.close()
	if len(j.tables) > 0 {
		report.Place = &j.place
	}
	defer func() { j.asAsked(work.Columns, &report) }()
	switch work.Phase {
	case workload.PhaseCount: // nothing is rotated
		clear(w.rings)
		report.Columns, err = j.countRows(ctx)
		report.Done = err == nil
		return report, err
	case workload.PhaseCheck:
		report.Columns, err = j.countAll(ctx, j.ring, false)
		if err == nil {
			err = j.stayed(ctx)
		}
		report.Done = err == nil
		if left, bad := report.Left(); report.Done && left+bad == 0 {
			clear(w.rings)
		}
		return report, err
	case workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep, workload.PhaseRevert, workload.PhaseWipe:
	}
	var looked found
	report.Columns, looked, err = j.evident(ctx, work.Phase)
	report.Finds, report.Unseen = looked.Finds, looked.Unseen
	report.Done = err == nil
	return report, err
}

// asAsked names columns in a report as they were asked for: without the schema that the database URL has for those that name none.
func (j *job) asAsked(columns []key.Column, report *workload.WorkReport) {
	names := map[string]string{}
	for n, t := range j.tables {
		names[t.column.String()] = columns[n].String()
	}
	report.Columns = slices.Clone(report.Columns)
	for n, c := range report.Columns {
		report.Columns[n].Column = cmp.Or(names[c.Column], c.Column)
	}
	if report.Place != nil {
		place := *report.Place
		place.Tables = slices.Clone(place.Tables)
		for n, t := range place.Tables {
			place.Tables[n].Column = cmp.Or(names[t.Column], t.Column)
		}
		report.Place = &place
	}
}

// stayed refuses counts of rows where a further connection may have led to another database: an address may move meanwhile.
func (j *job) stayed(ctx context.Context) error {
	columns := make([]key.Column, 0, len(j.tables))
	for _, t := range j.tables {
		columns = append(columns, t.column)
	}
	_, now, err := describe(ctx, j.db, columns, j.options)
	if err != nil {
		return err
	}
	if how := now.Differs(j.place); how != "" {
		return fmt.Errorf("the database URL has led to two databases while rows were counted: %s; the count is made again", how)
	}
	return nil
}

// phase is evident without a look for envelopes elsewhere.
func (j *job) phase(ctx context.Context, phase workload.Phase) ([]workload.ColumnReport, error) {
	reports, _, err := j.run(ctx, phase, false)
	return reports, err
}

// evident does a phase, and looks for envelopes in places that nobody has configured where the phase is the first, or the
// one before the old key goes.
func (j *job) evident(ctx context.Context, phase workload.Phase) ([]workload.ColumnReport, found, error) {
	return j.run(ctx, phase, phase == workload.PhaseStage || phase == workload.PhaseSweep)
}

func (j *job) run(ctx context.Context, phase workload.Phase, look bool) (reports []workload.ColumnReport, looked found, err error) {
	if phase == workload.PhaseWipe {
		return nil, looked, j.wipe(ctx)
	}
	do := map[workload.Phase]func(context.Context) ([]workload.ColumnReport, error){
		workload.PhaseStage: j.stage, workload.PhaseFlip: j.replace, workload.PhaseSweep: j.sweep, workload.PhaseRevert: j.revert,
	}[phase]
	if do == nil {
		return nil, looked, fmt.Errorf("phase %q is not known to this release of the sidecar; update it", phase)
	}
	if phase == workload.PhaseStage {
		if err := j.probe(ctx); err != nil {
			return nil, looked, err
		}
	}
	if j.options.InPlace { // by hand, alone, and without a trace
		reports, err = do(ctx)
		return reports, looked, err
	}
	if err := j.prepare(ctx); err != nil {
		return nil, looked, err
	}
	if phase == workload.PhaseStage {
		if err := j.awaitRoom(ctx); err != nil {
			return nil, looked, err
		}
	}
	ctx, end, err := j.keep(ctx)
	if err != nil {
		return nil, looked, err
	}
	defer end()
	if phase == workload.PhaseStage { // which workers share
		reports, err = do(ctx)
	}
	if err == nil && (phase != workload.PhaseStage || look) {
		err = j.claim(ctx)
	}
	if err == nil && phase != workload.PhaseStage {
		reports, err = do(ctx)
	}
	if err == nil && look {
		looked, err = j.discoverFor(ctx, phase)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return reports, looked, err
}

func taskOf(work workload.Work, accepts map[string][]key.Value) (task, error) {
	t := task{name: work.Rotation + "/" + work.Key, columns: work.Columns}
	if work.Phase != workload.PhaseStage {
		t.rank = work.Rank()
	}
	if work.Phase == workload.PhaseWipe || work.Phase == workload.PhaseCount {
		t.count = work.Phase == workload.PhaseCount
		return t, nil
	}
	values := accepts[work.Env]
	switch {
	case work.Phase == workload.PhaseCheck && len(values) >= 1: // with the one that stays
		t.new, t.older = values[0], values[1:]
	case len(values) < 2:
		return t, fmt.Errorf("the bundle has %d values of %s; re-encryption needs the new and the old one", len(values), work.Env)
	default:
		t.new, t.old, t.older, t.upgrade = values[0], values[1], values[2:], work.Upgrade
	}
	for _, o := range work.Others {
		for _, v := range accepts[o.Env] {
			t.others = append(t.others, other{o.Layout, v})
		}
	}
	return t, nil
}
