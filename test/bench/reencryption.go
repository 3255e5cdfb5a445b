// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// How many rounds there are, and rows a round on each side: the runbook's way is so slow that a few give its rate.
const (
	reencryptRounds = 3
	runbookRows     = 24
	firstRows       = 1000
	nextRows        = 100_000
	nextSalts       = 25 // as an earlier rotation of so many rows leaves them
)

var allPhases = []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep, workload.PhaseWipe}

// reencryptionRates are in rows/s, one a round.
type reencryptionRates struct{ runbook, runbookRerun, first, next, rerun []float64 }

// reencryption compares a first rotation (a salt a row), a next one (shared salts) and a re-run with the runbook's way.
func reencryption(ctx context.Context, p *place) ([]Result, error) {
	next, err := newDatabase(ctx, p.postgres, "next", nextRows, nextSalts)
	if err != nil {
		return nil, err
	}
	var all reencryptionRates
	for round := range reencryptRounds {
		_, _ = fmt.Fprintf(p.log, "  round %d of %d\n", round+1, reencryptRounds)
		theirs, err := newDatabase(ctx, p.postgres, fmt.Sprintf("runbook%d", round), runbookRows, 0)
		if err != nil {
			return nil, err
		}
		first, err := newDatabase(ctx, p.postgres, fmt.Sprintf("first%d", round), firstRows, 0)
		if err != nil {
			return nil, err
		}
		if err := all.round(ctx, theirs, first, next); err != nil {
			return nil, err
		}
	}
	return []Result{
		rates("reencrypt-first", "rows/s", median(all.first), median(all.runbook)).against(18),
		rates("reencrypt-next", "rows/s", median(all.next), median(all.runbook)).against(500),
		rates("reencrypt-rerun", "rows/s", median(all.rerun), median(all.runbookRerun)).against(100),
	}, nil
}

// round measures each side once, in turn.
func (r *reencryptionRates) round(ctx context.Context, theirs, first, next *database) error {
	to := masterKey()
	if err := theirs.byRunbook(ctx, &r.runbook, to, runbookRows); err != nil {
		return fmt.Errorf("runbook: %w", err)
	}
	if err := first.timed(ctx, &r.first, first.current, to, allPhases...); err != nil {
		return fmt.Errorf("first: %w", err)
	}
	before := next.current
	if err := next.timed(ctx, &r.next, before, to, allPhases...); err != nil {
		return fmt.Errorf("next: %w", err)
	}
	if err := theirs.byRunbook(ctx, &r.runbookRerun, to, 0); err != nil {
		return fmt.Errorf("runbook's re-run: %w", err)
	}
	if err := next.timed(ctx, &r.rerun, before, to, workload.PhaseStage, workload.PhaseFlip); err != nil {
		return fmt.Errorf("re-run: %w", err)
	}
	return nil
}

// timed adds the rate of a rotation.
func (d *database) timed(ctx context.Context, into *[]float64, from, to key.Value, phases ...workload.Phase) error {
	took, err := d.rotate(ctx, from, to, phases...)
	*into = append(*into, float64(len(d.rows))/took.Seconds())
	return err
}

// byRunbook adds the rate of the runbook's way, which must change so many rows. The current key stays noted as it is,
// so that the same call again is a re-run.
func (d *database) byRunbook(ctx context.Context, into *[]float64, to key.Value, changes int) error {
	oldSecret, err := envelope.Secret(key.TagFirst, d.current)
	if err != nil {
		return err
	}
	newSecret, err := envelope.Secret(key.TagFirst, to)
	if err != nil {
		return err
	}
	begun := time.Now()
	changed, err := runbook(ctx, d.conn, d.rows, oldSecret, newSecret)
	if err == nil && changed != changes {
		err = fmt.Errorf("%d rows changed instead of %d", changed, changes)
	}
	*into = append(*into, float64(len(d.rows))/time.Since(begun).Seconds())
	return err
}
