// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/testbed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reencrypt"
)

// How many rows each side does: the runbook's way is so slow that a few give its rate.
const (
	runbookRows = 60
	firstRows   = 240
	nextRows    = 10_000
)

// database is one of its own, with rows under a fresh key.
type database struct {
	url  string
	conn *pgx.Conn
	rows []testbed.Row
	old  key.Value
	n    int // of rotations
}

func masterKey() key.Value {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	return key.NewValue(base64.StdEncoding.EncodeToString(raw))
}

func newDatabase(ctx context.Context, server *testbed.Postgres, name string, rows, salts int) (*database, error) {
	url, err := server.NewDatabase(ctx, name)
	if err != nil {
		return nil, err
	}
	d := &database{url: url, old: masterKey()}
	if d.conn, err = pgx.Connect(ctx, url); err != nil {
		return nil, err
	}
	d.rows, err = testbed.SeedPlatform(ctx, d.conn, testbed.Seeding{
		MasterKey: d.old, BetterAuth: key.NewValue("not used in this database"), Providers: rows, Salts: salts,
	})
	return d, err
}

// rotate does all phases with a fresh worker, as a sidecar that has just started would, and gives the time they took.
func (d *database) rotate(ctx context.Context, to key.Value, phases ...workload.Phase) (time.Duration, error) {
	d.n++
	worker := reencrypt.NewWorker(d.url, reencrypt.Options{BatchSize: 1000})
	begun := time.Now()
	for _, phase := range phases {
		report, err := worker.Do(ctx, workload.Work{
			ID: string(phase), Rotation: fmt.Sprintf("r%d", d.n), Key: "k", Env: "K", Phase: phase, From: 1, To: 2,
			Columns: []key.Column{{Table: "ai_provider_configs", Column: "api_key_encrypted", Layout: key.TagFirst}},
		}, map[string][]key.Value{"K": {to, d.old}})
		if err != nil {
			return 0, fmt.Errorf("%s: %w", phase, err)
		}
		if left, bad := report.Left(); phase == workload.PhaseFlip && left+bad > 0 {
			return 0, errors.New("rows are left")
		}
	}
	return time.Since(begun), nil
}

func allPhases() []workload.Phase {
	return []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep, workload.PhaseWipe}
}

func perSecond(rows int, took time.Duration) float64 { return float64(rows) / took.Seconds() }

// reencryption compares a first rotation (a salt a row), a next one (shared salts) and a re-run with the runbook's way.
func reencryption(ctx context.Context, log io.Writer) (results []Result, err error) {
	bed, err := testbed.New("bench", log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	server, err := bed.Postgres(ctx)
	if err != nil {
		return nil, err
	}
	theirs, err := newDatabase(ctx, server, "runbook", runbookRows, 0)
	if err != nil {
		return nil, err
	}
	first, err := newDatabase(ctx, server, "first", firstRows, 0)
	if err != nil {
		return nil, err
	}
	next, err := newDatabase(ctx, server, "next", nextRows, 3)
	if err != nil {
		return nil, err
	}

	newKey := masterKey()
	begun := time.Now()
	if err := runbook(ctx, theirs.conn, theirs.rows, theirs.old, newKey); err != nil {
		return nil, err
	}
	runbookRate := perSecond(runbookRows, time.Since(begun))
	begun = time.Now()
	if err := runbook(ctx, theirs.conn, theirs.rows, theirs.old, newKey); err != nil {
		return nil, err
	}
	runbookRerun := perSecond(runbookRows, time.Since(begun))

	firstTime, err := first.rotate(ctx, masterKey(), allPhases()...)
	if err != nil {
		return nil, err
	}
	target := masterKey()
	nextTime, err := next.rotate(ctx, target, allPhases()...)
	if err != nil {
		return nil, err
	}
	rerunTime, err := next.rotate(ctx, target, workload.PhaseStage, workload.PhaseFlip)
	if err != nil {
		return nil, err
	}
	return []Result{
		rates("reencrypt-first", "rows/s", perSecond(firstRows, firstTime), runbookRate),
		rates("reencrypt-next", "rows/s", perSecond(nextRows, nextTime), runbookRate),
		rates("reencrypt-rerun", "rows/s", perSecond(nextRows, rerunTime), runbookRerun),
	}, nil
}
