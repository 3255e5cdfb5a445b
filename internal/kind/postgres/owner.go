// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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

// known is what the server says of a role.
type known struct {
	Connections int         `json:"connections"` // at most, -1: any number
	Settings    [][2]string `json:"settings"`    // database, empty: all; and name=value, in their order
	Acts        []string    `json:"acts"`        // as whom it may act, with their rights without asking
}

func (k known) settings() []setting {
	all := make([]setting, 0, len(k.Settings))
	for _, s := range k.Settings {
		name, value, _ := strings.Cut(s[1], "=")
		all = append(all, setting{database: s[0], name: name, value: value})
	}
	return all
}

// lookUp asks in one statement for all that has to be known before a role is lent: of the role itself, of that of the
// present version, and of the owner, whom the present role's settings may name. Memberships have options since PostgreSQL
// 16; before, each has the rights that they give.
func lookUp(k key.Key, role, present string) string {
	asked := []string{literal(role)}
	for _, name := range []string{present, k.Options[optionOwner]} {
		if name != "" {
			asked = append(asked, literal(name))
		}
	}
	if k.Options[optionOwner] == "" && present != "" {
		asked = append(asked, `(SELECT substr(s, 6) FROM pg_db_role_setting d, unnest(d.setconfig) s
			WHERE d.setdatabase = 0 AND s LIKE 'role=%' AND d.setrole = (SELECT oid FROM pg_roles WHERE rolname = `+literal(present)+`))`)
	}
	return `SELECT r.rolname, current_setting('server_version_num'), json_build_object(
			'connections', r.rolconnlimit,
			'settings', (SELECT json_agg(json_build_array(coalesce(b.datname, ''), s) ORDER BY coalesce(b.datname, ''), s)
				FROM pg_db_role_setting d LEFT JOIN pg_database b ON b.oid = d.setdatabase, unnest(d.setconfig) s
				WHERE d.setrole = r.oid AND (d.setdatabase = 0 OR b.datname IS NOT NULL)),
			'acts', (SELECT json_agg(pg_get_userbyid(m.roleid)) FROM pg_auth_members m
				WHERE m.member = r.oid AND coalesce((to_json(m) ->> 'inherit_option')::bool AND (to_json(m) ->> 'set_option')::bool, true)))
		FROM pg_roles r WHERE r.rolname IN (` + strings.Join(asked, ", ") + `)`
}

// readRoles reads the answer to lookUp.
func readRoles(answer *pgconn.Result) (roles map[string]known, version int, err error) {
	roles = map[string]known{}
	for _, row := range answer.Rows {
		var of known
		if err := json.Unmarshal(row[2], &of); err != nil || !utf8.Valid(row[2]) { // JSON would put other characters in their place
			return nil, 0, errors.New("what the server says of its roles cannot be read")
		}
		if version, err = strconv.Atoi(string(row[1])); err != nil {
			return nil, 0, errors.New("the server's version cannot be read")
		}
		roles[string(row[0])] = of
	}
	return roles, version, nil
}

// findOwner finds out whom the sessions of a key act as: what its definition says, or whom those of the present version act
// as, or its role itself.
func findOwner(roles map[string]known, version int, k key.Key, present string) (owner, error) {
	o := owner{name: k.Options[optionOwner], version: version}
	if o.name == "" && present != "" {
		o.name = present
		for _, s := range roles[present].settings() {
			if s.name == "role" && s.database == "" {
				o.name = s.value
			}
		}
	}
	if o.name == "" || ours(k, o.name) {
		return o, fmt.Errorf("key %s: whom its login roles should act as is not known; name the role in owner= of hyvve/keys/%s", k.Name, k.Name)
	}
	of, there := roles[o.name]
	if !there {
		return o, faultf("owner role %q does not exist at the server; make it, or name another one in owner= of hyvve/keys/%s", o.name, k.Name)
	}
	o.connections, o.settings = of.Connections, of.settings()
	return o, nil
}

// lend gives the statements that make a login role that acts as the owner, or make one so that is there.
func (o owner) lend(roles map[string]known, role, verifier string) []string {
	of, there := roles[role]
	verb := "CREATE"
	if there {
		verb = "ALTER"
	}
	statements := []string{fmt.Sprintf("%s ROLE %s LOGIN INHERIT CONNECTION LIMIT %d VALID UNTIL 'infinity' PASSWORD %s", verb, quote(role), o.connections, literal(verifier))}
	if !slices.Contains(of.Acts, o.name) {
		statements = append(statements, o.grant(role))
	}
	wanted := append(slices.DeleteFunc(slices.Clone(o.settings), func(s setting) bool {
		return s.name == "role" || s.name == "session_authorization"
	}), setting{name: "role", value: o.name})
	if same(of.settings(), wanted) { // as after its last turn
		return statements
	}
	statements = append(statements, resets(role, of.settings())...)
	for _, s := range wanted {
		statements = append(statements, s.statement(role))
	}
	return statements
}

// same tells whether two roles have the same settings, in whichever order.
func same(a, b []setting) bool {
	order := func(a, b setting) int {
		return cmp.Or(cmp.Compare(a.database, b.database), cmp.Compare(a.name, b.name), cmp.Compare(a.value, b.value))
	}
	return slices.Equal(slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order))
}

func (o owner) grant(role string) string {
	statement := fmt.Sprintf("GRANT %s TO %s", quote(o.name), quote(role))
	if o.version >= 160000 {
		statement += " WITH INHERIT TRUE, SET TRUE"
	}
	return statement
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
