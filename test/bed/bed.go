// SPDX-License-Identifier: Apache-2.0

// Package bed starts the real parts that tests, benchmarks, the demo and "make dev" run on: Vault, PostgreSQL,
// PgBouncer, Redis and Prometheus, private to the caller, on free loopback ports, with their data in a scratch directory.
// Nothing that it starts outlives the process that started it, however that ends: each part dies with its parent
// (Pdeathsig).
package bed

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Bed is a scratch directory and the parts that run in it.
type Bed struct {
	Dir string // readable by the servers' user; removed by Close
	Log io.Writer

	authority authorities

	mu     sync.Mutex
	parts  []*process // in order of their start
	relays []*Relay
}

// Repo is the root of this repository: of the checkout that the working directory is in, or else this program.
func Repo() string {
	var starts []string
	if here, err := os.Getwd(); err == nil {
		starts = append(starts, here)
	}
	if self, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(self))
	}
	for _, dir := range starts {
		for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			if exists(filepath.Join(dir, "go.mod")) && exists(filepath.Join(dir, "vault-dev.hcl")) {
				return dir
			}
		}
	}
	return "."
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Tool is the path of a binary that the build put below build/.
func Tool(parts ...string) string {
	return filepath.Join(append([]string{Repo(), "build"}, parts...)...)
}

// Context returns a context that ends on Ctrl-C and on SIGTERM, so that a Bed that is run by hand can be closed.
func Context() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// New makes an empty bed under build/run, or under the system's directory for temporary files where the servers' user
// could not reach that. What earlier processes left there when they were killed is removed.
func New(name string, log io.Writer) (*Bed, error) {
	if log == nil {
		log = io.Discard
	}
	root := Tool("run")
	if !reachable(filepath.Dir(Repo())) || !reachable(Repo()) {
		root = filepath.Join(os.TempDir(), "hyvve-run")
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("making the scratch directory: %w", err)
	}
	sweep(root)
	dir, err := os.MkdirTemp(root, fmt.Sprintf("%s-%d-", name, os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("making the scratch directory: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	return &Bed{Dir: dir, Log: log}, nil
}

// reachable reports whether every user may pass through a directory and those above it.
func reachable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == "/" || dir == "." {
			return true
		}
	}
}

// sweep removes the directories of processes that are gone.
func sweep(root string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, entry := range entries {
		var pid int
		name := entry.Name()
		for at := 0; at < len(name); at++ {
			if n, _ := fmt.Sscanf(name[at:], "-%d-", &pid); n == 1 {
				break
			}
		}
		if pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(filepath.Join(root, name))
		}
	}
}

// closePatience is short: a Vault that is asked to end takes ten seconds over it, and what it has stored goes anyway.
const closePatience = time.Second

// Close stops all parts, the newest first, and removes the scratch directory. It may be called again.
func (b *Bed) Close() error {
	b.mu.Lock()
	parts, relays := b.parts, b.relays
	b.parts, b.relays = nil, nil
	b.mu.Unlock()
	var errs []error
	for _, r := range relays {
		errs = append(errs, r.Close())
	}
	for i := len(parts) - 1; i >= 0; i-- {
		errs = append(errs, parts[i].stop(closePatience))
	}
	return errors.Join(append(errs, os.RemoveAll(b.Dir))...)
}

func (b *Bed) keep(p *process) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.parts = append(b.parts, p)
}

func (b *Bed) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.Log, format+"\n", args...)
}

// FreePort returns a loopback port that nobody listens on.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	defer l.Close() //nolint:errcheck // nothing was sent
	return l.Addr().(*net.TCPAddr).Port, nil
}

// platformSchema is the part of the platform's schema that holds envelopes (docs/platform.md), with the
// row-level security of ai_provider_configs.
const platformSchema = `
CREATE TABLE ai_provider_configs (
	id text PRIMARY KEY, workspace_id text NOT NULL, provider text NOT NULL DEFAULT 'claude',
	api_key_encrypted text NOT NULL, updated_at timestamp(3) NOT NULL DEFAULT '2026-01-01');
ALTER TABLE ai_provider_configs ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON ai_provider_configs FOR ALL USING (workspace_id::text = current_setting('app.tenant_id', true));
CREATE TABLE mcp_server_configs (
	id text PRIMARY KEY, workspace_id text NOT NULL, api_key_encrypted text,
	updated_at timestamp(3) NOT NULL DEFAULT '2026-01-01');
CREATE TABLE integration_connections (
	id text PRIMARY KEY, workspace_id text NOT NULL, encrypted_credentials text NOT NULL,
	updated_at timestamp(3) NOT NULL DEFAULT '2026-01-01');
CREATE TABLE users (
	id text PRIMARY KEY, email text NOT NULL UNIQUE, two_factor_secret text,
	updated_at timestamp(3) NOT NULL DEFAULT '2026-01-01');`

// Seeding says how many envelopes of each column there are to be, and under which keys.
type Seeding struct {
	MasterKey, BetterAuth      key.Value
	Providers, Servers, Legacy int // ai_provider_configs; mcp_server_configs under the master key; under BETTER_AUTH_SECRET
	Connections, Users         int // integration_connections; users
	Salts                      int // distinct salts; 0: one an envelope, as the platform writes them
}

// Row is an envelope of the platform's and what is in it.
type Row struct {
	Table, Column, ID string
	Layout            key.Layout
	Plaintext         string
}

// SeedPlatform makes the platform's tables in an empty database and fills them.
func SeedPlatform(ctx context.Context, conn *pgx.Conn, s Seeding) ([]Row, error) {
	if _, err := conn.PgConn().Exec(ctx, platformSchema).ReadAll(); err != nil {
		return nil, fmt.Errorf("making the platform's tables: %w", err)
	}
	shapes, err := plaintextShapes()
	if err != nil {
		return nil, err
	}
	var rows []Row
	add := func(table, column string, layout key.Layout, prefix string, n int) {
		for i := range n {
			id := fmt.Sprintf("%s-%06d", prefix, i)
			rows = append(rows, Row{table, column, id, layout, fmt.Sprintf("%s#%s", shapes[i%len(shapes)], id)})
		}
	}
	add("ai_provider_configs", "api_key_encrypted", key.TagFirst, "prov", s.Providers)
	add("mcp_server_configs", "api_key_encrypted", key.TagFirst, "mcp", s.Servers)
	add("mcp_server_configs", "api_key_encrypted", key.TagLast, "mcp-legacy", s.Legacy)
	add("integration_connections", "encrypted_credentials", key.TagFirst, "conn", s.Connections)
	add("users", "two_factor_secret", key.TagLast, "user", s.Users)
	sealed, err := sealRows(ctx, s, rows)
	if err != nil {
		return nil, err
	}
	return rows, insertRows(ctx, conn, rows, sealed)
}

// plaintextShapes are those of the vectors that the platform's own code made.
func plaintextShapes() ([]string, error) {
	data, err := os.ReadFile(filepath.Join(Repo(), "internal/envelope/testdata/envelopes.json"))
	if err != nil {
		return nil, err
	}
	var vectors []struct {
		Plaintext string `json:"plaintext"`
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		return nil, fmt.Errorf("envelopes.json: %w", err)
	}
	var shapes []string
	for _, v := range vectors {
		shapes = append(shapes, v.Plaintext)
	}
	return shapes, nil
}

func sealRows(ctx context.Context, s Seeding, rows []Row) ([]string, error) {
	rings := map[key.Layout]*envelope.Keyring{}
	for layout, value := range map[key.Layout]key.Value{key.TagFirst: s.MasterKey, key.TagLast: s.BetterAuth} {
		ring, err := envelope.NewKeyring(layout, value)
		if err != nil {
			return nil, err
		}
		rings[layout] = ring
	}
	salts := make([]envelope.Salt, max(s.Salts, 1))
	for i := range salts {
		_, _ = rand.Read(salts[i][:])
	}
	sealed := make([]string, len(rows))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, row := range rows {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			salt := salts[i%len(salts)]
			if s.Salts == 0 {
				_, _ = rand.Read(salt[:])
			}
			derived, err := rings[row.Layout].Derive(salt)
			if err != nil {
				return err
			}
			e, err := envelope.Seal(row.Layout, derived, salt, []byte(row.Plaintext), rand.Reader)
			sealed[i] = e.String()
			return err
		})
	}
	return sealed, group.Wait()
}

func insertRows(ctx context.Context, conn *pgx.Conn, rows []Row, sealed []string) error {
	for from := 0; from < len(rows); {
		table, column, second := rows[from].Table, rows[from].Column, "workspace_id"
		if table == "users" {
			second = "email"
		}
		n := from // those of one table stand together
		_, err := conn.CopyFrom(ctx, pgx.Identifier{table}, []string{"id", second, column}, pgx.CopyFromFunc(func() ([]any, error) {
			if n == len(rows) || rows[n].Table != table {
				return nil, nil
			}
			value := "ws-1"
			if table == "users" {
				value = rows[n].ID + "@example.test"
			}
			n++
			return []any{rows[n-1].ID, value, sealed[n-1]}, nil
		}))
		if err != nil {
			return fmt.Errorf("filling table %s: %w", table, err)
		}
		from = n
	}
	return nil
}
