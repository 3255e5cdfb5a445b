// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// bouncerAdmin is who may use the console of a PgBouncer.
const bouncerAdmin = "bouncer_admin"

// PgBouncerOptions say how a PgBouncer is started.
type PgBouncerOptions struct {
	Mode       string            // pool_mode: session (also if empty), transaction or statement
	AuthQuery  bool              // ask the server for the verifiers of roles that are not in Users
	TLS        bool              // take no client without it, with a certificate of the bed's authority
	ResetQuery string            // server_reset_query; PgBouncer's own, DISCARD ALL, if empty
	Users      map[string]string // passwords or verifiers that it holds itself, by role: its auth_file
	Host       string            // where it finds the server, a directory of sockets for example; 127.0.0.1 if empty
	Settings   map[string]string // further ones of pgbouncer.ini, which win; server_idle_timeout, for example
}

// PgBouncer is a private PgBouncer in front of a PostgreSQL server, all databases of which it serves by SCRAM. Whatever it
// refuses, it refuses with SQLSTATE 08P01.
type PgBouncer struct {
	Port    int
	LogPath string
	CA      string // file of the authority that its clients trust; empty: they speak no TLS

	password string // of the console's administrator
	users    map[string]string
	file     string // of the users
	server   *Postgres
	spec     spec
	process  *process
}

// PgBouncer starts one. Where it is to ask the server, that gets a role for it, and a function in each database that is
// there or is made later; PgBouncer 1.18 asks in the database that a client connects to.
func (b *Bed) PgBouncer(ctx context.Context, p *Postgres, o PgBouncerOptions) (*PgBouncer, error) {
	binary, err := bouncerBinary()
	if err != nil {
		return nil, err
	}
	owner, err := serverAccount()
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp(b.Dir, "pgbouncer-")
	if err != nil {
		return nil, err
	}
	g := &PgBouncer{
		Port: port, password: randomHex(16), file: filepath.Join(home, "users.txt"), server: p,
		users: maps.Clone(o.Users),
	}
	if g.users == nil {
		g.users = map[string]string{}
	}
	g.users[bouncerAdmin] = g.password
	config := filepath.Join(home, "pgbouncer.ini")
	settings := g.settings(o)
	if o.TLS {
		a, err := b.Authority()
		if err != nil {
			return nil, err
		}
		certificate, err := a.server("pgbouncer", owner)
		if err != nil {
			return nil, err
		}
		g.CA = a.File
		settings["client_tls_sslmode"], settings["client_tls_cert_file"], settings["client_tls_key_file"] = "require", certificate.CertFile, certificate.KeyFile
	}
	if o.AuthQuery {
		role := fmt.Sprintf("pgbouncer_%d", port)
		if g.users[role], err = p.lendVerifiers(ctx, role); err != nil {
			return nil, err
		}
		settings["auth_user"], settings["auth_query"] = role, "SELECT usename, passwd FROM pgbouncer.lookup($1)"
	}
	maps.Copy(settings, o.Settings)
	err = errors.Join(os.WriteFile(config, []byte(g.ini(cmp.Or(o.Host, "127.0.0.1"), settings)), 0o600), g.writeUsers(), owner.own(home, config, g.file))
	if err != nil {
		return nil, err
	}
	g.spec = spec{
		name: filepath.Base(home), path: binary, args: []string{config}, dir: home, user: owner,
		stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
	}
	return g, g.Start(ctx)
}

// bouncerBinary finds it also where PATH has no directories of administrators' programs.
func bouncerBinary() (string, error) {
	if path, err := exec.LookPath("pgbouncer"); err == nil {
		return path, nil
	}
	if path := "/usr/sbin/pgbouncer"; exists(path) {
		return path, nil
	}
	return "", errors.New("pgbouncer is not installed; run scripts/setup (make test and make demo do)")
}

func (g *PgBouncer) settings(o PgBouncerOptions) map[string]string {
	s := map[string]string{
		"listen_addr": "127.0.0.1", "listen_port": fmt.Sprint(g.Port), "unix_socket_dir": "",
		"auth_type": "scram-sha-256", "auth_file": g.file, "admin_users": bouncerAdmin, "pool_mode": "session",
		// By default a server that was away is tried again after 15 s, and clients wait for a login to it for two minutes.
		"server_login_retry": "0.1", "query_wait_timeout": "5",
	}
	if a := g.server.authority; a != nil {
		s["server_tls_sslmode"], s["server_tls_ca_file"] = "verify-full", a.File
	}
	if o.Mode != "" {
		s["pool_mode"] = o.Mode
	}
	if o.ResetQuery != "" {
		s["server_reset_query"] = o.ResetQuery
	}
	return s
}

func (g *PgBouncer) ini(host string, settings map[string]string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "[databases]\n* = host=%s port=%d\n[pgbouncer]\n", host, g.server.Port)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = %s\n", name, settings[name])
	}
	return text.String()
}

func (g *PgBouncer) writeUsers() error {
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(g.users)) {
		fmt.Fprintf(&text, "%s %s\n", quote(name), quote(g.users[name]))
	}
	return os.WriteFile(g.file, []byte(text.String()), 0o600)
}

// SetUser sets the password or verifier of a role that PgBouncer holds itself; an empty one removes it.
func (g *PgBouncer) SetUser(ctx context.Context, role, secret string) error {
	g.users[role] = secret
	if secret == "" {
		delete(g.users, role)
	}
	if err := g.writeUsers(); err != nil {
		return err
	}
	_, err := g.Console(ctx, "RELOAD")
	return err
}

// lendVerifiers makes a role that may look up the verifiers of others in every database, and returns its password.
func (p *Postgres) lendVerifiers(ctx context.Context, role string) (string, error) {
	password, err := p.NewRole(ctx, role)
	if err != nil {
		return "", err
	}
	databases, err := query(ctx, p.AdminURL("postgres"), "SELECT datname FROM pg_database WHERE datallowconn")
	if err != nil {
		return "", err
	}
	grantee := pgx.Identifier{role}.Sanitize()
	for _, row := range databases {
		// Whatever a test has set for its database.
		own := p.AdminURL(row["datname"]) + "&default_transaction_read_only=off&search_path=pg_catalog"
		_, err := query(ctx, own, `CREATE SCHEMA IF NOT EXISTS pgbouncer;
			CREATE OR REPLACE FUNCTION pgbouncer.lookup(role text) RETURNS TABLE (usename name, passwd text)
			LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
			AS $$ SELECT usename, passwd FROM pg_shadow WHERE usename = role $$;
			REVOKE ALL ON FUNCTION pgbouncer.lookup(text) FROM PUBLIC;
			GRANT USAGE ON SCHEMA pgbouncer TO `+grantee+`;
			GRANT EXECUTE ON FUNCTION pgbouncer.lookup(text) TO `+grantee)
		if err != nil {
			return "", fmt.Errorf("letting PgBouncer look up verifiers in %s: %w", row["datname"], err)
		}
	}
	return password, nil
}

// Start starts it, again after Stop or Kill on the same port.
func (g *PgBouncer) Start(ctx context.Context) error {
	b := g.server.bed
	b.say("starting PgBouncer on 127.0.0.1:%d", g.Port)
	var err error
	if g.process, err = b.start(g.spec); err != nil {
		return err
	}
	g.LogPath = g.process.log
	return g.process.await(ctx, func(ctx context.Context) error {
		_, err := g.Console(ctx, "SHOW VERSION")
		return err
	})
}

// Stop ends it and all connections at once.
func (g *PgBouncer) Stop() error { return g.process.stop(stopPatience) }

// Kill ends it as a crash would.
func (g *PgBouncer) Kill() { g.process.kill() }

// Console runs a command of its administrator, such as "SHOW POOLS", and returns the rows by name of their columns.
func (g *PgBouncer) Console(ctx context.Context, command string) ([]map[string]string, error) {
	return query(ctx, g.ConsoleURL(), command)
}

// ConsoleURL is the administrator's URL of the console, which understands the simple protocol only.
func (g *PgBouncer) ConsoleURL() string { return g.URL("pgbouncer", bouncerAdmin, g.password) }

// URL is a user's URL of a database.
func (g *PgBouncer) URL(database, user, password string) string {
	u := url.URL{
		Scheme: "postgresql", User: url.UserPassword(user, password), Host: fmt.Sprintf("127.0.0.1:%d", g.Port),
		Path: "/" + database, RawQuery: "sslmode=disable",
	}
	if g.CA != "" {
		u.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {g.CA}}.Encode()
	}
	return u.String()
}

// query runs statements by the simple protocol, over a connection of its own, and returns the rows of all by name of their
// columns; NULL is "".
func query(ctx context.Context, url, sql string) ([]map[string]string, error) {
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var rows []map[string]string
	for _, result := range results {
		for _, values := range result.Rows {
			row := map[string]string{}
			for i, field := range result.FieldDescriptions {
				row[field.Name] = string(values[i])
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}
