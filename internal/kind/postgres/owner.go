// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// owner is the role that sessions act as.
type owner struct {
	name        string
	connections int // at most, -1: any number
	version     int // server_version_num
	settings    []setting
}

// setting is one of ALTER ROLE … SET, in all databases or in one. Those of the role that logs in hold, not those of the role
// that it acts as, so that they are copied.
type setting struct {
	database string // empty: all
	name     string
	value    string // as the server keeps it
}

// findOwner finds out whom the sessions of a key act as: what its definition says, or whom those of the present version act
// as, or its role itself.
func findOwner(ctx context.Context, tx pgx.Tx, k key.Key, present string) (owner, error) {
	o := owner{name: k.Options[optionOwner]}
	if o.name == "" && present != "" {
		settings, err := settingsOf(ctx, tx, present)
		if err != nil {
			return o, err
		}
		o.name = present
		for _, s := range settings {
			if s.name == "role" && s.database == "" {
				o.name = s.value
			}
		}
	}
	if o.name == "" || ours(k, o.name) {
		return o, fmt.Errorf("key %s: whom its login roles should act as is not known; name the role in owner= of hyvve/keys/%s", k.Name, k.Name)
	}
	err := tx.QueryRow(ctx, "SELECT rolconnlimit, current_setting('server_version_num')::int FROM pg_roles WHERE rolname = $1", o.name).Scan(&o.connections, &o.version)
	if errors.Is(err, pgx.ErrNoRows) {
		return o, faultf("owner role %q does not exist at the server; make it, or name another one in owner= of hyvve/keys/%s", o.name, k.Name)
	}
	if err != nil {
		return o, err
	}
	o.settings, err = settingsOf(ctx, tx, o.name)
	return o, err
}

// lend makes a login role that acts as the owner, or makes one so that is there.
func (o owner) lend(ctx context.Context, tx pgx.Tx, role, verifier string) error {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role).Scan(&there); err != nil {
		return err
	}
	verb := "CREATE"
	if there {
		verb = "ALTER"
	}
	statements := []string{fmt.Sprintf("%s ROLE %s LOGIN INHERIT CONNECTION LIMIT %d VALID UNTIL 'infinity' PASSWORD %s", verb, quote(role), o.connections, literal(verifier))}
	member, err := o.member(ctx, tx, role)
	if err != nil {
		return err
	}
	if !member {
		statements = append(statements, o.grant(role))
	}
	old, err := settingsOf(ctx, tx, role)
	if err != nil {
		return err
	}
	statements = append(statements, resets(role, old)...)
	for _, s := range o.settings {
		if s.name != "role" && s.name != "session_authorization" {
			statements = append(statements, s.statement(role))
		}
	}
	statements = append(statements, setting{name: "role", value: o.name}.statement(role))
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// member tells whether the role may act as the owner already, and has its rights without asking.
func (o owner) member(ctx context.Context, tx pgx.Tx, role string) (bool, error) {
	condition := ""
	if o.version >= 160000 {
		condition = " AND m.inherit_option AND m.set_option"
	}
	var is bool
	err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles o ON o.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
			WHERE o.rolname = $1 AND r.rolname = $2`+condition+`)`, o.name, role).Scan(&is)
	return is, err
}

func (o owner) grant(role string) string {
	statement := fmt.Sprintf("GRANT %s TO %s", quote(o.name), quote(role))
	if o.version >= 160000 {
		statement += " WITH INHERIT TRUE, SET TRUE"
	}
	return statement
}

func settingsOf(ctx context.Context, tx pgx.Tx, role string) ([]setting, error) {
	rows, err := tx.Query(ctx, `
		SELECT coalesce(b.datname::text, ''), s FROM pg_db_role_setting d JOIN pg_roles r ON r.oid = d.setrole
			LEFT JOIN pg_database b ON b.oid = d.setdatabase, unnest(d.setconfig) s
		WHERE r.rolname = $1 AND (d.setdatabase = 0 OR b.datname IS NOT NULL) ORDER BY 1, 2`, role)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (setting, error) {
		var s setting
		var text string
		err := row.Scan(&s.database, &text)
		s.name, s.value, _ = strings.Cut(text, "=")
		return s, err
	})
}

// resets take all of a role's settings away.
func resets(role string, settings []setting) []string {
	statements := []string{}
	for _, s := range settings {
		statement := "ALTER ROLE " + quote(role) + s.in() + " RESET ALL"
		if !slices.Contains(statements, statement) {
			statements = append(statements, statement)
		}
	}
	return statements
}

func (s setting) in() string {
	if s.database == "" {
		return ""
	}
	return " IN DATABASE " + quote(s.database)
}

// lists are the parameters whose stored value is a list of names that are quoted already (GUC_LIST_QUOTE in PostgreSQL's
// src/backend/utils/misc/guc_tables.c): a string constant around it would make one name of it.
var lists = []string{
	"local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries", "temp_tablespaces",
	"unix_socket_directories",
}

func (s setting) statement(role string) string {
	value := literal(s.value)
	if slices.Contains(lists, strings.ToLower(s.name)) && s.value != "" {
		value = s.value
	}
	// A name with a dot is an application's own parameter; each part is quoted by itself.
	name := pgx.Identifier(strings.Split(s.name, ".")).Sanitize()
	return fmt.Sprintf("ALTER ROLE %s%s SET %s TO %s", quote(role), s.in(), name, value)
}
