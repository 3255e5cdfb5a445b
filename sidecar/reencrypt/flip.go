// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

const (
	maxRounds = 50 // of passes; each finds only what was written during the one before
	flipTries = 60
	flipPause = 100 * time.Millisecond

	// flipMemory is what the server may use to join staged rows with those in place: with its 4 MB by default a million rows
	// take twice as long, since they go through files.
	flipMemory = "64MB"
)

// flip puts all staged ciphertexts in the place of what they were made from (forward), or the kept ones back. It is one
// transaction. A row that is not what it should be stays as it is.
func (j *job) flip(ctx context.Context, forward bool) error {
	for _, t := range j.tables { // without statistics the planner takes the staged rows for a few, and compares each with each
		if err := j.patiently(ctx, func(tx pgx.Tx) error {
			_, err := execOne(ctx, tx, "ANALYZE "+t.staged)
			return err
		}); err != nil {
			return fmt.Errorf("analyzing the staged rows: %w", err)
		}
	}
	var begun time.Time
	var rows int64
	err := j.patiently(ctx, func(tx pgx.Tx) error {
		begun, rows = time.Now(), 0
		if _, err := execOne(ctx, tx, "SET LOCAL work_mem = '"+flipMemory+"'"); err != nil {
			return err
		}
		for _, t := range j.tables {
			done, err := execOne(ctx, tx, flipStatement(t, forward))
			if err != nil {
				return fmt.Errorf("replacing rows of %s: %w", t.column, err)
			}
			rows += done.RowsAffected()
		}
		return nil
	})
	if err == nil && j.options.Flipped != nil {
		j.options.Flipped(rows, time.Since(begun))
	}
	return err
}

func flipStatement(t table, forward bool) string {
	was, becomes := "s.old", "s.new"
	if !forward {
		was, becomes = becomes, was
	}
	return fmt.Sprintf("UPDATE %s t SET %s FROM %s s WHERE %s AND %s = %s", t.name(), t.sets(becomes), t.staged, t.joins(), t.value(), was)
}

// patiently runs a transaction again while somebody holds a row for longer than we like to wait with all others locked.
func (j *job) patiently(ctx context.Context, do func(tx pgx.Tx) error) (err error) {
	for range flipTries {
		if err = j.db.tx(ctx, do); err == nil || !again(err) {
			return err
		}
		if err := backoff.Wait(ctx, flipPause); err != nil {
			return err
		}
	}
	return fmt.Errorf("rows stay locked by other transactions: %w", err)
}

// replace flips what is staged, and goes over all columns until no row is left under the old key: every envelope has opened
// under the new one then. Unreadable rows are counted and keep no other row from being replaced: with the flip begun, rows
// under the old key help nobody.
func (j *job) replace(ctx context.Context) ([]workload.ColumnReport, error) {
	if !j.options.InPlace {
		if err := j.flip(ctx, true); err != nil {
			return nil, err
		}
	}
	return j.settle(ctx, j.ring)
}

// sweep finds and replaces what somebody has written under the old key since. Rows that hold what we have put there have
// been opened by then and are only counted, so that it may be done again and again.
func (j *job) sweep(ctx context.Context) ([]workload.ColumnReport, error) {
	if j.options.InPlace {
		return j.settle(ctx, j.ring)
	}
	return j.settleIn(ctx, func(ctx context.Context, t table) (counts, error) { return j.passStrays(ctx, t) })
}

// settle replaces rows where they are, until none is left.
func (j *job) settle(ctx context.Context, r func(table) *ring) ([]workload.ColumnReport, error) {
	return j.settleIn(ctx, func(ctx context.Context, t table) (counts, error) { return j.pass(ctx, t, r(t), j.page, true) })
}

func (j *job) settleIn(ctx context.Context, pass func(context.Context, table) (counts, error)) ([]workload.ColumnReport, error) {
	for range maxRounds {
		reports, err := j.countIn(ctx, pass)
		if err != nil {
			return reports, err
		}
		if left, _ := (workload.WorkReport{Columns: reports}).Left(); left == 0 {
			return reports, nil
		}
	}
	return nil, fmt.Errorf("rows under the old key keep appearing: after %d rounds some are left; which process still writes with the old key?", maxRounds)
}

// revert puts the kept ciphertexts back, and brings rows that were written since under the new key to the old one.
func (j *job) revert(ctx context.Context) ([]workload.ColumnReport, error) {
	if !j.options.InPlace {
		if err := j.flip(ctx, false); err != nil {
			return nil, err
		}
	}
	back := map[key.Layout]*ring{}
	for layout, r := range j.rings {
		back[layout] = r.reversed()
	}
	return j.settle(ctx, func(t table) *ring { return back[t.column.Layout] })
}
