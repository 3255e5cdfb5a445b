// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// Versions of the server from which rights work differently, as server_version_num.
const (
	parameterRights = 150000 // GRANT SET ON PARAMETER
	adminOption     = 160000 // CREATEROLE changes only the roles that it has the admin option on
)

var _ kind.Preflighter = (*Kind)(nil)

// Preflight implements kind.Preflighter: whose the roles are, the administrator's rights on each of them, the owner, its
// settings, and what depends on the name that a session logs in with.
func (k *Kind) Preflight(ctx context.Context, c kind.Change) (blockers, notes []string, err error) {
	from, to, err := urls.Both(c)
	if err != nil {
		return nil, nil, err
	}
	p := preflight{Change: c, from: from.User, to: to.User}
	if p.fails(k.CheckChange(c)) {
		return p.blockers, nil, nil
	}
	a, err := k.administrator(ctx, c.Connection)
	if err != nil {
		return nil, nil, err
	}
	found, err := k.roles(ctx, c, to.User, from.User)
	if err != nil {
		return nil, nil, err
	}
	p.administrator, p.found = a, found
	p.retires()
	var o owner
	if roleNames.Ours(c.Key, to.User) {
		o = p.lends(k.proves(ctx, c, to))
		if settings := p.settings(o); len(settings) > 0 {
			lacks, err := k.lacksParameters(ctx, c.Connection, a, settings)
			if err != nil {
				return nil, nil, err
			}
			p.parameters(o, lacks)
		}
	}
	p.fails(k.reaches(ctx, c, from, to, found, o))
	p.grants(o)
	p.notes = slices.Concat(p.notes, leftovers(c, found), revived(c, found))
	if p.from != "" && p.from != p.to && !p.Cut {
		p.notes = append(p.notes, k.cannotCount(ctx, c.Connection)...)
	}
	if o.name != "" {
		uses, unseen := k.sessionUser(ctx, c, a, o.name)
		p.sessionUser(o, uses, unseen)
	}
	return p.blockers, p.notes, nil
}

// preflight is what is known before a change, and what follows from it.
type preflight struct {
	kind.Change
	administrator administrator
	found         map[string]known
	from, to      string

	blockers, notes []string
}

func (p *preflight) block(format string, args ...any) {
	p.blockers = append(p.blockers, fmt.Sprintf(format, args...))
}

// fails blocks if there is an error.
func (p *preflight) fails(err error) bool {
	if err != nil {
		p.block("%s", err.Error())
	}
	return err != nil
}

// roles asks the server for a change's roles and its owner.
func (k *Kind) roles(ctx context.Context, c kind.Change, role, present string) (found map[string]known, err error) {
	err = k.admin(ctx, c.Connection, home(c.Connection), func(conn *pgx.Conn) error {
		results, err := together(ctx, conn, lookUp(c, role, present))
		if err != nil {
			return err
		}
		found, _, err = readRoles(results[0])
		return err
	})
	return found, err
}

// retires checks what Retire needs.
func (p *preflight) retires() {
	of, there := p.found[p.from]
	if p.from == p.to || !there {
		return
	}
	p.fails(mayRetire(p.Change, of, p.from))
	if p.Cut && !p.administrator.super && !p.administrator.signals {
		p.block("administrator %s may not end the sessions of role %s; grant it with: GRANT pg_signal_backend TO %s", p.administrator.name, p.from, p.administrator.quoted)
	}
}

// lends checks what Stage needs of the roles, and returns the owner; without a name, where it is not known.
func (p *preflight) lends(proven proof) owner {
	if err := mayStage(p.Change, p.found, p.from, p.to, proven); !errors.As(err, new(kind.Occupied)) {
		p.fails(err)
	}
	o, err := findOwner(p.Change, p.found, p.administrator.version, p.From)
	if p.fails(err) {
		return owner{}
	}
	p.fails(o.safe(p.found[o.name], p.Connection))
	if from, to := p.found[p.from], p.found[p.to]; p.from != p.to && from.Replicates && !to.Replicates {
		p.notes = append(p.notes, fmt.Sprintf("role %s has REPLICATION, which login roles are not given: a client that replicates (a subscription, pg_basebackup, Debezium) will not be able to with the new version. Give such clients a role of their own", from.Quoted))
	}
	return o
}

// grants checks the rights on the roles that there are. A new one is the administrator's.
func (p *preflight) grants(o owner) {
	a := p.administrator
	if a.super {
		return
	}
	if !a.creates {
		p.block("administrator %s lacks CREATEROLE; grant it with: ALTER ROLE %s CREATEROLE", a.name, a.quoted)
	}
	changes := []string{p.from} // are locked, made to log in, or commented on
	if roleNames.Ours(p.Key, p.to) {
		changes = append(changes, p.to)
	}
	if p.from == p.to {
		changes = nil
	}
	if o.name != "" && !slices.Contains(p.found[p.to].Acts, o.name) {
		changes = append(changes, o.name)
	}
	var lacks []string
	for n, role := range changes {
		of, there := p.found[role]
		switch {
		case !there || slices.Contains(changes[:n], role):
		case of.Super && role != o.name:
			p.block("role %s is a superuser, which only a superuser may change; take that away (as a superuser: ALTER ROLE %s NOSUPERUSER), or give connection %s a superuser", role, of.Quoted, p.Connection.Name)
		case of.Replicates && a.version < adminOption && (role == p.from || role == p.to):
			p.block("role %s has REPLICATION, and before PostgreSQL 16 only a superuser may change such a role; take that away (as a superuser: ALTER ROLE %s NOREPLICATION), or give connection %s a superuser", role, of.Quoted, p.Connection.Name)
		case a.version >= adminOption && !of.Admin:
			lacks = append(lacks, of.Quoted)
		}
	}
	if len(lacks) > 0 {
		for _, role := range roleNames.Of(p.Key) { // the next rotations need them
			of := p.found[role]
			if m, ok := readMark(of.Comment); ok && m.of(p.Key) && !of.Admin && !slices.Contains(lacks, of.Quoted) {
				lacks = append(lacks, of.Quoted)
			}
		}
		p.block("administrator %s lacks the admin option on roles that this rotation changes or lends; grant it, as a superuser, with: GRANT %s TO %s WITH ADMIN OPTION", a.name, strings.Join(lacks, ", "), a.quoted)
	}
}

// leftovers names login roles that a version holds which Vault has never had, as after a restore of Vault.
func leftovers(c kind.Change, found map[string]known) (notes []string) {
	for _, role := range roleNames.Of(c.Key) {
		of := found[role]
		if m, ok := readMark(of.Comment); ok && of.Login && m.of(c.Key) && m.unknown(c) {
			notes = append(notes, fmt.Sprintf("role %s logs in with version %d, which Vault does not know; when nobody uses it any more: ALTER ROLE %s NOLOGIN", role, m.version, of.Quoted))
		}
	}
	return notes
}

// settings are those of the owner that the login role has to be given.
func (p *preflight) settings(o owner) []setting {
	if p.administrator.super || o.name == "" {
		return nil
	}
	wanted := append(slices.Clone(o.settings), setting{name: "role", value: o.name})
	if same(p.found[p.to].settings(), wanted) {
		return nil
	}
	return o.settings
}

// lacksParameters returns the parameters that the administrator may not set for a role: those of superusers, and those that
// the server does not know, such as an application's own, unless it has been granted them.
func (k *Kind) lacksParameters(ctx context.Context, c kind.Connection, a administrator, settings []setting) (lacks []string, err error) {
	var names []string
	for _, s := range settings {
		names = append(names, s.name)
	}
	granted := "false"
	if a.version >= parameterRights {
		granted = "has_parameter_privilege(asked.name, 'SET')"
	}
	err = k.admin(ctx, c, home(c), func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
			SELECT DISTINCT asked.name FROM unnest($1::text[]) AS asked(name)
				LEFT JOIN pg_settings s ON lower(s.name) = lower(asked.name)
			WHERE coalesce(s.context, 'superuser') NOT IN ('user', 'backend') AND NOT `+granted+`
			ORDER BY 1`, names)
		if err != nil {
			return err
		}
		lacks, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return lacks, err
}

func (p *preflight) parameters(o owner, lacks []string) {
	if len(lacks) == 0 {
		return
	}
	var names, resets []string
	for _, name := range lacks {
		quoted := parameter(name)
		names, resets = append(names, quoted), append(resets, fmt.Sprintf("ALTER ROLE %s RESET %s", p.found[o.name].Quoted, quoted))
	}
	remedy := fmt.Sprintf("grant it, as a superuser, with: GRANT SET ON PARAMETER %s TO %s", strings.Join(names, ", "), p.administrator.quoted)
	if p.administrator.version < parameterRights {
		remedy = "before PostgreSQL 15 that cannot be granted: give the connection a superuser, or take the settings away: " + strings.Join(resets, "; ")
	}
	p.block("the login roles are given the settings of %s, and administrator %s may not set %s; %s", o.name, p.administrator.name, strings.Join(lacks, ", "), remedy)
}

// parameter quotes the name of a parameter, part by part.
func parameter(name string) string {
	parts := strings.Split(name, ".")
	for n, part := range parts {
		parts[n] = quoteIfNeeded(part)
	}
	return strings.Join(parts, ".")
}

// sessionUser says what depends on the name that a session logs in with, which changes with each rotation.
func (p *preflight) sessionUser(o owner, uses []sessionUse, unseen []string) {
	p.notes = append(p.notes, unseen...)
	var others []string
	for _, u := range uses {
		if u.decides && p.Key.Options[optionSessionUser] != "true" {
			p.block("%s: %s goes by session_user, which is another login role after each rotation: rows would vanish from the application without an error. Write current_user there (sessions act as %s); or, if the policy is right for %s, too: vault write hyvve/keys/%s %s=true",
				u.database, u.object, o.name, p.to, p.Key.Name, optionSessionUser)
			continue
		}
		others = append(others, u.database+": "+u.object)
	}
	if others = login.Few(others, 20); len(others) > 0 {
		p.notes = append(p.notes, fmt.Sprintf("session_user is another login role after each rotation, and these go by it: %s; current_user stays %s", strings.Join(others, "; "), o.name))
	}
}

// databasesOf returns those that a version's sessions use.
func databasesOf(c kind.Change) (all []string, err error) {
	rendered, err := urls.Rendered(c.Key, c.To)
	if err != nil {
		return nil, err
	}
	for _, one := range rendered {
		if u, err := dsn.Stored(one.Text, urls.Schemes...); err == nil && !slices.Contains(all, u.Path()) {
			all = append(all, u.Path())
		}
	}
	return all, nil
}

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
