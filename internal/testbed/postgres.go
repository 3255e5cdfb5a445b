// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
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
)

// Postgres is a private PostgreSQL server.
type Postgres struct {
	Port     int
	LogPath  string
	password string

	bed     *Bed
	spec    spec
	process *process
}

// minPostgres is the oldest major version that we run on.
const minPostgres = 13

// postgresBin finds the server's binaries: the newest below Debian's directory, else those of pg_config.
func postgresBin() (string, error) {
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

// Postgres starts a server with an administrator named postgres.
func (b *Bed) Postgres(ctx context.Context) (*Postgres, error) {
	bin, err := postgresBin()
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
	p := &Postgres{Port: port, password: randomHex(16), bed: b}
	home, err := os.MkdirTemp(b.Dir, "postgres-")
	if err != nil {
		return nil, err
	}
	passwordFile := filepath.Join(home, "password")
	if err := os.WriteFile(passwordFile, []byte(p.password), 0o600); err != nil {
		return nil, err
	}
	if err := owner.own(home, passwordFile); err != nil {
		return nil, err
	}
	data := filepath.Join(home, "data")
	b.say("starting PostgreSQL %s on 127.0.0.1:%d", filepath.Base(filepath.Dir(bin)), port)
	initdb := spec{
		name: "initdb", path: filepath.Join(bin, "initdb"), dir: home, user: owner, dieSignal: syscall.SIGKILL,
		env:  []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")},
		args: []string{"-D", data, "-U", "postgres", "--pwfile=" + passwordFile, "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"},
	}
	if err := initdb.run(ctx); err != nil {
		return nil, err
	}
	p.spec = spec{
		name: filepath.Base(home), path: filepath.Join(bin, "postgres"), dir: home, user: owner,
		env: []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}, stopSignal: syscall.SIGINT, dieSignal: syscall.SIGQUIT,
		args: []string{
			"-D", data, "-p", strconv.Itoa(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
			"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off", "-c", "max_connections=200",
			"-c", "log_statement=all", "-c", "log_min_duration_statement=-1",
		},
	}
	return p, p.Start(ctx)
}

// Start starts the server, anew after Stop or Kill on the same port and data.
func (p *Postgres) Start(ctx context.Context) error {
	var err error
	if p.process, err = p.bed.start(p.spec); err != nil {
		return err
	}
	p.LogPath = p.process.log
	return p.process.await(ctx, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, p.AdminURL("postgres"))
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
	sessions, _ := children(p.process.cmd.Process.Pid)
	p.process.kill()
	deadline := time.Now().Add(stopPatience) // a zombie that nobody reaps holds nothing
	for _, pid := range sessions {
		for syscall.Kill(pid, syscall.SIGKILL) == nil && time.Now().Before(deadline) {
			<-time.After(time.Millisecond)
		}
	}
}

// AdminURL is the administrator's URL of a database.
func (p *Postgres) AdminURL(database string) string { return p.URL(database, "postgres", p.password) }

// URL is a user's URL of a database.
func (p *Postgres) URL(database, user, password string) string {
	u := url.URL{
		Scheme: "postgresql", User: url.UserPassword(user, password), Host: fmt.Sprintf("127.0.0.1:%d", p.Port),
		Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// NewDatabase makes an empty database and gives its administrator's URL.
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

// NewRole makes a login role and gives its password. The statement is kept out of the server's log.
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
