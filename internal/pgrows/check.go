// SPDX-License-Identifier: Apache-2.0

package pgrows

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Other is a value of a key that has rows of its own in the columns which are checked.
type Other struct {
	Layout key.Layout
	Value  key.Value
}

// Bounds of what is held of rows at a time. Rows come as they are asked for: a server that has more of them waits.
const (
	batchRows  = 500
	batchBytes = 4 << 20
)

// checkSettings are those of a transaction that opens rows: it changes nothing, sees every row or fails, and ends when the
// caller's time is over and no sooner.
var checkSettings = []string{
	pgsession.SetSearchPath, "SET LOCAL row_security = off", "SET LOCAL lock_timeout = '10s'", "SET LOCAL statement_timeout = 0",
	"SET LOCAL idle_in_transaction_session_timeout = '2min'",
}

// Check opens every envelope of columns in one read-only transaction, under value or one of others, which are of keys with
// rows of their own in these columns. Rows that open under neither are counted as bad. It takes half of the time at most to
// derive keys, so that the machine has room for others. With most, it opens no more rows of a column than that; 0: all. No error
// holds a value.
func Check(ctx context.Context, conn *pgx.Conn, columns []key.Column, value key.Value, others []Other, most int) (workload.WorkReport, error) {
	var report workload.WorkReport
	rings, err := newRings(columns, value, others)
	if err != nil {
		return report, err
	}
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
		if _, err := pgsession.Together(ctx, conn.PgConn(), checkSettings...); err != nil {
			return err
		}
		tables, err := readable(ctx, tx, columns)
		if err != nil {
			return err
		}
		place, err := Place(ctx, tx, tables)
		if err != nil {
			return err
		}
		if !place.Primary {
			return errors.New("it is a replica, which may lag behind; give a connection to the primary")
		}
		report.Place = &place
		for _, c := range columns {
			counted, err := checkColumn(ctx, tx, c, rings, most)
			if err != nil {
				return fmt.Errorf("column %s: %w", c, err)
			}
			report.Columns = append(report.Columns, counted)
		}
		return nil
	})
	report.Done = err == nil
	return report, err
}

// readable finds the columns, and refuses those that the role may not read as a whole.
func readable(ctx context.Context, tx pgx.Tx, columns []key.Column) (tables []workload.PlaceTable, err error) {
	var role string
	if err := tx.QueryRow(ctx, "SELECT current_user::text").Scan(&role); err != nil {
		return nil, err
	}
	for _, asked := range columns {
		c := schemed(asked)
		oid, err := Find(ctx, tx, role, c)
		if err != nil {
			return nil, err
		}
		names := []string{c.Column}
		for _, t := range c.Where {
			names = append(names, t.Column)
		}
		if err := NoCasts(ctx, tx, c.Table, oid, names[1:]); err != nil {
			return nil, err
		}
		var usage, hidden, elsewhere bool
		var missing *string
		err = tx.QueryRow(ctx, `
			SELECT has_schema_privilege($3::text, 'USAGE'), row_security_active($1::oid),
				(SELECT min(name) FROM unnest($2::text[]) AS name WHERE NOT has_column_privilege($1::oid, name, 'SELECT')),
				EXISTS (SELECT FROM pg_partition_tree($1::oid) p JOIN pg_class c ON c.oid = p.relid WHERE c.relkind = 'f')`,
			oid, names, c.Schema).Scan(&usage, &hidden, &missing, &elsewhere)
		switch {
		case err != nil:
			return nil, err
		case !usage:
			return nil, fmt.Errorf("role %s may not use schema %s; as its owner, say there: GRANT USAGE ON SCHEMA %s TO %s", role, c.Schema, pgsession.Quote(c.Schema), pgsession.Quote(role))
		case missing != nil:
			return nil, fmt.Errorf("role %s may not read column %s of %s; as its owner, say there: GRANT SELECT (%s) ON %s TO %s", role, *missing, c.Table, pgsession.Quote(*missing), Table(c), pgsession.Quote(role))
		case hidden:
			return nil, fmt.Errorf("row-level security would hide rows of %s from role %s; as a superuser, say there: ALTER ROLE %s BYPASSRLS", c.Table, role, pgsession.Quote(role))
		case elsewhere:
			return nil, fmt.Errorf("a partition of %s is a foreign table, whose rows are at another server", c.Table)
		}
		tables = append(tables, workload.PlaceTable{Column: asked.String(), OID: oid})
	}
	return tables, nil
}

// schemed is a column with its schema.
func schemed(c key.Column) key.Column {
	if c.Schema == "" {
		c.Schema = "public"
	}
	return c
}

// rings are the keyrings that may open rows.
type rings struct {
	wanted map[key.Layout]*envelope.Keyring
	others []*envelope.Keyring
}

func newRings(columns []key.Column, value key.Value, others []Other) (r rings, err error) {
	r.wanted = map[key.Layout]*envelope.Keyring{}
	for _, c := range columns {
		if err := c.Validate(); err != nil {
			return r, err
		}
		if r.wanted[c.Layout] == nil {
			if r.wanted[c.Layout], err = envelope.NewKeyring(c.Layout, value); err != nil {
				return r, err
			}
		}
	}
	for _, o := range others {
		if ring, err := envelope.NewKeyring(o.Layout, o.Value); err == nil { // one that cannot be used opens nothing
			r.others = append(r.others, ring)
		}
	}
	return r, nil
}

func checkColumn(ctx context.Context, tx pgx.Tx, c key.Column, r rings, most int) (workload.ColumnReport, error) {
	counted := workload.ColumnReport{Column: c.String()}
	c = schemed(c)
	query := fmt.Sprintf("SELECT %s FROM %s t WHERE %s", Value(c), Table(c), Protected(c))
	if most > 0 {
		query += fmt.Sprintf(" LIMIT %d", most)
	}
	rows, err := tx.Query(ctx, query)
	if err != nil {
		return counted, err
	}
	defer rows.Close()
	batch, size := make([]string, 0, batchRows), 0
	open := func() error {
		begun := time.Now()
		err := openBatch(ctx, batch, r.wanted[c.Layout], r.others, &counted)
		batch, size = batch[:0], 0
		if err != nil {
			return err
		}
		return rest(ctx, time.Since(begun))
	}
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return counted, err
		}
		batch, size = append(batch, text), size+len(text)
		if len(batch) == batchRows || size >= batchBytes {
			if err := open(); err != nil {
				return counted, err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return counted, err
	}
	return counted, open()
}

// rest waits for as long as work took, where it took more than a moment.
func rest(ctx context.Context, took time.Duration) error {
	if took < 10*time.Millisecond {
		return ctx.Err()
	}
	return backoff.Wait(ctx, took)
}

// openBatch opens envelopes and counts them. Whatever a batch needs is derived together.
func openBatch(ctx context.Context, batch []string, wanted *envelope.Keyring, others []*envelope.Keyring, counted *workload.ColumnReport) error {
	counted.Total += len(batch)
	var closed []envelope.Envelope
	for _, text := range batch {
		if e, err := envelope.Parse(text); err == nil {
			closed = append(closed, e)
		} else {
			counted.Bad++
		}
	}
	for n, ring := range append([]*envelope.Keyring{wanted}, others...) {
		salts := make([]envelope.Salt, 0, len(closed))
		for _, e := range closed {
			salts = append(salts, e.Salt)
		}
		if err := ring.DeriveAll(ctx, salts); err != nil {
			return err
		}
		var left []envelope.Envelope
		for _, e := range closed {
			plaintext, err := ring.Open(e)
			if err != nil {
				left = append(left, e)
				continue
			}
			clear(plaintext)
			if n == 0 {
				counted.Rotated++
			} else {
				counted.Other++
			}
		}
		closed = left
	}
	counted.Bad += len(closed)
	return nil
}
