// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// sessionUse is something in a database that depends on session_user.
type sessionUse struct {
	database string
	object   string // in words
	decides  bool   // which rows the owner sees or may write
}

// maxUses is how many of them are read: who may make objects could make a million. maxObject is the length of one in words,
// which has a name and that of its table with its schema.
const (
	maxUses   = 1000
	maxObject = 500
)

// functionBodies is from which version on functions have bodies that are not text.
const functionBodies = 140000

// sessionUser looks for what depends on session_user in the databases of a change, in schemas that the owner can use. What
// it cannot look at is returned in words.
func (k *Kind) sessionUser(ctx context.Context, c kind.Change, a administrator, owner string) (uses []sessionUse, unseen []string) {
	databases, err := databasesOf(c)
	if err != nil {
		return nil, []string{err.Error()}
	}
	for _, database := range databases {
		found, err := k.sessionUserIn(ctx, c.Connection, a, database, owner)
		if err != nil {
			unseen = append(unseen, fmt.Sprintf("database %s was not searched for policies, views and functions that go by session_user: %v", database, err))
		}
		uses = append(uses, found...)
	}
	return uses, unseen
}

func (k *Kind) sessionUserIn(ctx context.Context, c kind.Connection, a administrator, database, owner string) (uses []sessionUse, err error) {
	search := func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, sessionUserQuery(a.version), owner)
		if err != nil {
			return err
		}
		uses, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (sessionUse, error) {
			u := sessionUse{database: database}
			err := row.Scan(&u.object, &u.decides)
			u.object = kind.Line(u.object, maxObject) // the application has chosen its name
			return u, err
		})
		return err
	}
	at := home(c)
	if at.database == database {
		return uses, k.admin(ctx, c, at, search)
	}
	at.database = database
	for _, password := range c.Passwords() {
		if err = k.login(ctx, c, at, a.name, password, search); !refused(err) {
			break
		}
	}
	return uses, err
}

// sessionUserQuery asks, for owner $1, for what depends on session_user. Expressions are the server's own rendering, which
// writes SESSION_USER for it; what stands in quotes in them is something else. Functions are searched as text, so that one
// may be named which only mentions it.
func sessionUserQuery(version int) string {
	body := "p.prosrc"
	if version >= functionBodies {
		body = "coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)"
	}
	uses := func(expression string) string {
		return `(regexp_replace(` + expression + `, $re$'(?:[^']|'')*'|"(?:[^"]|"")*"$re$, '', 'g') ~ '\m(SESSION_USER|getpgusername)\M' OR ` + expression + ` ~ '''session_authorization''')`
	}
	named := func(what, table string) string {
		return `format('` + what + ` on %I.%I', n.nspname, ` + table + `.relname)`
	}
	return `
		WITH usable AS (
			SELECT oid, nspname FROM pg_namespace
			WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema' AND has_schema_privilege($1::text, oid, 'USAGE')
		), functions AS (
			SELECT p.oid, n.nspname, p.proname FROM pg_proc p JOIN usable n ON n.oid = p.pronamespace
			WHERE p.prokind IN ('f', 'p') AND ` + body + ` ~* '\m(session_user|getpgusername|session_authorization)\M'
		), policies AS (
			SELECT ` + named("policy ' || quote_ident(l.polname) || '", "c") + ` AS object,
				c.relrowsecurity AND (c.relforcerowsecurity OR NOT pg_has_role($1::text, c.relowner, 'USAGE'))
					AND NOT (SELECT rolbypassrls OR rolsuper FROM pg_roles WHERE rolname = $1::text)
					AND EXISTS (SELECT FROM unnest(l.polroles) r WHERE r = 0 OR pg_has_role($1::text, r, 'USAGE'))
					AND (has_any_column_privilege($1::text, c.oid, 'SELECT, INSERT, UPDATE') OR has_table_privilege($1::text, c.oid, 'DELETE')) AS decides
			FROM pg_policy l JOIN pg_class c ON c.oid = l.polrelid JOIN usable n ON n.oid = c.relnamespace
			WHERE ` + uses("concat_ws(' ', pg_get_expr(l.polqual, l.polrelid), pg_get_expr(l.polwithcheck, l.polrelid))") + `
				OR EXISTS (SELECT FROM pg_depend d JOIN functions f ON f.oid = d.refobjid
					WHERE d.classid = 'pg_policy'::regclass AND d.objid = l.oid AND d.refclassid = 'pg_proc'::regclass)
		)
		SELECT object, decides FROM policies
		UNION ALL
		SELECT 'default of ' || format('%I.%I.%I', n.nspname, c.relname, t.attname), false
		FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid JOIN usable n ON n.oid = c.relnamespace
			JOIN pg_attribute t ON t.attrelid = c.oid AND t.attnum = d.adnum
		WHERE ` + uses("pg_get_expr(d.adbin, d.adrelid)") + `
		UNION ALL
		SELECT CASE WHEN c.relkind IN ('v', 'm') THEN 'view ' || format('%I.%I', n.nspname, c.relname) ELSE ` + named("rule ' || quote_ident(r.rulename) || '", "c") + ` END, false
		FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN usable n ON n.oid = c.relnamespace
		WHERE ` + uses("pg_get_ruledef(r.oid)") + `
		UNION ALL
		SELECT 'constraint ' || quote_ident(k.conname) || ' of ' || format('%I.%I', n.nspname, coalesce(c.relname, t.typname)), false
		FROM pg_constraint k LEFT JOIN pg_class c ON c.oid = k.conrelid LEFT JOIN pg_type t ON t.oid = k.contypid JOIN usable n ON n.oid = k.connamespace
		WHERE k.contype = 'c' AND ` + uses("pg_get_constraintdef(k.oid)") + `
		UNION ALL
		SELECT ` + named("trigger ' || quote_ident(g.tgname) || '", "c") + `, false
		FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN usable n ON n.oid = c.relnamespace
		WHERE NOT g.tgisinternal AND ` + uses("pg_get_triggerdef(g.oid)") + `
		UNION ALL
		SELECT 'function ' || format('%I.%I', f.nspname, f.proname), false FROM functions f
		WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e')
		ORDER BY 2 DESC, 1 LIMIT ` + strconv.Itoa(maxUses)
}
