// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// maxBads is how many unreadable rows of a column are named; all are counted.
const maxBads = 20

// counts is what is known of some rows of a column.
type counts struct {
	workload.ColumnReport
	bads []string // the first unreadable rows
}

func (c *counts) add(x *row) {
	c.Total++
	switch x.kind {
	case underOld:
		c.Left++
	case underNew:
		c.Rotated++
	case underOther:
		if x.replacement != "" { // it is to be brought under the new key, too
			c.Left++
		} else {
			c.Other++
		}
	case bad:
		c.Bad++
		if len(c.bads) < maxBads {
			c.bads = append(c.bads, x.name())
		}
	}
}

// pager reads the next rows of a column in the order of its primary key.
type pager func(ctx context.Context, t table, last []string, size int) ([]*row, error)

// pass goes over rows of a column once, and opens each. Where write is set, each row that is under the old key is replaced
// at once, if it still is what it was; those that are not any more count as left.
func (j *job) pass(ctx context.Context, t table, r *ring, next pager, write bool) (counts, error) {
	counted := counts{ColumnReport: workload.ColumnReport{Column: t.column.String()}}
	var last []string
	for {
		rows, err := next(ctx, t, last, j.options.BatchSize)
		if err != nil || len(rows) == 0 {
			return counted, err
		}
		if err := r.classify(ctx, rows); err != nil {
			return counted, err
		}
		for _, x := range rows {
			counted.add(x)
		}
		if write {
			begun := time.Now()
			done, err := j.replaceRows(ctx, t, rows)
			if err != nil {
				return counted, err
			}
			counted.Rotated += done
			counted.Left -= done
			if err := j.throttle.rest(ctx, j.db, done, time.Since(begun)); err != nil {
				return counted, err
			}
		}
		if j.options.Progress != nil && j.due() {
			j.options.Progress(counted.ColumnReport)
		}
		last = rows[len(rows)-1].id
	}
}

// page reads all rows.
func (j *job) page(ctx context.Context, t table, last []string, size int) ([]*row, error) {
	return j.pageOf(ctx, t, fmt.Sprintf("%s t WHERE %s", t.name(), t.protected()), last, size)
}

// strays reads the rows that hold nothing that we have staged.
func (j *job) strays(ctx context.Context, t table, last []string, size int) ([]*row, error) {
	return j.pageOf(ctx, t, fmt.Sprintf("%s t LEFT JOIN %s s ON %s AND s.new = %s WHERE s.new IS NULL AND %s",
		t.name(), t.staged, t.joins(), t.value(), t.protected()), last, size)
}

// Bounds of what is held of rows at a time, in bytes: who may write a row decides how long it is, and a sidecar has little memory. A
// value that is longer than maxValue is not read and counts as unreadable; the engine's own look at rows takes none either.
const (
	maxValue = 4 << 20
	maxBatch = 2 << 20
)

// pageOf reads so many rows, and fewer where their values are long.
func (j *job) pageOf(ctx context.Context, t table, from string, last []string, size int) ([]*row, error) {
	where := ""
	var args []any
	if last != nil {
		where = " AND " + t.compared(">", "$1::text[]")
		args = append(args, last)
	}
	query := fmt.Sprintf(`SELECT q.id, %s FROM (
			SELECT %s AS id, %s AS value, sum(octet_length(%[3]s)) OVER (ORDER BY %[4]s ROWS UNBOUNDED PRECEDING) AS bytes
			FROM %[5]s%[6]s ORDER BY %[4]s LIMIT %[7]d
		) q WHERE q.bytes <= %[8]d OR q.bytes = octet_length(q.value) ORDER BY q.bytes`,
		shortened("q.value"), t.id(), t.value(), t.order(), from, where, size, maxBatch)
	rows, err := readRows(ctx, j.db, query, args...)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", t.column, err)
	}
	return rows, nil
}

// shortened is a value that is read, and no envelope where it is too long.
func shortened(value string) string {
	return fmt.Sprintf("CASE WHEN octet_length(%s) > %d THEN '' ELSE %[1]s END", value, maxValue)
}

// replaceRows puts replacements in the place of what they were made from, and gives in how many rows.
func (j *job) replaceRows(ctx context.Context, t table, rows []*row) (done int, err error) {
	var changed []*row
	for _, x := range rows {
		if x.replacement != "" {
			changed = append(changed, x)
		}
	}
	if len(changed) == 0 {
		return 0, nil
	}
	statement := fmt.Sprintf("UPDATE %s t SET %s FROM %s WHERE %s AND %s = s.old", t.name(), t.sets("s.new"), t.given(1), t.joins(), t.value())
	err = j.patiently(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, statement, t.parameters(changed)...)
		done = int(tag.RowsAffected())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("replacing rows of %s: %w", t.column, err)
	}
	return done, nil
}

// passStrays is pass over the rows that are not ours. Ours are counted.
func (j *job) passStrays(ctx context.Context, t table) (counts, error) {
	counted, err := j.pass(ctx, t, j.ring(t), j.strays, true)
	if err != nil {
		return counted, err
	}
	var ours int
	err = j.db.tx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s t JOIN %s s ON %s AND s.new = %s", t.name(), t.staged, t.joins(), t.value())).Scan(&ours)
	})
	counted.Total += ours
	counted.Rotated += ours
	return counted, err
}

// countAll goes over all columns once.
func (j *job) countAll(ctx context.Context, r func(table) *ring, write bool) ([]workload.ColumnReport, error) {
	return j.countIn(ctx, func(ctx context.Context, t table) (counts, error) { return j.pass(ctx, t, r(t), j.page, write) })
}

func (j *job) countIn(ctx context.Context, pass func(context.Context, table) (counts, error)) ([]workload.ColumnReport, error) {
	var reports []workload.ColumnReport
	for _, t := range j.tables {
		counted, err := pass(ctx, t)
		if err != nil {
			return reports, err
		}
		j.nameBads(t, counted.bads)
		reports = append(reports, counted.ColumnReport)
	}
	return reports, nil
}

func (j *job) nameBads(t table, ids []string) {
	for _, id := range ids {
		if j.options.BadRow != nil {
			j.options.BadRow(t.column, id)
		}
	}
}

// probe opens the first envelopes of each column: a key that opens none of them is the wrong one, and is refused before
// anything is written.
func (j *job) probe(ctx context.Context) error {
	opened, unreadable := 0, 0
	for _, t := range j.tables {
		o, u, err := j.probeColumn(ctx, t)
		if err != nil {
			return err
		}
		opened, unreadable = opened+o, unreadable+u
	}
	if unreadable > 0 && opened == 0 {
		return fmt.Errorf("neither the old nor the new key opens any of the first %d envelopes: the old key is not the one that they are encrypted with; nothing was changed", unreadable)
	}
	return nil
}

// probeColumn counts those of the first few envelopes of a column that open under the keys of this job, and those that open
// under none. Values that are no envelopes are skipped: a few of them, or a long one, say nothing about a key.
func (j *job) probeColumn(ctx context.Context, t table) (opened, unreadable int, err error) {
	const (
		few  = 5
		most = 100 // rows that are read
	)
	var last []string
	for tried, read := 0, 0; tried < few && read < most; {
		rows, err := j.page(ctx, t, last, few) // fewer where they are long
		if err != nil || len(rows) == 0 {
			return opened, unreadable, err
		}
		read, last = read+len(rows), rows[len(rows)-1].id
		rows = slices.DeleteFunc(rows, func(x *row) bool {
			_, err := envelope.Parse(x.value)
			return err != nil
		})
		rows = rows[:min(len(rows), few-tried)]
		tried += len(rows)
		if err := j.ring(t).classify(ctx, rows); err != nil {
			return opened, unreadable, err
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
	return opened, unreadable, nil
}

// session is one connection's worth of a database: what a URL says, and how to run a transaction. It is for one goroutine.
type session struct {
	database
	conn *pgx.Conn
}

func connect(ctx context.Context, databaseURL string) (*session, error) {
	d, err := parseURL(databaseURL)
	if err != nil {
		return nil, err
	}
	if d.schema == "" {
		d.schema = "public"
	}
	s := &session{database: d}
	return s, s.reconnect(ctx)
}

// another opens a further session of the same database.
func (s *session) another(ctx context.Context) (*session, error) {
	other := &session{database: s.database}
	return other, other.reconnect(ctx)
}

// reconnect makes a new connection if there is none.
func (s *session) reconnect(ctx context.Context) error {
	if s.conn != nil && !s.conn.IsClosed() {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, s.config)
	if err != nil {
		return unreached(ctx, s.config, err)
	}
	s.conn = conn
	return nil
}

func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// localSettings make names mean what PostgreSQL made, undo what a role or database may have set for the application's short
// queries, fix the text form of primary keys, and have a commit last: the old key is removed on the strength of it.
var localSettings = []string{
	"SET TRANSACTION ISOLATION LEVEL READ COMMITTED", // first of all: it must come before a query
	pgsession.SetSearchPath, "SET LOCAL client_encoding = 'UTF8'", "SET LOCAL standard_conforming_strings = on",
	"SET LOCAL row_security = off", "SET LOCAL lock_timeout = '500ms'",
	"SET LOCAL statement_timeout = 0", "SET LOCAL idle_in_transaction_session_timeout = 0",
	"SET LOCAL DateStyle = 'ISO'", "SET LOCAL IntervalStyle = 'postgres'", "SET LOCAL extra_float_digits = 3", "SET LOCAL bytea_output = 'hex'",
	"SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'",
}

// relaxed is for what may be lost with a server that dies, since it is found out and done again: staged rows and claims.
const relaxed = "SET LOCAL synchronous_commit = off"

// tx runs do in a transaction that no row-level security can hide rows from: where a policy would, PostgreSQL refuses
// the query, and so do we. The settings are local, since a pooler may give each transaction another server.
func (s *session) tx(ctx context.Context, do func(tx pgx.Tx) error) error {
	return s.txWith(ctx, localSettings, do)
}

// relaxedTx is tx for what need not outlive a server that dies.
func (s *session) relaxedTx(ctx context.Context, do func(tx pgx.Tx) error) error {
	return s.txWith(ctx, append(slices.Clip(localSettings), relaxed), do)
}

// beginTries is how often a transaction is begun on a server that ends even that by its statement_timeout.
const beginTries = 20

func (s *session) txWith(ctx context.Context, settings []string, do func(tx pgx.Tx) error) error {
	for tries := 1; ; tries++ {
		if err := s.reconnect(ctx); err != nil {
			return err
		}
		begun := false
		err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
			if err := execEach(ctx, tx, settings...); err != nil {
				return err
			}
			begun = true
			return do(tx)
		})
		// Until it is begun, the timeout for the application's short queries holds; on a busy machine it may be too short for
		// these statements, too.
		if begun || tries == beginTries || ctx.Err() != nil || !canceled(err) {
			return s.explain(err)
		}
	}
}

// canceled reports whether the server has ended a statement, as by its statement_timeout.
func canceled(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "57014"
}

// execEach runs statements in one round trip. None is run after one that fails.
func execEach(ctx context.Context, tx pgx.Tx, statements ...string) error {
	_, err := pgsession.Together(ctx, tx.Conn().PgConn(), statements...)
	return err
}

// execOne runs one statement without parameters.
func execOne(ctx context.Context, tx pgx.Tx, statement string) (pgconn.CommandTag, error) {
	return pgsession.Exec(ctx, tx.Conn().PgConn(), statement)
}

// explain puts remedies to errors that an operator can mend.
func (s *session) explain(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch {
	case pg.Code == "42501" && strings.Contains(pg.Message, "row-level security"):
		return fmt.Errorf("row-level security would hide rows of a protected table from role %s (%s): %s", s.config.User, pg.Message, remedyRowSecurity)
	case pg.Code == "42501":
		return fmt.Errorf("role %s lacks a right: %s; it needs SELECT and UPDATE on the protected tables and CREATE on the database", s.config.User, pg.Message)
	case pg.Code == "25006":
		return fmt.Errorf("the database is read-only (%s); connect to the primary", pg.Message)
	}
	return err
}

const remedyRowSecurity = "connect as the table's owner (where it is not forced on the owner, too), or give the role BYPASSRLS"

// again reports whether a transaction may be tried again as it is.
func again(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock not available
		return true
	}
	return false
}
