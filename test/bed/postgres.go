// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Postgres is a private PostgreSQL server.
type Postgres struct {
	Port          int
	AdminPassword string // of postgres; a test that changes it sets it here, too
	LogPath       string

	options   PostgresOptions
	data      string
	authority *Authority // where it speaks TLS
	cert      Certificate
	bed       *Bed
	spec      spec
	process   *process
}

// Postgres starts a server of the system's version with an administrator named postgres.
func (b *Bed) Postgres(ctx context.Context) (*Postgres, error) {
	return b.PostgresWith(ctx, PostgresOptions{})
}

// PostgresWith starts a server with an administrator named postgres.
func (b *Bed) PostgresWith(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	bin, err := b.postgresBin(o.Major)
	if err != nil {
		return nil, err
	}
	p, err := b.newPostgres(o, bin, randomHex(16))
	if err != nil {
		return nil, err
	}
	if o.TLS {
		if p.authority, err = b.Authority(); err != nil {
			return nil, err
		}
		if p.cert, err = p.authority.server("postgres", p.spec.user); err != nil {
			return nil, err
		}
	}
	if err := p.initialize(ctx, filepath.Join(bin, "initdb")); err != nil {
		return nil, err
	}
	return p, p.Start(ctx)
}

// newPostgres makes a server that has neither data nor is started yet.
func (b *Bed) newPostgres(o PostgresOptions, bin, password string) (*Postgres, error) {
	owner, err := serverAccount()
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp(b.Dir, "postgres-")
	if err != nil {
		return nil, err
	}
	return &Postgres{
		Port: port, AdminPassword: password, options: o, data: filepath.Join(home, "data"), bed: b,
		spec: spec{
			name: filepath.Base(home), path: filepath.Join(bin, "postgres"), dir: home, user: owner,
			env: []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}, stopSignal: syscall.SIGINT, dieSignal: syscall.SIGQUIT,
		},
	}, owner.own(home)
}

// initialize makes the server's data.
func (p *Postgres) initialize(ctx context.Context, initdb string) error {
	owner, home := p.spec.user, p.spec.dir
	passwordFile := filepath.Join(home, "password")
	if err := os.WriteFile(passwordFile, []byte(p.AdminPassword), 0o600); err != nil {
		return err
	}
	if err := owner.own(passwordFile); err != nil {
		return err
	}
	making := spec{
		name: "initdb", path: initdb, dir: home, user: owner, dieSignal: syscall.SIGKILL, env: p.spec.env,
		args: []string{"-D", p.data, "-U", "postgres", "--pwfile=" + passwordFile, "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"},
	}
	if err := making.run(ctx); err != nil {
		return err
	}
	return p.writeHBA()
}

// Start starts the server, again after Stop or Kill on the same port and data.
func (p *Postgres) Start(ctx context.Context) error {
	version := strings.TrimPrefix(filepath.Base(filepath.Dir(filepath.Dir(p.spec.path))), "postgres")
	p.bed.say("starting PostgreSQL %s on 127.0.0.1:%d", version, p.Port)
	p.spec.args = p.args()
	var err error
	if p.process, err = p.bed.start(p.spec); err != nil {
		return err
	}
	p.LogPath = p.process.log
	return p.process.await(ctx, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, p.AdminURL("postgres"))
		var answer *pgconn.PgError
		if errors.As(err, &answer) && strings.HasPrefix(answer.Code, "28") {
			return nil // it serves; the administrator's password is another one by now
		}
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// Stop ends the server's sessions and the server.
func (p *Postgres) Stop() error { return p.process.stop(stopPatience) }

// Kill ends the server as a crash would, and its sessions, which are processes in sessions of their own: as long as one
// lives, the server does not start again.
func (p *Postgres) Kill() {
	pid := p.process.cmd.Process.Pid
	deadline := time.Now().Add(stopPatience)
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	for !stopped(pid) && time.Now().Before(deadline) { // a session may begin until then
		<-time.After(time.Millisecond)
	}
	sessions, _ := children(pid)
	p.process.kill()
	for _, pid := range sessions {
		for alive(pid) && time.Now().Before(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			<-time.After(time.Millisecond)
		}
	}
}

// AdminURL is the administrator's URL of a database.
func (p *Postgres) AdminURL(database string) string {
	return p.URL(database, "postgres", p.AdminPassword)
}

// URL is a user's URL of a database.
func (p *Postgres) URL(database, user, password string) string {
	return p.url(database, url.UserPassword(user, password), Certificate{})
}

// CertURL is that of a user who shows a certificate of the bed's authority, and has a password besides where it is not "".
func (p *Postgres) CertURL(database, user, password string, c Certificate) string {
	if password == "" {
		return p.url(database, url.User(user), c)
	}
	return p.url(database, url.UserPassword(user, password), c)
}

func (p *Postgres) url(database string, user *url.Userinfo, c Certificate) string {
	values := url.Values{"sslmode": {"disable"}}
	if p.authority != nil {
		values = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {p.authority.File}}
	}
	if c.CertFile != "" {
		values.Set("sslcert", c.CertFile)
		values.Set("sslkey", c.KeyFile)
	}
	u := url.URL{Scheme: "postgresql", User: user, Host: fmt.Sprintf("127.0.0.1:%d", p.Port), Path: "/" + database, RawQuery: values.Encode()}
	return u.String()
}

// NewDatabase makes an empty database and returns its administrator's URL.
func (p *Postgres) NewDatabase(ctx context.Context, name string) (string, error) {
	conn, err := pgx.Connect(ctx, p.AdminURL("postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", fmt.Errorf("making database %s: %w", name, err)
	}
	return p.AdminURL(name), nil
}

// DropDatabase removes a database that NewDatabase made, with the sessions in it.
func (p *Postgres) DropDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, p.AdminURL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("dropping database %s: %w", name, err)
	}
	return nil
}

func randomHex(bytes int) string {
	buffer := make([]byte, bytes)
	_, _ = rand.Read(buffer) // never fails
	return hex.EncodeToString(buffer)
}

// NewRole makes a login role and returns its password. The statement is kept out of the server's log.
func (p *Postgres) NewRole(ctx context.Context, name string) (string, error) {
	conn, err := pgx.Connect(ctx, p.AdminURL("postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	password := randomHex(16)
	for _, statement := range []string{
		"SET log_statement = 'none'",
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", pgx.Identifier{name}.Sanitize(), password),
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return "", fmt.Errorf("making role %s: %w", name, err)
		}
	}
	return password, nil
}

// PostgresOptions say how a server is started.
type PostgresOptions struct {
	Major    int               // version; that of the system if 0. scripts/setup fetches 18
	Settings map[string]string // further ones of postgresql.conf, which win: shared_preload_libraries, for example
	TLS      bool              // and nothing else; its URLs say sslmode=verify-full
	HBA      []string          // lines of pg_hba.conf that come first: "hostssl all app 127.0.0.1/32 cert"
}

// minPostgres is the oldest major version that we run on.
const minPostgres = 13

// postgresBin finds the server's binaries: of the system the newest below Debian's directory, else those of pg_config; of
// a given version Debian's, else those that scripts/setup fetched.
func (b *Bed) postgresBin(version int) (string, error) {
	if version != 0 {
		dir := fmt.Sprintf("/usr/lib/postgresql/%d/bin", version)
		if exists(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
		return b.fetchedPostgres(version)
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	slices.SortFunc(found, func(a, b string) int { return major(b) - major(a) })
	if len(found) > 0 && major(found[0]) >= minPostgres {
		return filepath.Dir(found[0]), nil
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		if dir := strings.TrimSpace(string(out)); exists(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", errors.New("no PostgreSQL server is installed; run scripts/setup (make test and make demo do)")
}

func major(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// fetchedPostgres returns the binaries that scripts/setup fetched, or where the servers' user cannot reach those, a copy in
// the bed.
func (b *Bed) fetchedPostgres(version int) (string, error) {
	name := fmt.Sprintf("postgres%d", version)
	tree := Tool("tools", name)
	if !exists(filepath.Join(tree, "bin", "postgres")) {
		return "", fmt.Errorf("no PostgreSQL %d: scripts/setup fetches 18, for x86_64 (make test and make demo run it)", version)
	}
	if !reachable(tree) {
		near := filepath.Join(b.Dir, name)
		if !exists(near) {
			if err := os.CopyFS(near, os.DirFS(tree)); err != nil {
				return "", fmt.Errorf("copying PostgreSQL %d: %w", version, err)
			}
		}
		tree = near
	}
	return filepath.Join(tree, "bin"), nil
}

// args are the server's arguments. What is written is not made safe against a crash of the machine, which is not what
// tests are about.
func (p *Postgres) args() []string {
	args := []string{
		"-D", p.data, "-p", strconv.Itoa(p.Port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off", "-c", "max_connections=200",
		"-c", "log_statement=all", "-c", "log_min_duration_statement=-1",
		"-c", "wal_retrieve_retry_interval=100ms", // a replica looks for its primary soon, not after five seconds
		"-c", "min_wal_size=32MB", "-c", "max_wal_size=96MB", // several servers at a time share a small disk
	}
	if p.authority != nil {
		args = append(
			args, "-c", "ssl=on", "-c", "ssl_ca_file="+p.authority.File,
			"-c", "ssl_cert_file="+p.cert.CertFile, "-c", "ssl_key_file="+p.cert.KeyFile,
		)
	}
	for _, name := range slices.Sorted(maps.Keys(p.options.Settings)) {
		args = append(args, "-c", name+"="+p.options.Settings[name])
	}
	return args
}

// writeHBA says who may log in how.
func (p *Postgres) writeHBA() error {
	kind := "host"
	if p.options.TLS {
		kind = "hostssl"
	}
	lines := append(
		slices.Clone(p.options.HBA),
		kind+" all all 127.0.0.1/32 scram-sha-256",
		kind+" replication all 127.0.0.1/32 scram-sha-256",
	)
	// The file is there, and its owner stays.
	return os.WriteFile(filepath.Join(p.data, "pg_hba.conf"), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// Dump returns what pg_dumpall prints, with further arguments such as --clean. Only the server of the system has that
// program.
func (p *Postgres) Dump(ctx context.Context, args ...string) (string, error) {
	dump := filepath.Join(p.spec.dir, "dump.sql")
	_, err := p.client(ctx, "pg_dumpall", "", append(args, "--file="+dump)...)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(dump)
	return string(text), err
}

// Restore runs a dump in psql, which continues after a statement that fails: a role that is there already cannot be made. It
// returns what psql has said.
func (p *Postgres) Restore(ctx context.Context, dump string) (said string, err error) {
	return p.client(ctx, "psql", dump, "--no-psqlrc", "--quiet", "--dbname=postgres")
}

// client runs a client's program as the administrator.
func (p *Postgres) client(ctx context.Context, name, stdin string, args ...string) (string, error) {
	path := filepath.Join(filepath.Dir(p.spec.path), name)
	if !exists(path) {
		return "", fmt.Errorf("%s has no %s", filepath.Dir(path), name)
	}
	args = append([]string{"--host=127.0.0.1", "--port=" + strconv.Itoa(p.Port), "--username=postgres"}, args...)
	running := spec{
		name: name, path: path, args: args, dir: p.spec.dir, user: p.spec.user, stdin: stdin, dieSignal: syscall.SIGKILL,
		env: append([]string{"PGPASSWORD=" + p.AdminPassword}, p.spec.env...),
	}
	return running.output(ctx)
}

// Empty puts a server without any data in the place of this one, on the same port, as on a new machine.
func (p *Postgres) Empty(ctx context.Context) error {
	if err := errors.Join(p.Stop(), os.RemoveAll(p.data)); err != nil {
		return err
	}
	if err := p.initialize(ctx, filepath.Join(filepath.Dir(p.spec.path), "initdb")); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Copy copies the server's data, for which it is stopped and started again. What it returns puts the copy back.
func (p *Postgres) Copy(ctx context.Context) (restore func(context.Context) error, err error) {
	dir, err := os.MkdirTemp(p.spec.dir, "copy-")
	if err != nil {
		return nil, err
	}
	kept := filepath.Join(dir, "data")
	stopped := func(do func() error) error {
		if err := p.Stop(); err != nil {
			return err
		}
		if err := do(); err != nil {
			return err
		}
		return p.Start(ctx)
	}
	err = stopped(func() error { return exec.CommandContext(ctx, "cp", "-a", p.data, kept).Run() })
	return func(ctx context.Context) error {
		return stopped(func() error {
			return errors.Join(os.RemoveAll(p.data), exec.CommandContext(ctx, "cp", "-a", kept, p.data).Run())
		})
	}, err
}
