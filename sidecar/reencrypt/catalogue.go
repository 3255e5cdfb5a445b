// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgrows"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// describe looks columns up, and refuses what could not be rewritten safely: all of it is found out before anything is
// written.
func describe(ctx context.Context, db *session, columns []key.Column, o Options) (tables []table, place workload.Place, err error) {
	err = db.tx(ctx, func(tx pgx.Tx) error {
		role, err := writable(ctx, tx)
		if err != nil {
			return err
		}
		for _, c := range columns {
			if c.Schema == "" {
				c.Schema = db.schema
			}
			t, err := describeOne(ctx, tx, role, c)
			if err == nil {
				err = t.fit(ctx, tx, role, o)
			}
			if err != nil {
				return err
			}
			tables = append(tables, t)
		}
		place, err = pgrows.Place(ctx, tx, placesOf(tables))
		return err
	})
	return tables, place, err
}

func placesOf(tables []table) (all []workload.PlaceTable) {
	for _, t := range tables {
		all = append(all, workload.PlaceTable{Column: t.column.String(), OID: t.oid})
	}
	return all
}

// writable refuses a replica, and a database that somebody has made read-only. It returns the role that we act as, which may
// be another than the one that logged in.
func writable(ctx context.Context, tx pgx.Tx) (role string, err error) {
	var replica bool
	var readOnly string
	if err := tx.QueryRow(ctx, "SELECT current_user::text, pg_is_in_recovery(), current_setting('transaction_read_only')").Scan(&role, &replica, &readOnly); err != nil {
		return role, err
	}
	switch {
	case replica:
		return role, errors.New("the database is a read-only replica; connect to the primary")
	case readOnly == "on":
		return role, errors.New("transactions of this role or database are read-only (default_transaction_read_only); connect as a role that may write")
	}
	return role, nil
}

func describeOne(ctx context.Context, tx pgx.Tx, role string, c key.Column) (table, error) {
	t := table{column: c}
	var err error
	if t.oid, err = pgrows.Find(ctx, tx, role, c); err != nil {
		return t, err
	}
	if t.keys, err = primaryKey(ctx, tx, t.oid); err != nil {
		return t, err
	}
	var texts []string // columns that are made text
	for _, term := range t.column.Where {
		texts = append(texts, term.Column)
	}
	for _, k := range t.keys {
		texts = append(texts, k.name)
	}
	if err := pgrows.NoCasts(ctx, tx, c.Table, t.oid, texts); err != nil {
		return t, err
	}
	switch {
	case err == nil && len(t.keys) == 0:
		err = fmt.Errorf("table %s has no primary key, so that its rows cannot be identified; add one", c.Table)
	case slices.ContainsFunc(t.keys, func(k keyColumn) bool { return k.name == c.Column }):
		err = fmt.Errorf("column %s is part of its table's primary key, by which rows are found again; envelopes in keys cannot be rewritten", c)
	}
	return t, err
}

// primaryKey returns the columns of a table's primary key with the operators of its index (strategies of btree: 2 is at most, 3
// equal, 5 more).
func primaryKey(ctx context.Context, tx pgx.Tx, table uint32) ([]keyColumn, error) {
	found, err := tx.Query(ctx, pgrows.BaseTypes+`
		SELECT a.attname::text, tn.nspname::text, ty.typname::text,
			(SELECT array_agg(ARRAY[n.nspname::text, o.oprname::text] ORDER BY m.amopstrategy)
				FROM pg_amop m JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
				WHERE m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype AND m.amopstrategy IN (2, 3, 5))
		FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey, i.indclass) WITH ORDINALITY AS k(attnum, class, at)
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
		JOIN pg_opclass c ON c.oid = k.class
		JOIN bases b ON b.type = a.atttypid JOIN pg_type ty ON ty.oid = b.base JOIN pg_namespace tn ON tn.oid = ty.typnamespace
		WHERE i.indisprimary AND i.indrelid = $1 ORDER BY k.at`, table)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, func(row pgx.CollectableRow) (k keyColumn, err error) {
		var schema, kind string
		var operators [][]string
		if err := row.Scan(&k.name, &schema, &kind, &operators); err != nil {
			return k, err
		}
		k.kind = pgx.Identifier{schema, kind}.Sanitize()
		for n, into := range []*string{&k.atMost, &k.equal, &k.more} {
			if len(operators) != 3 || !slices.Contains([]string{"<=", "=", ">"}, operators[n][1]) && !operatorName(operators[n][1]) {
				return k, fmt.Errorf("the primary key's column %s has an index with operators of its own, by which rows cannot be identified safely", k.name)
			}
			*into = fmt.Sprintf("OPERATOR(%s.%s)", quoted(operators[n][0]), operators[n][1])
		}
		return k, nil
	})
}

// operatorName reports whether a name is of nothing but the characters of operators, and begins no comment.
func operatorName(name string) bool {
	return name != "" && strings.Trim(name, "+-*/<>=~!@#%^&|`?") == "" && !strings.Contains(name, "--") && !strings.Contains(name, "/*")
}

// fit refuses a table of which rows would be hidden, or whose update would do more or less than change a column.
func (t *table) fit(ctx context.Context, tx pgx.Tx, role string, o Options) error {
	var hidden, selects, updates bool
	err := tx.QueryRow(ctx, `
		SELECT row_security_active($1::oid), has_column_privilege($1::oid, $2::text, 'SELECT'), has_column_privilege($1::oid, $2::text, 'UPDATE')`,
		t.oid, t.column.Column).Scan(&hidden, &selects, &updates)
	switch {
	case err != nil:
		return err
	case hidden:
		return fmt.Errorf("row-level security would hide rows of %s from role %s: %s", t.column.Table, role, remedyRowSecurity)
	case !selects || !updates:
		return fmt.Errorf("role %s may not read and update %s; grant it: GRANT SELECT, UPDATE ON %s TO %s", role, t.column, t.name(), quoted(role))
	}
	if err := t.touches(ctx, tx, o.TouchColumn); err != nil {
		return err
	}
	for _, look := range []func(context.Context, pgx.Tx) error{t.parts, t.rules} {
		if err := look(ctx, tx); err != nil {
			return err
		}
	}
	return t.triggers(ctx, tx, o.AllowTriggers)
}

// touches takes the column that is set to the time of a change. A table may be without one.
func (t *table) touches(ctx context.Context, tx pgx.Tx, column string) error {
	if column == "" {
		return nil
	}
	var kind string
	err := tx.QueryRow(ctx, "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = $1 AND attname = $2 AND NOT attisdropped AND attnum > 0", t.oid, column).Scan(&kind)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err == nil && !strings.HasPrefix(kind, "timestamp"):
		return fmt.Errorf("column %s of %s, which is to be touched, is of type %s, and no timestamp", column, t.column.Table, kind)
	}
	t.touch, t.moment = column, "now()"
	if kind == "timestamp without time zone" { // Prisma writes UTC there, and the session's time zone may be another
		t.moment = "now() AT TIME ZONE 'UTC'"
	}
	return err
}

// parts refuses partitions that are elsewhere, and tables that inherit: their primary keys are their own.
func (t table) parts(ctx context.Context, tx pgx.Tx) error {
	var foreign, heir *string
	err := tx.QueryRow(ctx, `
		SELECT (SELECT min(p.relid::text) FROM pg_partition_tree($1::oid) p JOIN pg_class c ON c.oid = p.relid WHERE c.relkind = 'f'),
			(SELECT min(i.inhrelid::regclass::text) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1 AND NOT c.relispartition)`,
		t.oid).Scan(&foreign, &heir)
	switch {
	case err != nil:
		return err
	case foreign != nil:
		return fmt.Errorf("partition %s of %s is a foreign table; protect the column of each local partition instead, and re-encrypt the other at its server", *foreign, t.column.Table)
	case heir != nil:
		return fmt.Errorf("table %s inherits from %s, whose primary key does not hold for its rows; envelopes there cannot be rewritten safely", *heir, t.column.Table)
	}
	return nil
}

// rules refuses a table whose updates are rewritten.
func (t table) rules(ctx context.Context, tx pgx.Tx) error {
	var rule *string
	err := tx.QueryRow(ctx, "SELECT min(rulename::text) FROM pg_rewrite WHERE ev_class = $1 AND ev_type = '2' AND ev_enabled <> 'D'", t.oid).Scan(&rule)
	if err == nil && rule != nil {
		err = fmt.Errorf("rule %q of table %s rewrites updates; drop or disable it before", *rule, t.column.Table)
	}
	return err
}

// triggers refuses a table with triggers that our update would set off: they may change more, or the very column.
func (t table) triggers(ctx context.Context, tx pgx.Tx, allowed []string) error {
	found, err := tx.Query(ctx, `
		SELECT DISTINCT g.tgname::text FROM pg_trigger g
		WHERE g.tgrelid IN (SELECT $1::oid UNION SELECT p.relid::oid FROM pg_partition_tree($1::oid) p)
			AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A') AND g.tgtype & 16 <> 0
			AND (g.tgattr::text = '' OR EXISTS (
				SELECT FROM pg_attribute a WHERE a.attrelid = g.tgrelid AND a.attname IN ($2, $3) AND a.attnum = ANY (g.tgattr::int2[])))
		ORDER BY 1`, t.oid, t.column.Column, t.touch)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(allowed, name) })
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("an update of %s sets off trigger %s, which may change more than the column (updated_at, say); look at what it does, then allow it by name (allow_triggers of the sidecar, --allow-trigger by hand), or disable it meanwhile", t.column, strings.Join(names, " and "))
}
