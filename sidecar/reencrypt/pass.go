// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// rowsPerSalt is how many new envelopes share a salt: each keeps a random IV of its own, and the one derivation that
// the salt costs is shared. The derived key then seals far fewer messages than the 2^32 that NIST SP 800-38D allows
// with random IVs.
const rowsPerSalt = 4096

// maxBads is how many unreadable rows of a column are named; all are counted.
const maxBads = 20

// ring holds the keyrings of one direction.
type ring struct {
	old, new *envelope.Keyring
	others   []*envelope.Keyring
	random   io.Reader
	perSalt  int

	mu      sync.Mutex
	salt    envelope.Salt
	derived envelope.Derived
	left    int // rows that may still take the salt
}

// reversed gives the ring of the way back.
func (r *ring) reversed() *ring {
	return &ring{old: r.new, new: r.old, others: r.others, random: r.random, perSalt: r.perSalt}
}

// block gives a salt of new envelopes and its derived key.
func (r *ring) block() (envelope.Salt, envelope.Derived, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == 0 {
		salt, err := envelope.NewSalt(r.random)
		if err != nil {
			return salt, envelope.Derived{}, err
		}
		if r.derived, err = r.new.Derive(salt); err != nil {
			return salt, envelope.Derived{}, err
		}
		r.salt, r.left = salt, r.perSalt
	}
	r.left--
	return r.salt, r.derived, nil
}

// row is one envelope of a column.
type row struct {
	id     string // primary key, JSON array of texts
	value  string
	staged *string // replacement that is staged for exactly this value
	ours   bool    // value is a replacement that we put there

	kind        rowKind
	replacement string // for kind underOld without one staged
}

type rowKind int

const (
	bad rowKind = iota
	underOld
	underNew
	underOther
)

// classify finds out under which key the row is, and makes its replacement where that is the old one.
func (r *ring) classify(x *row) error {
	if x.staged != nil {
		x.kind = underOld
		return nil
	}
	e, err := envelope.Parse(x.value)
	if err != nil {
		return nil //nolint:nilerr // a malformed value is a finding, not a failure
	}
	first, second := r.old, r.new
	kinds := []rowKind{underOld, underNew}
	if _, known := r.new.Known(e.Salt); x.ours || known {
		first, second, kinds = r.new, r.old, []rowKind{underNew, underOld}
	}
	for n, k := range []*envelope.Keyring{first, second} {
		plaintext, err := k.Open(e)
		if err != nil {
			continue
		}
		x.kind = kinds[n]
		if x.kind == underNew {
			return nil
		}
		salt, derived, err := r.block()
		if err != nil {
			return err
		}
		sealed, err := envelope.Seal(r.new.Layout, derived, salt, plaintext, r.random)
		clear(plaintext)
		x.replacement = sealed.String()
		return err
	}
	for _, k := range r.others {
		if _, err := k.Open(e); err == nil {
			x.kind = underOther
			return nil
		}
	}
	return nil
}

// classifyAll spreads the rows over the cores.
func (r *ring) classifyAll(ctx context.Context, rows []*row) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, x := range rows {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return r.classify(x)
		})
	}
	return group.Wait()
}

// pass goes over a column once: every row is opened, and a replacement is staged for each that is under the old key. It
// writes nothing to the table itself. bads gets the primary keys of the first unreadable rows.
func (j *job) pass(ctx context.Context, t table, r *ring, name string, dry bool) (workload.ColumnReport, []string, error) {
	report := workload.ColumnReport{Column: t.column.String()}
	var bads []string
	last := ""
	for {
		rows, err := j.batch(ctx, t, name, last, j.options.BatchSize)
		if err != nil || len(rows) == 0 {
			return report, bads, err
		}
		if err := r.classifyAll(ctx, rows); err != nil {
			return report, bads, err
		}
		for _, x := range rows {
			report.Total++
			switch x.kind {
			case underOld:
				report.Left++
				report.Staged++
			case underNew:
				report.Rotated++
			case underOther:
				report.Other++
			case bad:
				report.Bad++
				if len(bads) < maxBads {
					bads = append(bads, x.id)
				}
			}
		}
		if !dry {
			if err := j.stageRows(ctx, t, name, rows); err != nil {
				return report, bads, err
			}
		} else {
			report.Staged = 0
		}
		j.progress(report)
		last = rows[len(rows)-1].id
	}
}

// batch reads the next rows of a column in the order of its primary key.
func (j *job) batch(ctx context.Context, t table, name, last string, size int) ([]*row, error) {
	var rows []*row
	// OFFSET 0 keeps the planner from joining the whole of the job's rows to each page, which it prefers as long as
	// nobody has analyzed the table: one look-up by the primary key a row, whatever the statistics say.
	side := "LEFT JOIN LATERAL (SELECT x.old, x.new, x.flipped FROM hyvve_reencrypt.rows x WHERE x.job = $1 AND x.col = $2 AND x.id = " +
		t.id() + " OFFSET 0) s ON true"
	columns := "CASE WHEN s.old = " + t.value() + " AND NOT s.flipped THEN s.new END, coalesce(s.new = " + t.value() + ", false)"
	if !j.side {
		side, columns = "", "NULL::text, false AND $1::text <> $2::text"
	}
	query := fmt.Sprintf(`SELECT (%s)::text, %s, %s FROM %s t %s WHERE %s IS NOT NULL AND %s <> ''`,
		t.id(), t.value(), columns, t.name(), side, t.value(), t.value())
	args := []any{name, t.column.String()}
	if last != "" {
		query += " AND " + t.after("$3::jsonb")
		args = append(args, last)
	}
	query += fmt.Sprintf(" ORDER BY %s LIMIT %d", t.order(), size)
	err := j.db.tx(ctx, func(tx pgx.Tx) error {
		found, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		rows, err = pgx.CollectRows(found, func(r pgx.CollectableRow) (*row, error) {
			var x row
			err := r.Scan(&x.id, &x.value, &x.staged, &x.ours)
			return &x, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", t.column, err)
	}
	return rows, nil
}

// stageRows stores the replacements that were made. It is idempotent, and touches the side schema only.
func (j *job) stageRows(ctx context.Context, t table, name string, rows []*row) error {
	var ids, olds, news []string
	for _, x := range rows {
		if x.replacement != "" {
			ids, olds, news = append(ids, x.id), append(olds, x.value), append(news, x.replacement)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	err := j.db.tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO hyvve_reencrypt.rows (job, col, id, old, new)
			SELECT $1, $2, x.id::jsonb, x.old, x.new FROM unnest($3::text[], $4::text[], $5::text[]) AS x(id, old, new)
			ON CONFLICT (job, col, id) DO UPDATE SET old = excluded.old, new = excluded.new, flipped = false`,
			name, t.column.String(), ids, olds, news)
		return err
	})
	if err != nil {
		return fmt.Errorf("staging rows of %s: %w", t.column, err)
	}
	return nil
}

// probe opens a few rows of each column: a key that opens none of them is the wrong one, and is refused before anything
// is written.
func (j *job) probe(ctx context.Context) error {
	const few = 5
	opened, unreadable := 0, 0
	for _, t := range j.tables {
		rows, err := j.batch(ctx, t, j.name, "", few)
		if err != nil {
			return err
		}
		if err := j.ring(t).classifyAll(ctx, rows); err != nil {
			return err
		}
		for _, x := range rows {
			switch x.kind {
			case bad:
				unreadable++
			case underOld, underNew:
				opened++
			case underOther: // says nothing of the keys of this job
			}
		}
	}
	if unreadable > 0 && opened == 0 {
		return fmt.Errorf("neither the old nor the new key opens any of the first %d rows: the old key is not the one that they are encrypted with; nothing was changed", unreadable)
	}
	return nil
}

// keyrings makes the keyrings of a job in one layout.
func (w *Worker) keyrings(layout key.Layout, old, new key.Value, others []other) (*ring, error) {
	o := w.options
	r := &ring{random: o.Random, perSalt: rowsPerSalt}
	if o.SaltPerRow {
		r.perSalt = 1
	}
	var err error
	if r.old, err = w.keyring(layout, old); err != nil {
		return nil, fmt.Errorf("the old key: %w", err)
	}
	if r.new, err = w.keyring(layout, new); err != nil {
		return nil, fmt.Errorf("the new key: %w", err)
	}
	for _, x := range others {
		k, err := w.keyring(x.layout, x.value)
		if err != nil {
			continue // one that cannot be used opens nothing
		}
		r.others = append(r.others, k)
	}
	return r, nil
}
