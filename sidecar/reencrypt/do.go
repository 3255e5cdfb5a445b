// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Do does the work that the engine asks of an instance. accepts are those of its bundle: by environment name, the new
// value first, the old one second. The report counts rows; an error is what kept the work from being done, and holds no
// value. Doing work again that is done costs little and changes nothing.
func (w *Worker) Do(ctx context.Context, work workload.Work, accepts map[string][]key.Value) (workload.WorkReport, error) {
	report := workload.WorkReport{ID: work.ID}
	t, err := taskOf(work, accepts)
	if err != nil {
		return report, err
	}
	j, err := w.open(ctx, t)
	if err != nil {
		return report, err
	}
	defer j.close()
	report.Columns, err = j.phase(ctx, work.Phase)
	report.Done = err == nil
	if report.Done && work.Phase == workload.PhaseWipe {
		clear(w.rings)
	}
	return report, err
}

func (j *job) phase(ctx context.Context, phase workload.Phase) ([]workload.ColumnReport, error) {
	if phase == workload.PhaseWipe {
		return nil, wipe(ctx, j.db, j.name, backName(j.name))
	}
	ctx, end, err := j.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	var reports []workload.ColumnReport
	switch phase {
	case workload.PhaseStage:
		reports, err = j.stage(ctx)
	case workload.PhaseFlip, workload.PhaseSweep:
		reports, err = j.replace(ctx, j.ring, j.name)
	case workload.PhaseRevert:
		reports, err = j.revert(ctx)
	case workload.PhaseWipe:
	default:
		err = fmt.Errorf("phase %q is not known to this release of the sidecar; update it", phase)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return reports, err
}

func taskOf(work workload.Work, accepts map[string][]key.Value) (task, error) {
	t := task{name: work.Rotation + "/" + work.Key, columns: work.Columns}
	if work.Phase == workload.PhaseWipe {
		return t, nil
	}
	both := accepts[work.Env]
	if len(both) != 2 {
		return t, fmt.Errorf("the bundle has %d values of %s; re-encryption needs the new and the old one", len(both), work.Env)
	}
	t.new, t.old = both[0], both[1]
	for _, o := range work.Others {
		for _, v := range accepts[o.Env] {
			t.others = append(t.others, other{o.Layout, v})
		}
	}
	return t, nil
}
