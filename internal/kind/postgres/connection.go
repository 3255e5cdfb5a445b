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
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
)

// The fields of a connection.
const (
	fieldReplicas = "replicas"
	fieldBouncers = "pgbouncers"
	fieldConsole  = "pgbouncer_password"
	fieldMethods  = "auth_methods"
	fieldRows     = "rows_only"
)

// minVersion is the oldest server that this kind knows, as server_version_num.
const minVersion = 130000

// ConnectionFields implements kind.Connector.
func (*Kind) ConnectionFields() []kind.Field {
	return []kind.Field{
		{Name: login.FieldURL, Sends: []string{kind.FieldPassword}, Description: "The administrator's URL, as postgresql://hyvve_admin@db:5432/postgres?sslmode=verify-full; a password in it is moved to password. Of its parameters those for hosts and TLS are used. Not through a pooler."},
		login.PasswordField(),
		{Name: fieldReplicas, Sends: []string{kind.FieldPassword}, Description: "Streaming replicas that workloads read from, as host:port with commas between: nobody is sent to them before a new login role has arrived there, and their sessions count as use."},
		{Name: fieldBouncers, Sends: []string{fieldConsole}, Description: "Consoles of PgBouncers in front of the server, as postgresql://admin@host:6432/pgbouncer with white space between: their clients count as use, and their idle server connections no longer do."},
		{Name: fieldConsole, Secret: true, Description: "The password for the consoles in pgbouncers."},
		kind.AllowedHostsField(),
		{Name: fieldOwners, Harmless: true, Description: "The roles that keys may act as (owner=, or the role of an imported URL), with commas between; * and ? stand for characters. Default: any role without CREATEROLE, REPLICATION, BYPASSRLS and the like; those have to be named. Never a superuser."},
		{Name: fieldRows, Harmless: true, Description: "true: the login is a witness of rows alone (witness of a key), and may do nothing but SELECT their columns: it needs no CREATEROLE. url then names the database of the rows."},
		{Name: login.FieldCA, Sends: []string{kind.FieldPassword, fieldConsole}, Description: "The CA of the server's certificate, in PEM (@file), where it is not among the system's."},
		{Name: login.FieldCert, Description: "The administrator's client certificate, in PEM (@file)."},
		login.KeyField(),
		{Name: fieldMethods, Default: methodSCRAM, Sends: []string{kind.FieldPassword, fieldConsole}, Description: "How a password may be shown to a server that asks for it: scram-sha-256, md5, password (in the clear), none (it asks for nothing), with commas between. Holds for logins with new versions, too, which may also be asked for nothing."},
	}
}

// NormalizeConnection implements kind.Connector.
func (k *Kind) NormalizeConnection(c kind.Connection) (kind.Connection, error) {
	c, u, err := login.NormalizeConnection(c, k.ConnectionFields(), "the administrator's, as postgresql://hyvve_admin@db:5432/postgres", func(text string) (dsn.URL, error) {
		t, err := readAdmin(text)
		return t.URL, err
	})
	if err != nil {
		return c, err
	}
	options := c.Options
	if _, err := methods(c); err != nil {
		return c, err
	}
	if only := options[fieldRows]; only != "" {
		is, err := strconv.ParseBool(only) // as JSON, true comes as 1
		if err != nil {
			return c, fmt.Errorf("rows_only %s is not known; write true or false", kind.Quote(only))
		}
		options[fieldRows] = strconv.FormatBool(is)
	}
	if c.Secrets[kind.FieldPassword].Empty() && options[login.FieldCert] == "" {
		return c, errors.New("password is empty; give it on standard input, as password=- (or a client certificate in tls_cert and tls_key)")
	}
	for n, host := range kind.SplitList(options[fieldReplicas]) {
		if _, err := splitReplica(host); err != nil {
			return c, fmt.Errorf("replicas: number %d is not host:port", n+1) // not quoted: it may be a URL with a password
		}
	}
	for n, text := range strings.Fields(options[fieldBouncers]) {
		b, err := dsn.Postgres(text)
		if err != nil {
			return c, fmt.Errorf("pgbouncers: number %d: %w", n+1, err)
		}
		if !b.Password.Empty() || b.User == "" {
			return c, fmt.Errorf("pgbouncers: number %d is not of the form postgresql://admin@host:6432/pgbouncer; the password goes into pgbouncer_password", n+1)
		}
	}
	if err := checkOwners(c); err != nil {
		return c, err
	}
	if _, err := k.Allowed(c); err != nil {
		return c, err
	}
	if _, err := home(c).config(c, u.User, c.Secrets[kind.FieldPassword]); err != nil {
		return c, fmt.Errorf("url: %w", err)
	}
	return c, nil
}

func parseAdmin(c kind.Connection) (dsn.Target, error) { return readAdmin(c.Options[login.FieldURL]) }

func readAdmin(text string) (dsn.Target, error) {
	u, err := dsn.Postgres(text)
	switch {
	case err != nil:
		return u, err
	case u.User == "":
		return u, errors.New("it names no user, as postgresql://hyvve_admin@db:5432/postgres")
	case u.Database == "":
		return u, errors.New("it names no database; write one after the host, as postgresql://hyvve_admin@db:5432/postgres")
	}
	return u, nil
}

// administrator is what the server reports about the role that a connection logs in as.
type administrator struct {
	name, quoted        string // quoted where statements need that
	version             int
	super, creates      bool
	signals, inRecovery bool
	standbys            int // that stream from the server
}

func (k *Kind) administrator(ctx context.Context, c kind.Connection) (a administrator, err error) {
	var version string
	err = k.admin(ctx, c, home(c), func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT current_user::text, quote_ident(current_user), current_setting('server_version_num'), rolsuper, rolcreaterole,
				pg_has_role('pg_signal_backend', 'USAGE'), pg_is_in_recovery(), (SELECT count(*) FROM pg_stat_get_wal_senders())
			FROM pg_roles WHERE rolname = current_user`,
		).Scan(&a.name, &a.quoted, &version, &a.super, &a.creates, &a.signals, &a.inRecovery, &a.standbys)
	})
	if err == nil {
		if a.version, err = strconv.Atoi(version); err != nil {
			err = errors.New("the server's version cannot be read")
		}
	}
	return a, err
}

// CheckConnection implements kind.Connector.
func (k *Kind) CheckConnection(ctx context.Context, c kind.Connection) ([]string, error) {
	a, err := k.administrator(ctx, c)
	switch {
	case err != nil:
		return nil, err
	case a.version < minVersion:
		return nil, fmt.Errorf("the server is PostgreSQL %d; 13 is the oldest that is supported", a.version/10000)
	case a.inRecovery:
		return nil, errors.New("the server is a replica, where no role can be changed; name the primary in url, and this one in replicas")
	case c.Options[fieldRows] == "true":
		return exposed(c), nil
	case !a.super && !a.creates:
		return nil, fmt.Errorf("administrator %s lacks CREATEROLE; grant it with: ALTER ROLE %s CREATEROLE", a.name, quote(a.name))
	}
	var notes []string
	if !a.super && !a.signals {
		notes = append(notes, fmt.Sprintf("administrator %s is no member of pg_signal_backend: a rotation with compromised=true cannot end sessions of the old role; grant it with: GRANT pg_signal_backend TO %s", a.name, quote(a.name)))
	}
	if named := len(replicas(c)); a.standbys > named {
		notes = append(notes, fmt.Sprintf("%d standbys stream from the server and replicas names %d: a new login role is not waited for at the others, and sessions there are not seen", a.standbys, named))
	}
	for _, at := range replicas(c) {
		if err := k.admin(ctx, c, at, func(conn *pgx.Conn) error { return conn.Ping(ctx) }); err != nil {
			return nil, fmt.Errorf("replicas: %w", err)
		}
	}
	if _, err := k.pooled(ctx, c, a.name, 0); err != nil {
		return nil, fmt.Errorf("pgbouncers: %w", err)
	}
	return slices.Concat(notes, k.cannotCount(ctx, c), exposed(c)), nil
}

// RotateRoot implements kind.RootRotator. A role of PostgreSQL has one password, so that the old one ends when the new one is
// set; the session that has set it stays open until the new one has logged in, and puts the old one back otherwise. Where the
// server asks the administrator for no password, the new one is set each time, since nothing else shows which one is in force.
func (k *Kind) RotateRoot(ctx context.Context, c kind.Connection) error {
	u, err := parseAdmin(c)
	if err != nil {
		return err
	}
	asking := home(c)
	asking.asks = true
	try := func() error {
		return k.login(ctx, c, asking, u.User, c.Next, func(conn *pgx.Conn) error { return conn.Ping(ctx) })
	}
	err = try()
	if err == nil {
		return nil // it is in force since an earlier call
	}
	untried := asksNothing(err)
	if !untried && !refused(err) {
		return err
	}
	err = k.login(ctx, c, home(c), u.User, c.Secrets[kind.FieldPassword], func(conn *pgx.Conn) error {
		if err := k.setPassword(ctx, conn, u.User, c.Next); err != nil {
			return err
		}
		if untried {
			return nil
		}
		if err := try(); err != nil {
			back := k.setPassword(context.WithoutCancel(ctx), conn, u.User, c.Secrets[kind.FieldPassword])
			if back != nil {
				return faultf("the new password was set but does not log in (%w), and the old one could not be put back: %s", err, back.Error())
			}
			return faultf("the new password does not log in, so that the old one was put back: %s", err.Error())
		}
		return nil
	})
	return lockedOut(err, c)
}

func (k *Kind) setPassword(ctx context.Context, conn *pgx.Conn, role string, password key.Value) error {
	v, err := verifier(k.random, password)
	if err != nil {
		return err
	}
	// The old password is forgotten on the strength of this: it must outlast a crash of the server, whatever that does by default.
	_, err = together(ctx, conn, "BEGIN", "SET LOCAL synchronous_commit = on", "ALTER ROLE "+quote(role)+" PASSWORD "+literal(v), "COMMIT")
	if err != nil && !conn.IsClosed() {
		_, _ = together(context.WithoutCancel(ctx), conn, "ROLLBACK")
	}
	return err
}

func quote(identifier string) string { return pgsession.Quote(identifier) }

func literal(text string) string { return pgsession.Literal(text) }

// actors are the parameters of the server that say whom a session acts as.
var actors = []string{"role", "session_authorization"}

// checkActor returns an error where a URL says whom its sessions act as. That wins over the setting of a login role, so that
// sessions would not act as the owner.
func checkActor(u dsn.Target) error {
	names := append(set(u.Session.Options), queryNames(u)...)
	for _, name := range names {
		if slices.Contains(actors, name) {
			return fmt.Errorf("the URL sets the parameter %s for its sessions, which would then not act as the key's owner; leave it out, and name the role in owner= where it is another one than the URL's user", name)
		}
	}
	return nil
}

// queryNames are the parameters of the query, some of which drivers pass to the server as they are.
func queryNames(u dsn.Target) (names []string) {
	for name := range u.Query() {
		names = append(names, parameterName(name))
	}
	slices.Sort(names)
	return names
}

// parameterName is the name of a parameter as the server knows it, regardless of case.
func parameterName(name string) string { return strings.ToLower(strings.ReplaceAll(name, "-", "_")) }

// withValue are the server's one-letter switches that take a value (its getopt string, in process_postgres_switches).
const withValue = "BCDdfhkNprStvWc"

// set returns the parameters that options of a session set: -c name=value, -cname=value or --name=value, also behind
// switches without a value, as -Fc name=value.
func set(options string) (names []string) {
	args := splitOptions(options)
	add := func(text string) {
		name, _, _ := strings.Cut(text, "=")
		names = append(names, parameterName(name))
	}
	for n := 0; n < len(args); n++ {
		letters, isSwitch := strings.CutPrefix(args[n], "-")
		if !isSwitch {
			continue
		}
		for at, letter := range letters {
			rest := letters[at+1:]
			if letter != '-' && !strings.ContainsRune(withValue, letter) {
				continue
			}
			if rest == "" && n+1 < len(args) {
				n++
				rest = args[n]
			}
			if letter == '-' || letter == 'c' {
				add(rest)
			}
			break
		}
	}
	return names
}

// splitOptions splits as the server does (pg_split_opts): at white space; a backslash takes the next character as it is.
func splitOptions(options string) (args []string) {
	var arg strings.Builder
	begun, escaped := false, false
	for _, c := range options {
		switch {
		case escaped:
			arg.WriteRune(c)
			escaped = false
		case c == '\\':
			begun, escaped = true, true
		case strings.ContainsRune(" \t\n\v\f\r", c):
			if begun {
				args = append(args, arg.String())
			}
			arg.Reset()
			begun = false
		default:
			arg.WriteRune(c)
			begun = true
		}
	}
	if begun {
		args = append(args, arg.String())
	}
	return args
}
