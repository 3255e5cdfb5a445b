// SPDX-License-Identifier: Apache-2.0

// Package pgrows is what everybody who looks at protected rows in PostgreSQL has in common: which columns may be looked at, which
// rows of them a key protects, and which database that is. The sidecar's re-encryption and the engine's own check use it.
// Transactions come from the caller, with the settings of package pgsession.
package pgrows

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
)

// Table is the quoted name of a column's table.
func Table(c key.Column) string { return pgx.Identifier{c.Schema, c.Table}.Sanitize() }

// Value is the quoted name of a column whose table has the alias t.
func Value(c key.Column) string { return "t." + pgsession.Quote(c.Column) }

// Protected is true of the rows of a table, with the alias t, that have an envelope of the key.
func Protected(c key.Column) string {
	return fmt.Sprintf("%s IS NOT NULL AND %s <> '' AND %s", Value(c), Value(c), Chosen(c))
}

// Chosen is true of the rows that the column's condition means.
func Chosen(c key.Column) string {
	parts := []string{"true"}
	for _, term := range c.Where {
		column := "t." + pgsession.Quote(term.Column)
		switch term.Is {
		case "=":
			parts = append(parts, fmt.Sprintf("%s::text = %s", column, pgsession.Literal(term.Value)))
		case "!=":
			parts = append(parts, fmt.Sprintf("%s::text IS DISTINCT FROM %s", column, pgsession.Literal(term.Value)))
		default: // is null, is not null: Validate has let nothing else in
			parts = append(parts, column+" "+term.Is)
		}
	}
	return strings.Join(parts, " AND ")
}

// Find looks a column up, which must name its schema, and returns the OID of its table. It refuses what is no text column of
// a table, and a condition on columns that are not there. role is that of the session, for messages.
func Find(ctx context.Context, tx pgx.Tx, role string, c key.Column) (oid uint32, err error) {
	var kind, relation, generated string
	err = tx.QueryRow(ctx, `
		SELECT r.oid, format_type(a.atttypid, a.atttypmod), r.relkind::text, a.attgenerated::text
		FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid JOIN pg_namespace n ON n.oid = r.relnamespace
		WHERE n.nspname = $1 AND r.relname = $2 AND a.attname = $3 AND NOT a.attisdropped AND a.attnum > 0`,
		c.Schema, c.Table, c.Column).Scan(&oid, &kind, &relation, &generated)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return oid, fmt.Errorf("column %s does not exist in the database, or role %s may not see it; check the key's protects and the database URL", c, role)
	case err != nil:
		return oid, err
	case relation == "f":
		return oid, fmt.Errorf("%s is a column of a foreign table; re-encrypt at the server that has its rows", c)
	case relation != "r" && relation != "p":
		return oid, fmt.Errorf("%s is not a column of a table; envelopes can be rewritten in tables only", c)
	case kind != "text" && !strings.HasPrefix(kind, "character varying"):
		return oid, fmt.Errorf("column %s is of type %s; envelopes are text", c, kind)
	case generated != "":
		return oid, fmt.Errorf("column %s is generated from others, and cannot be written; protect the column that it is made of", c)
	}
	for _, term := range c.Where {
		var there bool
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = $1 AND attname = $2 AND NOT attisdropped AND attnum > 0)", oid, term.Column).Scan(&there); err != nil {
			return oid, err
		}
		if !there {
			return oid, fmt.Errorf("column %s of the condition %q does not exist in table %s; check the key's protects", term.Column, term, c.Table)
		}
	}
	return oid, nil
}

// BaseTypes begins a query that needs to know what types are made of: bases has all types that are no domains, and what the
// domains are made of in the end.
const BaseTypes = `WITH RECURSIVE bases (type, base) AS (
	SELECT oid, oid FROM pg_type WHERE typtype <> 'd' UNION ALL SELECT d.oid, b.base FROM pg_type d JOIN bases b ON b.type = d.typbasetype WHERE d.typtype = 'd')`

// NoCasts refuses columns of a table which somebody's own function makes text, or makes of text: it would run as us, and may
// make of a value what it likes.
func NoCasts(ctx context.Context, tx pgx.Tx, table string, oid uint32, columns []string) error {
	var column, function string
	err := tx.QueryRow(ctx, BaseTypes+`
		SELECT a.attname::text, p.proname::text FROM pg_attribute a JOIN bases b ON b.type = a.atttypid
		JOIN pg_cast c ON c.castsource IN (a.atttypid, b.base) AND c.casttarget = 'text'::regtype OR c.castsource = 'text'::regtype AND c.casttarget IN (a.atttypid, b.base)
		JOIN pg_proc p ON p.oid = c.castfunc
		WHERE a.attrelid = $1 AND a.attname = ANY ($2) AND a.attnum > 0 AND NOT a.attisdropped AND p.pronamespace <> 'pg_catalog'::regnamespace LIMIT 1`,
		oid, columns).Scan(&column, &function)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("values of column %s of table %s become text by a cast of the database's own, function %s; drop the cast, since the function would run with our rights", column, table, function)
	}
	return err
}
