// SPDX-License-Identifier: Apache-2.0

// Package reencrypt brings the envelopes of PostgreSQL columns from one key to another without a row lost.
//
// New ciphertexts are staged beside the rows in a side schema, while the application notices nothing; one transaction
// then puts them in place, each only where the row still is what it was when its copy was made. What changed meanwhile
// is done again, until no row is left. The old ciphertexts are kept until Wipe, so that Revert is such a transaction
// too. Every step may be killed anywhere and run again.
package reencrypt

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Options of a run; the zero value is what an agent uses.
type Options struct {
	BatchSize  int                         // rows read and staged at a time; default 200
	SaltPerRow bool                        // a salt for each new envelope instead of one for a block of rows
	SkipBad    bool                        // flip although some rows open under no key; they stay as they are
	Progress   func(workload.ColumnReport) // called after each batch
	BadRow     func(column key.Column, id string)
	Random     io.Reader
}

const (
	defaultBatch = 200
	maxRounds    = 50 // of flip and pass; each round finds only what was written during the one before
	flipTries    = 60
	flipPause    = 100 * time.Millisecond
)

type other struct {
	layout key.Layout
	value  key.Value
}

// Worker re-encrypts rows of one database. It remembers derived keys from one piece of work to the next, since the
// derivations are nearly all that work costs; wiping forgets them. It does one piece of work at a time.
type Worker struct {
	databaseURL string
	options     Options
	rings       map[ringName]*envelope.Keyring
}

type ringName struct {
	layout key.Layout
	sum    [sha256.Size]byte // of the value
}

// NewWorker makes a worker; it connects when it has work.
func NewWorker(databaseURL string, o Options) *Worker {
	if o.BatchSize == 0 {
		o.BatchSize = defaultBatch
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	return &Worker{databaseURL: databaseURL, options: o, rings: map[ringName]*envelope.Keyring{}}
}

// keyring gives that of a value, an old one if there is one.
func (w *Worker) keyring(layout key.Layout, value key.Value) (*envelope.Keyring, error) {
	name := ringName{layout, sha256.Sum256([]byte(value.Reveal()))}
	if k, ok := w.rings[name]; ok {
		return k, nil
	}
	k, err := envelope.NewKeyring(layout, value)
	if err == nil {
		w.rings[name] = k
	}
	return k, err
}

// job is one key's re-encryption in one database.
type job struct {
	name    string
	holder  string
	db      *pool
	side    bool // whether the side schema is there to be joined
	tables  []table
	rings   map[key.Layout]*ring
	options Options
}

// task says what a job is about.
type task struct {
	name     string
	old, new key.Value
	others   []other
	columns  []key.Column
}

// open connects and looks the columns up. It changes nothing.
func (w *Worker) open(ctx context.Context, t task) (*job, error) {
	if !t.old.Empty() && t.old.Equal(t.new) {
		return nil, errors.New("the old and the new key are the same; there is nothing to re-encrypt")
	}
	j := &job{name: t.name, options: w.options, rings: map[key.Layout]*ring{}}
	for _, c := range t.columns {
		if err := c.Validate(); err != nil {
			return nil, err
		}
		if _, ok := j.rings[c.Layout]; ok || t.old.Empty() {
			continue
		}
		r, err := w.keyrings(c.Layout, t.old, t.new, t.others)
		if err != nil {
			return nil, err
		}
		j.rings[c.Layout] = r
	}
	var suffix [4]byte
	if _, err := rand.Read(suffix[:]); err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	j.holder = fmt.Sprintf("%s/%d/%s", host, os.Getpid(), hex.EncodeToString(suffix[:]))
	var err error
	if j.db, err = connect(ctx, w.databaseURL); err != nil {
		return nil, err
	}
	for _, c := range t.columns {
		described, err := describe(ctx, j.db, c)
		if err != nil {
			j.close()
			return nil, err
		}
		j.tables = append(j.tables, described)
	}
	if j.side, err = sideExists(ctx, j.db); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

func (j *job) close() { j.db.close() }

func (j *job) ring(t table) *ring { return j.rings[t.column.Layout] }

func (j *job) progress(report workload.ColumnReport) {
	if j.options.Progress != nil {
		j.options.Progress(report)
	}
}

// begin makes the side schema and the claim. The function it gives ends the claim.
func (j *job) begin(ctx context.Context) (context.Context, func(), error) {
	if err := ensureSide(ctx, j.db); err != nil {
		return ctx, nil, err
	}
	j.side = true
	if err := claim(ctx, j.db, j.name, j.holder); err != nil {
		j.abandon()
		return ctx, nil, err
	}
	// A connection of its own keeps the claim while the other one works.
	keeper, err := connectLike(ctx, j.db)
	if err != nil {
		j.abandon()
		return ctx, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(claimFor / 3):
			}
			if err := claim(ctx, keeper, j.name, j.holder); err != nil {
				cancel(fmt.Errorf("the claim on the job was lost: %w", err))
				return
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
		release(keeper, j.name, j.holder)
		keeper.close()
	}, nil
}

// abandon gives up a claim that may have been made: when a transaction is cut, nobody knows whether it was committed.
func (j *job) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if db, err := connectLike(ctx, j.db); err == nil {
		release(db, j.name, j.holder)
		db.close()
	}
}

func connectLike(ctx context.Context, p *pool) (*pool, error) {
	other := &pool{database: p.database}
	return other, other.reconnect(ctx)
}

// count goes over all columns once. Where dry, nothing is written.
func (j *job) count(ctx context.Context, r func(table) *ring, name string, dry bool) ([]workload.ColumnReport, error) {
	var reports []workload.ColumnReport
	for _, t := range j.tables {
		report, bads, err := j.pass(ctx, t, r(t), name, dry)
		if err != nil {
			return reports, err
		}
		for _, id := range bads {
			if j.options.BadRow != nil {
				j.options.BadRow(t.column, id)
			}
		}
		reports = append(reports, report)
	}
	return reports, nil
}

// stage computes all replacements beside the rows.
func (j *job) stage(ctx context.Context) ([]workload.ColumnReport, error) {
	if err := j.probe(ctx); err != nil {
		return nil, err
	}
	return j.count(ctx, j.ring, j.name, false)
}

// replace flips what is staged and goes over all columns, until no row is left under the old key. Unreadable rows are
// counted and keep no other row from being replaced: with the flip begun, rows under the old key help nobody.
func (j *job) replace(ctx context.Context, r func(table) *ring, name string) ([]workload.ColumnReport, error) {
	for range maxRounds {
		if err := j.flip(ctx, name, true); err != nil {
			return nil, err
		}
		reports, err := j.count(ctx, r, name, false)
		if err != nil {
			return reports, err
		}
		if left, _ := (workload.WorkReport{Columns: reports}).Left(); left == 0 {
			return reports, nil
		}
	}
	return nil, fmt.Errorf("rows under the old key keep appearing: after %d rounds some are left; which process still writes with the old key?", maxRounds)
}

// flip puts all staged ciphertexts in the place of what they were made from (forward), or the kept ones back. It is one
// transaction. A row that is not what it should be stays as it is.
func (j *job) flip(ctx context.Context, name string, forward bool) error {
	// Without statistics the planner takes the staged rows for one, and compares each with each.
	err := j.db.tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "ANALYZE hyvve_reencrypt.rows")
		return err
	})
	if err != nil && !again(err) {
		return fmt.Errorf("analyzing the staged rows: %w", err)
	}
	for range flipTries {
		err = j.db.tx(ctx, func(tx pgx.Tx) error {
			for _, t := range j.tables {
				if _, err := tx.Exec(ctx, flipStatement(t, forward), name, t.column.String()); err != nil {
					return fmt.Errorf("replacing rows of %s: %w", t.column, err)
				}
			}
			return nil
		})
		if err == nil || !again(err) {
			return err
		}
		select { // somebody holds a row for longer than we like to wait with all others locked
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(flipPause):
		}
	}
	return fmt.Errorf("rows stay locked by other transactions: %w", err)
}

func flipStatement(t table, forward bool) string {
	was, becomes, flipped := "s.old", "s.new", "true"
	if !forward {
		was, becomes, flipped = "s.new", "s.old", "false"
	}
	return fmt.Sprintf(`
		WITH done AS (
			UPDATE %s t SET %s = %s FROM hyvve_reencrypt.rows s
			WHERE s.job = $1 AND s.col = $2 AND s.flipped <> %s AND %s AND %s = %s RETURNING s.id)
		UPDATE hyvve_reencrypt.rows s SET flipped = %s FROM done WHERE s.job = $1 AND s.col = $2 AND s.id = done.id`,
		t.name(), quoted(t.column.Column), becomes, flipped, t.matches("s.id"), t.value(), was, flipped)
}

// revert puts the kept ciphertexts back, and brings rows that were written since under the new key to the old one.
func (j *job) revert(ctx context.Context) ([]workload.ColumnReport, error) {
	if err := j.flip(ctx, j.name, false); err != nil {
		return nil, err
	}
	back := map[key.Layout]*ring{}
	for layout, r := range j.rings {
		back[layout] = r.reversed()
	}
	return j.replace(ctx, func(t table) *ring { return back[t.column.Layout] }, backName(j.name))
}

// backName is the job of the way back, whose rows Wipe drops too.
func backName(name string) string { return name + " (back)" }
