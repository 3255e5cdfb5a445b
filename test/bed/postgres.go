// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
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
