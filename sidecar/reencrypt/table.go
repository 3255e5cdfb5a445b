// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// table is a protected column with what the catalogue says of its table.
type table struct {
	column key.Column
	keys   []keyColumn // primary key, in order
}

type keyColumn struct{ name, kind string } // kind as format_type writes it

// describe looks a column up, and refuses what could not be rewritten safely.
func describe(ctx context.Context, db *pool, c key.Column) (table, error) {
	if c.Schema == "" {
		c.Schema = db.schema
	}
	t := table{column: c}
	err := db.tx(ctx, func(tx pgx.Tx) error {
		var kind, relation string
		err := tx.QueryRow(ctx, `
			SELECT format_type(a.atttypid, a.atttypmod), r.relkind::text
			FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid JOIN pg_namespace n ON n.oid = r.relnamespace
			WHERE n.nspname = $1 AND r.relname = $2 AND a.attname = $3 AND NOT a.attisdropped AND a.attnum > 0`,
			c.Schema, c.Table, c.Column).Scan(&kind, &relation)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("column %s does not exist in the database, or role %s may not see it; check the key's protects and the database URL", c, db.config.User)
		}
		if err != nil {
			return err
		}
		if relation != "r" && relation != "p" {
			return fmt.Errorf("%s is not a column of a table; envelopes can be rewritten in tables only", c)
		}
		if kind != "text" && !strings.HasPrefix(kind, "character varying") {
			return fmt.Errorf("column %s is of type %s; envelopes are text", c, kind)
		}
		rows, err := tx.Query(ctx, `
			SELECT a.attname, format_type(a.atttypid, a.atttypmod)
			FROM pg_index i JOIN pg_class r ON r.oid = i.indrelid JOIN pg_namespace n ON n.oid = r.relnamespace
			CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, at)
			JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = k.attnum
			WHERE i.indisprimary AND n.nspname = $1 AND r.relname = $2 ORDER BY k.at`, c.Schema, c.Table)
		if err != nil {
			return err
		}
		t.keys, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (keyColumn, error) {
			var k keyColumn
			err := row.Scan(&k.name, &k.kind)
			return k, err
		})
		return err
	})
	if err == nil && len(t.keys) == 0 {
		err = fmt.Errorf("table %s has no primary key, so that its rows cannot be told apart; add one", c.Table)
	}
	return t, err
}

// name is the quoted name of the table.
func (t table) name() string { return pgx.Identifier{t.column.Schema, t.column.Table}.Sanitize() }

// value is the quoted name of the column, of alias t.
func (t table) value() string { return "t." + quoted(t.column.Column) }

// id is the primary key as a JSON array of texts, of alias t.
func (t table) id() string {
	parts := make([]string, 0, len(t.keys))
	for _, k := range t.keys {
		parts = append(parts, "t."+quoted(k.name)+"::text")
	}
	return "jsonb_build_array(" + strings.Join(parts, ", ") + ")"
}

// matches compares the primary key with the JSON array of an expression, so that the index is used.
func (t table) matches(id string) string {
	parts := make([]string, 0, len(t.keys))
	for n, k := range t.keys {
		parts = append(parts, fmt.Sprintf("t.%s = (%s->>%d)::%s", quoted(k.name), id, n, k.kind))
	}
	return strings.Join(parts, " AND ")
}

// after compares for keyset pagination with the JSON array of an expression.
func (t table) after(id string) string {
	var left, right []string
	for n, k := range t.keys {
		left = append(left, "t."+quoted(k.name))
		right = append(right, fmt.Sprintf("(%s->>%d)::%s", id, n, k.kind))
	}
	return fmt.Sprintf("(%s) > (%s)", strings.Join(left, ", "), strings.Join(right, ", "))
}

// order is the primary key as an ORDER BY.
func (t table) order() string {
	parts := make([]string, 0, len(t.keys))
	for _, k := range t.keys {
		parts = append(parts, "t."+quoted(k.name))
	}
	return strings.Join(parts, ", ")
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }

// pool is one connection's worth of a database: what a URL says, and how to run a transaction.
type pool struct {
	database
	conn *pgx.Conn
}

func connect(ctx context.Context, databaseURL string) (*pool, error) {
	d, err := parseURL(databaseURL)
	if err != nil {
		return nil, err
	}
	if d.schema == "" {
		d.schema = "public"
	}
	p := &pool{database: d}
	return p, p.reconnect(ctx)
}

// reconnect makes a new connection if there is none.
func (p *pool) reconnect(ctx context.Context) error {
	if p.conn != nil && !p.conn.IsClosed() {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, p.config)
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err) // pgx masks the password
	}
	p.conn = conn
	return nil
}

func (p *pool) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_ = p.conn.Close(ctx)
}

// localSettings undo what a role or database may have set for the application's short queries.
const localSettings = `SET LOCAL row_security = off; SET LOCAL lock_timeout = '500ms';
	SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`

// tx runs do in a transaction that no row-level security can hide rows from: where a policy would, PostgreSQL refuses
// the query, and so do we. The settings are local, since a pooler may give each transaction another server.
func (p *pool) tx(ctx context.Context, do func(tx pgx.Tx) error) error {
	if err := p.reconnect(ctx); err != nil {
		return err
	}
	err := pgx.BeginFunc(ctx, p.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, localSettings); err != nil {
			return err
		}
		return do(tx)
	})
	return p.explain(err)
}

// explain puts remedies to errors that an operator can mend.
func (p *pool) explain(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch {
	case pg.Code == "42501" && strings.Contains(pg.Message, "row-level security"):
		return fmt.Errorf("row-level security would hide rows of a protected table from role %s (%s): connect as the table's owner, or give the role BYPASSRLS", p.config.User, pg.Message)
	case pg.Code == "42501":
		return fmt.Errorf("role %s lacks a right: %s; it needs SELECT and UPDATE on the protected tables and CREATE on the database", p.config.User, pg.Message)
	case pg.Code == "25006":
		return fmt.Errorf("the database is read-only (%s); connect to the primary", pg.Message)
	}
	return err
}

// again tells whether a transaction may be tried again as it is.
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
