// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
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
	May         bool        `json:"may"`         // act as the role that its own setting of role names
	Login       bool        `json:"login"`       // may log in
	Expired     bool        `json:"expired"`     // VALID UNTIL is over: its password is refused
	Comment     string      `json:"comment"`     // see mark
	Quoted      string      `json:"quoted"`      // its name, quoted where that is needed
	Super       bool        `json:"super"`       // is a superuser
	Creates     bool        `json:"creates"`     // CREATEROLE
	Replicates  bool        `json:"replicates"`  // REPLICATION
	Bypasses    bool        `json:"bypasses"`    // BYPASSRLS
	Admin       bool        `json:"admin"`       // the administrator has the admin option on it
	Own         bool        `json:"own"`         // is the administrator
	Powers      []string    `json:"powers"`      // roles that it may act as and no application should
}

func (k known) settings() []setting {
	all := make([]setting, 0, len(k.Settings))
	for _, s := range k.Settings {
		name, value, _ := strings.Cut(s[1], "=")
		all = append(all, setting{database: s[0], name: name, value: value})
	}
	return all
}

// lookUp asks in one statement for all that has to be known before a role is lent: of the role itself, of those of the
// key's versions, and of the owner, whom their settings may name. Memberships have options since PostgreSQL 16; before,
// each has the rights that they give.
func lookUp(c kind.Change, role, present string) string {
	logins := slices.Concat([]string{role}, roleNames.Of(c.Key), roleNames.Pair(c.Key), versionLogins(c.Key))
	asked := []string{present, c.Key.Options[optionOwner], readActed(c.Kept).Owner}
	names := slices.DeleteFunc(append(asked, logins...), func(name string) bool { return name == "" })
	slices.Sort(names)
	names = slices.Compact(names)
	owners := `SELECT substr(s, 6) FROM pg_db_role_setting d, unnest(d.setconfig) s
			WHERE d.setdatabase = 0 AND s LIKE 'role=%' AND d.setrole IN (SELECT oid FROM pg_roles WHERE rolname IN (` + literals(names) + `))`
	return `SELECT r.rolname, current_setting('server_version_num'), json_build_object(
			'connections', r.rolconnlimit,
			'may', EXISTS (SELECT FROM pg_db_role_setting d, unnest(d.setconfig) s, pg_roles o
				WHERE d.setrole = r.oid AND d.setdatabase = 0 AND s LIKE 'role=%' AND o.rolname = substr(s, 6)
					AND pg_has_role(r.oid, o.oid, CASE WHEN length(current_setting('server_version_num')) = 6
						AND current_setting('server_version_num') >= '160000' THEN 'SET' ELSE 'MEMBER' END)),
			'login', r.rolcanlogin, 'expired', coalesce(r.rolvaliduntil <= now(), false),
			'comment', coalesce(shobj_description(r.oid, 'pg_authid'), ''),
			'quoted', quote_ident(r.rolname), 'super', r.rolsuper, 'creates', r.rolcreaterole, 'replicates', r.rolreplication,
			'bypasses', r.rolbypassrls, 'admin', pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION'), 'own', r.rolname = current_user,
			'powers', (SELECT json_agg(p.rolname ORDER BY p.rolname) FROM pg_roles p
				WHERE p.oid <> r.oid AND NOT r.rolsuper AND pg_has_role(r.oid, p.oid, 'MEMBER')
					AND (p.rolsuper OR p.rolcreaterole OR p.rolname = current_user OR p.rolname IN (` + literals(powers) + `))),
			'settings', (SELECT json_agg(json_build_array(coalesce(b.datname, ''), s) ORDER BY coalesce(b.datname, ''), s)
				FROM pg_db_role_setting d LEFT JOIN pg_database b ON b.oid = d.setdatabase, unnest(d.setconfig) s
				WHERE d.setrole = r.oid AND (d.setdatabase = 0 OR b.datname IS NOT NULL)),
			'acts', (SELECT json_agg(pg_get_userbyid(m.roleid)) FROM pg_auth_members m
				WHERE m.member = r.oid AND coalesce(to_json(m) ->> 'inherit_option', 'true') = 'true'
					AND coalesce(to_json(m) ->> 'set_option', 'true') = 'true'))
		FROM pg_roles r WHERE r.rolname IN (` + literals(names) + `) OR r.rolname IN (` + owners + `)`
}

func literals(names []string) string {
	quoted := make([]string, 0, len(names))
	for _, name := range names {
		quoted = append(quoted, literal(name))
	}
	return strings.Join(quoted, ", ")
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
// as, or its role itself. Any role may change its own settings: from 16 on it may name a role there that it may not act as,
// and would be given that role's rights.
func findOwner(c kind.Change, roles map[string]known, version int, present key.Version) (owner, error) {
	k := c.Key
	o := owner{name: k.Options[optionOwner], version: version}
	u, err := urls.Credential(present)
	if o.name == "" && !present.Value.Empty() && err == nil {
		if o.name, err = presentOwner(c, roles, present.Number, u.User); err != nil {
			return o, err
		}
	}
	if o.name == "" || roleNames.Ours(k, o.name) {
		return o, fmt.Errorf("key %s: whom its login roles should act as is not known; name the role in owner= of hyvve/keys/%s", k.Name, k.Name)
	}
	of, there := roles[o.name]
	if !there {
		return o, faultf("%s", missingOwner(c, roles, u.User, o.name))
	}
	if of.Connections == 0 {
		return o, faultf("owner role %q has CONNECTION LIMIT 0, which its login roles are given, so that nobody could log in; ALTER ROLE %s CONNECTION LIMIT -1 (NOLOGIN is what keeps logins from the owner itself)", o.name, of.Quoted)
	}
	o.connections, o.settings = of.Connections, slices.DeleteFunc(of.settings(), func(s setting) bool {
		return s.name == "role" || s.name == "session_authorization"
	})
	for _, s := range o.settings {
		if err := s.check(); err != nil {
			return o, faultf("setting %q of the owner role %q%s cannot be given to a login role: %w; set it again (ALTER ROLE %s%s SET …), or take it away (RESET)", s.name, o.name, s.in(), err, quote(o.name), s.in())
		}
	}
	return o, nil
}

// presentOwner returns whom the sessions of the present version's login act as; "" where nothing tells.
func presentOwner(c kind.Change, roles map[string]known, number int, login string) (string, error) {
	if _, there := roles[login]; !there && roleNames.Ours(c.Key, login) {
		return remembered(c, roles, login), nil
	}
	if a := judge(c, roles, login, ""); a.wrong {
		p := a.problem(c, roles, number, home(c.Connection).what)
		return "", faultf("%s; %s", p.Text, p.Remedy)
	}
	return actsAs(roles, login), nil
}

// lend returns the statements that create a login role that acts as the owner, or change an existing role so that it does.
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
	wanted := append(slices.Clone(o.settings), setting{name: "role", value: o.name})
	if same(of.settings(), wanted) { // as after its last turn
		return statements
	}
	statements = append(statements, resets(role, of.settings())...)
	for _, s := range wanted {
		statements = append(statements, s.statement(role))
	}
	return statements
}

// revokeFormer returns the statement that takes a login role's former owner from it: the next URL should not let anybody act as a
// role that the key has no more. An administrator who may not take it away, or who
// has not granted it (since 16), leaves it.
func (o owner) revokeFormer(roles map[string]known, role string) []string {
	of := roles[role]
	before := of.roleIn("")
	former, there := roles[before]
	if !there || before == o.name || !slices.Contains(of.Acts, before) || former.Super || !former.Admin && o.version >= adminOption {
		return nil
	}
	return []string{"REVOKE " + quote(before) + " FROM " + quote(role)}
}

// same reports whether two roles have the same settings, in whichever order.
func same(a, b []setting) bool {
	order := func(a, b setting) int {
		return cmp.Or(cmp.Compare(a.database, b.database), cmp.Compare(a.name, b.name), cmp.Compare(a.text(), b.text()))
	}
	equal := func(a, b setting) bool { return order(a, b) == 0 }
	return slices.EqualFunc(slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order), equal)
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

// check refuses what no ALTER ROLE … SET sets as it is.
func (s setting) check() error {
	for part := range strings.SplitSeq(s.name, ".") {
		if part == "" || len(part) > maxIdentifier {
			return errors.New("its name cannot be written in a statement")
		}
	}
	if !pgsession.ListSetting(s.name) {
		return nil
	}
	names, err := pgsession.ParseList(s.name, s.value)
	if err == nil && len(names) == 0 && strings.HasSuffix(s.name, "_libraries") {
		err = errors.New("no statement sets it to an empty list")
	}
	return err
}

// text is the value as a statement has it: one string constant, or one for each name of a list. The server's text becomes
// part of a statement in no other way.
func (s setting) text() string {
	if pgsession.ListSetting(s.name) {
		if names, err := pgsession.ParseList(s.name, s.value); err == nil {
			return pgsession.FormatList(names)
		}
	}
	return literal(s.value)
}

func (s setting) statement(role string) string {
	// A name with a dot is an application's own parameter; each part is quoted by itself.
	name := pgx.Identifier(strings.Split(s.name, ".")).Sanitize()
	return fmt.Sprintf("ALTER ROLE %s%s SET %s TO %s", quote(role), s.in(), name, s.text())
}

// fieldOwners is the field of a connection that names the roles which keys may act as.
const fieldOwners = "allowed_owners"

// powers are the roles whose members act at the server's host with the rights of the server itself.
var powers = []string{"pg_execute_server_program", "pg_read_server_files", "pg_write_server_files"}

// safe returns an error if login roles must not act as the owner, because anybody with the application's URL would control the
// server. A privileged role that is no superuser is allowed if the connection names it.
func (o owner) safe(of known, c kind.Connection) error {
	const remedy = "make a role of the application's own, and name it in owner="
	allows, names := allowsOwner(c, o.name)
	switch {
	case of.Super:
		return faultf("the login roles would act as %s, which is a superuser; %s", o.name, remedy)
	case !allows:
		return faultf("the login roles would act as %s, which connection %s does not allow; add it to %s of hyvve/connections/%s, or name another role in owner=", o.name, c.Name, fieldOwners, c.Name)
	case of.Own:
		return faultf("the login roles would act as %s, the administrator of connection %s; %s", o.name, c.Name, remedy)
	}
	var has, mends []string
	for name, attribute := range map[string]bool{"CREATEROLE": of.Creates, "REPLICATION": of.Replicates, "BYPASSRLS": of.Bypasses} {
		if attribute {
			has, mends = append(has, name), append(mends, "NO"+name)
		}
	}
	slices.Sort(has)
	slices.Sort(mends)
	var ways []string
	if len(mends) > 0 {
		ways = append(ways, fmt.Sprintf("ALTER ROLE %s %s", of.Quoted, strings.Join(mends, " ")))
	}
	for _, role := range of.Powers {
		has = append(has, "membership in "+role)
		ways = append(ways, fmt.Sprintf("REVOKE %s FROM %s", quoteIfNeeded(role), of.Quoted))
	}
	if names || len(has) == 0 {
		return nil
	}
	return faultf("the login roles would act as %s, which has %s: that is more than an application's role should have. Take it away (%s), or allow the role in %s of hyvve/connections/%s",
		o.name, strings.Join(has, ", "), strings.Join(ways, "; "), fieldOwners, c.Name)
}

// checkOwners returns an error where allowed_owners holds no pattern.
func checkOwners(c kind.Connection) error {
	for n, pattern := range kind.SplitList(c.Options[fieldOwners]) {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("%s: number %d is neither a name nor a pattern; use * and ? for characters", fieldOwners, n+1)
		}
	}
	return nil
}

// allowsOwner reports whether a connection allows a role as an owner, and whether it names it rather than just any.
func allowsOwner(c kind.Connection, name string) (allows, names bool) {
	patterns := kind.SplitList(c.Options[fieldOwners])
	allows = len(patterns) == 0
	for _, pattern := range patterns {
		if matched, err := path.Match(pattern, name); err == nil && matched {
			allows, names = true, names || strings.Trim(pattern, "*?") != ""
		}
	}
	return allows, names
}

// quoteIfNeeded quotes an identifier that is not plain, for statements that people read.
func quoteIfNeeded(name string) string {
	if name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == "" {
		return name
	}
	return quote(name)
}

// elsewhere reports of places whether a workload's URL leads there by another address than the connection's: to a pooler, to
// the same server by another name, or to another server.
func elsewhere(c kind.Connection) func(place) bool {
	own := home(c).host
	return func(at place) bool { return at.pooler && at.host != own }
}

// identityOf asks for what a server has in common with its replicas, and with copies of its files, but with no other server; "" if it does not say, as some
// hosted ones.
func identityOf(ctx context.Context, conn *pgx.Conn) string {
	results, err := together(ctx, conn, "BEGIN TRANSACTION READ ONLY", pgsession.SetSearchPath, "SELECT system_identifier FROM pg_control_system()", "ROLLBACK")
	if err != nil {
		if !conn.IsClosed() {
			_, _ = together(ctx, conn, "ROLLBACK") // a pooler keeps the connection
		}
		return ""
	}
	if rows := results[2].Rows; len(rows) == 1 {
		return string(rows[0][0])
	}
	return ""
}

// identity is that of the connection's server.
func (k *Kind) identity(ctx context.Context, c kind.Connection) (id string, err error) {
	err = k.admin(ctx, c, home(c), func(conn *pgx.Conn) error {
		id = identityOf(ctx, conn)
		return nil
	})
	return id, err
}

// alien returns an error where a session is at another server than the connection's. The same role may log in at both with
// the same password, such as before a move; a role that is made at the one is not known at the other.
func alien(ctx context.Context, conn *pgx.Conn, c kind.Connection, at place, own string) error {
	if id := identityOf(ctx, conn); own == "" || id == "" || id == own {
		return nil
	}
	return faultf("%s is another server than that of connection %s, %s, where the login roles are made; write a URL of that one, or name the connection of this one in connection=", at.what, c.Name, home(c).host)
}

// whyRefused asks what is likely where a login is refused.
func whyRefused(c kind.Change, at place, user string) string {
	question := fmt.Sprintf("does pg_hba.conf (or a PgBouncer's list of users) not let %s in", user)
	if roleNames.Ours(c.Key, user) {
		question = "has the role not arrived there yet, or " + question
	} else {
		question = "is the password in the value another one than the server's, or " + question
	}
	if elsewhere(c.Connection)(at) {
		question += fmt.Sprintf(", or is it another server than that of connection %s", c.Connection.Name)
	}
	return question + "?"
}

// reaches returns an error where the next version will not work however it is staged: a URL leads to another server, names a
// database that there is not, or cannot be reached; or the verify_query fails. A value of an operator's is tried itself, and
// otherwise the present version in its place. Where that does not log in at all, or not as the next one's owner, nothing more
// is found: Inspect tells of it.
func (k *Kind) reaches(ctx context.Context, c kind.Change, from, to dsn.URL, found map[string]known, o owner) error {
	if !roleNames.Ours(c.Key, to.User) {
		return k.verify(ctx, c, to)
	}
	if from.User == "" || o.name == "" {
		return nil
	}
	if actsAs(found, from.User) != o.name {
		c.Key.Options = maps.Clone(c.Key.Options)
		c.Key.Options[optionQuery] = ""
	}
	err := k.verify(ctx, c, from)
	if !refused(err) {
		return err
	}
	at := home(c.Connection)
	at.database = from.Path()
	if valid, unknown := k.valid(ctx, c.Connection, at, from); unknown != nil || !valid {
		return unknown
	}
	return err
}
