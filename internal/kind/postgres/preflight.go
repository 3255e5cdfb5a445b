// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
