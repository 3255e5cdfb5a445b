// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

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
