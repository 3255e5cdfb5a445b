// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/nearest"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgrows"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
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

// sideColumns are the columns of the side schema's tables with their types and defaults, as PostgreSQL writes them for a
// session of ours. A column that an earlier release did not make may be missing; none may be there beside them.
var sideColumns = map[string]map[string][2]string{
	"jobs": {
		"id": {"integer"}, "name": {"text"}, "holder": {"text", "''::text"},
		"until": {"timestamp with time zone", "'-infinity'::timestamp with time zone"},
		"found": {"jsonb", "'{}'::jsonb"}, "rank": {"integer", "0"},
	},
	"columns": {
		"id": {"integer"}, "job": {"integer"}, "name": {"text"}, "chunks": {"integer", "0"}, "last": {"text[]"},
		"complete": {"boolean", "false"},
	},
	"chunks": {
		"col": {"integer"}, "n": {"integer"}, "after": {"text[]"}, "upto": {"text[]"}, "holder": {"text"},
		"until": {"timestamp with time zone"}, "done": {"boolean", "false"}, "total": {"integer"}, "staged": {"integer"},
		"rotated": {"integer"}, "other": {"integer"}, "bad": {"integer"}, "bads": {"text[]"},
	},
}

var (
	stagedTable = regexp.MustCompile(`^rows_[0-9]+$`)
	stagedKey   = regexp.MustCompile(`^k[0-9]+$`)
)

// strangers finds whatever in the side schema we have not made: each row is a finding in words. What could run with our
// rights when we write there comes first of all: triggers, rules, policies, tables that inherit, checks, indexes over
// expressions. So does anything of another owner, who could add them at any time.
const strangers = `
	WITH side AS (SELECT oid, nspowner FROM pg_namespace WHERE nspname = 'hyvve_reencrypt'),
		us AS (SELECT oid FROM pg_roles WHERE rolname = current_user),
		rel AS (SELECT c.* FROM pg_class c JOIN side ON c.relnamespace = side.oid)
	SELECT 0 AS rank, 'it is there and belongs to role ' || pg_get_userbyid(side.nspowner) || ', not to ' || current_user AS what
		FROM side, us WHERE side.nspowner <> us.oid
	UNION ALL SELECT 1, relname || ' in it belongs to role ' || pg_get_userbyid(relowner) || ', not to ' || current_user FROM rel, us WHERE relowner <> us.oid
	UNION ALL SELECT 2, relname || ' in it is no ordinary table' FROM rel
		WHERE relkind NOT IN ('r', 'i', 'S') OR relkind = 'r' AND (relpersistence <> 'p' OR reloftype <> 0 OR relispartition OR relrowsecurity OR relforcerowsecurity)
	UNION ALL SELECT 3, relname || ' in it has trigger ' || tgname FROM rel JOIN pg_trigger ON tgrelid = rel.oid WHERE NOT tgisinternal
	UNION ALL SELECT 4, relname || ' in it has rule ' || rulename FROM rel JOIN pg_rewrite ON ev_class = rel.oid
	UNION ALL SELECT 5, relname || ' in it has policy ' || polname FROM rel JOIN pg_policy ON polrelid = rel.oid
	UNION ALL SELECT 6, relname || ' in it inherits, or is inherited from' FROM rel JOIN pg_inherits ON rel.oid IN (inhrelid, inhparent) WHERE relkind = 'r'
	UNION ALL SELECT 7, coalesce(rel.relname, 'a table') || ' has constraint ' || conname FROM pg_constraint LEFT JOIN rel ON rel.oid = conrelid
		WHERE rel.oid IS NOT NULL AND contype NOT IN ('p', 'u', 'f', 'n') OR contype = 'f' AND (rel.oid IS NULL) <> (confrelid NOT IN (SELECT r.oid FROM rel r))
	UNION ALL SELECT 8, rel.relname || ' in it has an index of somebody else' FROM rel JOIN pg_index i ON i.indrelid = rel.oid
		WHERE NOT i.indisunique OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
	UNION ALL SELECT 9, 'it has ' || pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d JOIN side ON d.refobjid = side.oid
		WHERE d.refclassid = 'pg_namespace'::regclass AND d.classid NOT IN ('pg_class'::regclass, 'pg_default_acl'::regclass)
	ORDER BY 1, 2 LIMIT 1`

// columnsThere are those of the tables in the side schema.
const columnsThere = `
	SELECT c.relname::text, a.attname::text, format_type(a.atttypid, NULL), coalesce(pg_get_expr(d.adbin, d.adrelid), ''), a.attgenerated::text, t.typtype = 'd'
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum LEFT JOIN pg_type t ON t.oid = a.atttypid
	WHERE n.nspname = 'hyvve_reencrypt' AND c.relkind = 'r'`

// owned refuses a side schema that is not exactly as we make it, and ours alone: somebody else who owns a part of it could
// read what we put there, and whatever hangs at its tables would run with our rights. A role that we are a member of is
// somebody else, too. Once all of it is ours, nobody but us (or a superuser) can change it, so that it stays as it was found.
func owned(ctx context.Context, tx pgx.Tx) error {
	var rank int
	var what string
	err := tx.QueryRow(ctx, strangers).Scan(&rank, &what)
	if errors.Is(err, pgx.ErrNoRows) {
		what, err = strangeColumn(ctx, tx)
	}
	if err != nil || what == "" {
		return err
	}
	return fmt.Errorf("%s; end its owner's job as that role (reencrypt --wipe), or drop the schema if nobody needs it: DROP SCHEMA hyvve_reencrypt CASCADE", what)
}

// strangeColumn names a column that is not as we make it.
func strangeColumn(ctx context.Context, tx pgx.Tx) (what string, err error) {
	rows, err := tx.Query(ctx, columnsThere)
	if err != nil {
		return "", err
	}
	var table string
	var name, kind, fallback, generated *string
	var domain *bool
	_, err = pgx.ForEachRow(rows, []any{&table, &name, &kind, &fallback, &generated, &domain}, func() error {
		switch {
		case what != "":
		case sideColumns[table] == nil && !stagedTable.MatchString(table):
			what = "it has table " + table
		case name == nil: // without columns, which the first statement will say
		case *generated != "" || *domain || !asWeMake(table, *name, *kind, *fallback):
			what = fmt.Sprintf("column %s of %s in it is not as hyvve-sidecar makes it", *name, table)
		}
		return nil
	})
	return what, err
}

func asWeMake(table, name, kind, fallback string) bool {
	if want, ok := sideColumns[table][name]; ok {
		return want == [2]string{kind, fallback}
	}
	if !stagedTable.MatchString(table) || fallback != "" {
		return false
	}
	return stagedKey.MatchString(name) || slices.Contains([]string{"old", "new"}, name) && kind == "text"
}

// refuseSuperuser refuses a login as a superuser: whatever a mistake, or somebody's trigger, runs in its session may do
// anything at the server.
func refuseSuperuser(ctx context.Context, db *session) error {
	var names []string
	err := db.tx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT rolname::text FROM pg_roles WHERE rolsuper AND rolname IN (session_user, current_user) ORDER BY 1")
		if err == nil {
			names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		return err
	})
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("role %s of the database URL is a superuser, as whom code of the database's own could do anything at the server; give the URL of a role that may SELECT and UPDATE the protected columns and CREATE in the database, or allow it: allow_superuser = true in the sidecar's reencrypt block, --allow-superuser by hand", strings.Join(names, " and "))
	}
	return err
}

// maxMessage is how long a message of the server may be: no value of PostgreSQL is longer than 1 GB, and an envelope is far
// shorter than this.
const maxMessage = 256 << 20

// Parameters of a Prisma URL that are Prisma's own: the server would refuse them. Source: Prisma's reference of
// PostgreSQL connection URLs.
var prismaOnly = []string{
	"pgbouncer", "schema", "connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size",
	"sslaccept", "sslidentity", "single_use_connections",
}

// Parameters that pgx understands or that every server does.
var serverKnows = []string{
	"host", "port", "channel_binding", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslsni", "sslnegotiation", "connect_timeout", "application_name",
	"target_session_attrs", "options", "search_path", "statement_timeout", "lock_timeout", "timezone",
}

// database is what a URL says.
type database struct {
	config *pgx.ConnConfig
	schema string // of tables whose column names none
}

// parseURL reads a PostgreSQL URL as Prisma does. Errors do not hold the password.
func parseURL(text string) (database, error) {
	target, err := dsn.Postgres(text)
	if err != nil {
		return database{}, fmt.Errorf("the database URL cannot be used: %w", err)
	}
	query := target.Query()
	d := database{schema: query.Get("schema")}
	bouncer := query.Get("pgbouncer") == "true" || query.Get("statement_cache_size") == "0"
	strict := strings.EqualFold(query.Get("sslaccept"), "strict")
	if strict && query.Get("sslmode") == "require" {
		query.Set("sslmode", "verify-full")
	}
	if root := query.Get("sslcert"); root != "" && query.Get("sslkey") == "" { // Prisma's sslcert is the server's CA
		query.Del("sslcert")
		if strict { // otherwise Prisma takes any certificate
			query.Set("sslrootcert", root)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case slices.Contains(prismaOnly, name):
			query.Del(name)
		case !slices.Contains(serverKnows, name):
			if near := nearest.To(name, slices.Concat(prismaOnly, serverKnows)); near != "" {
				return database{}, fmt.Errorf("the database URL has parameter %q, which is neither PostgreSQL's nor Prisma's; is it %q?", name, near)
			}
			query.Del(name) // read already, as hostaddr; hosts and libraries add marks of their own, and Prisma passes over them
		}
	}
	hosts, ports := target.Hosts.Lists()
	query.Set("host", hosts)
	query.Set("port", ports)
	u := url.URL{Scheme: target.Scheme, User: url.UserPassword(target.User, target.Password.Reveal()), Path: "/" + target.Database}
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20") // pgx, as libpq, takes a plus for one
	if d.config, err = pgx.ParseConfig(u.String()); err != nil {
		return database{}, unusable(err, &u)
	}
	d.config.LookupFunc = pgconn.LookupFunc(target.Hosts.Resolver(dsn.Resolver(d.config.LookupFunc)))
	pgsession.Limit(&d.config.Config, maxMessage)
	if bouncer { // no statement may be prepared behind a pooler that hands out servers by transaction
		d.config.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	if d.config.RuntimeParams["application_name"] == "" {
		d.config.RuntimeParams["application_name"] = "hyvve-reencrypt"
	}
	return d, nil
}

// unusable says why pgx refuses a URL, without the URL. A password that the reason happens to hold takes the reason with
// it: blotting it out would show where it stands.
func unusable(err error, u *url.URL) error {
	const message = "the database URL cannot be used"
	cause := errors.Unwrap(err)
	password, _ := u.User.Password()
	if cause == nil || password != "" && strings.Contains(cause.Error(), password) {
		return errors.New(message + "; check its port, its sslmode and the files that it names")
	}
	return fmt.Errorf("%s: %s", message, cause.Error())
}
