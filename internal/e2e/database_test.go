// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/demo"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/testbed"
)

// rotations is how often the database's credential is rotated: make test-soak ROTATIONS=50 does it for long.
func rotations(t *testing.T) int {
	text := os.Getenv("HYVVE_ROTATIONS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("ROTATIONS=%q is not a number from 1", text)
	}
	return n
}

// TestDatabaseURL adopts the URL in use, and rotates it again and again under load: one half of the instances comes through
// a PgBouncer in transaction mode, the other directly. No operation fails, the old role has no session left when it is
// locked, and one role of the pair can log in at the end.
func TestDatabaseURL(t *testing.T) {
	w := startDatabaseWorld(t)
	n := rotations(t)
	for i := range n {
		r, err := w.engine.Rotate(t.Context(), "scenario", "database-url")
		if err != nil {
			t.Fatal(err)
		}
		end, err := demo.Follow(t.Context(), w.engine, r.ID, func(r client.Rotation) {
			t.Logf("%d: %s %s: %s", i+1, r.State, r.Step, demo.Short(r.NextGate))
		})
		if err != nil || end.State != "done" {
			t.Fatalf("rotation %d ended as %s: %v", i+1, end.State, err)
		}
		roles := w.ask(t, "SELECT coalesce(string_agg(rolname, ' ' ORDER BY rolname), '') FROM pg_roles WHERE rolcanlogin AND (rolname = 'hyvve_app' OR rolname LIKE 'database\\_url\\__')")
		if want := "database_url_" + []string{"a", "b"}[i%2]; roles != want {
			t.Fatalf("after rotation %d, %q can log in, want %s", i+1, roles, want)
		}
	}
	w.stop()
	if failed := w.failed.Load(); failed > 0 {
		t.Errorf("%d of %d operations failed: %s", failed, w.operations.Load(), w.last())
	}
	if w.operations.Load() < int64(n)*100 {
		t.Errorf("only %d operations: this proves little", w.operations.Load())
	}
	if owner := w.ask(t, "SELECT string_agg(DISTINCT tableowner, ' ') FROM pg_tables WHERE schemaname = 'public'"); owner != "hyvve_app" {
		t.Errorf("tables are %s's", owner)
	}
	t.Logf("%d operations in %d rotations, %d failed", w.operations.Load(), n, w.failed.Load())
	w.noPasswordLeaks(t)
}

// databaseWorld is a database, a pooler before it, and instances that use both.
type databaseWorld struct {
	postgres *testbed.Postgres
	vault    *testbed.Vault
	engine   *client.Client
	admin    string // URL

	operations, failed atomic.Int64
	mu                 sync.Mutex
	example            string
	passwords          map[string]bool
	stop               func()
}

const databaseInstances = 4

func startDatabaseWorld(t *testing.T) *databaseWorld {
	t.Helper()
	ctx := t.Context()
	bed := testbed.ForTest(t)
	w := &databaseWorld{passwords: map[string]bool{}}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.postgres, err = bed.Postgres(ctx)
	ok(err)
	w.admin, err = w.postgres.NewDatabase(ctx, "hyvve")
	ok(err)
	password, err := w.postgres.NewRole(ctx, "hyvve_app")
	ok(err)
	root, err := w.postgres.NewRole(ctx, "hyvve_admin")
	ok(err)
	w.run(t, "ALTER ROLE hyvve_admin SUPERUSER", "GRANT ALL ON SCHEMA public TO hyvve_app", "SET ROLE hyvve_app", "CREATE TABLE things (id bigserial PRIMARY KEY, text text)")
	bouncer, err := bed.PgBouncer(ctx, w.postgres, testbed.PgBouncerOptions{
		Mode: "transaction", AuthQuery: true, Settings: map[string]string{"default_pool_size": "10"},
	})
	ok(err)
	w.vault, err = bed.Vault(ctx, testbed.VaultOptions{Audit: true})
	ok(err)
	w.engine = client.New(w.vault.Client, testbed.Mount)
	console, consolePassword, _ := strings.Cut(strings.TrimPrefix(bouncer.ConsoleURL(), "postgresql://"), ":")
	consolePassword, rest, _ := strings.Cut(consolePassword, "@")
	write := func(path string, data map[string]any) {
		t.Helper()
		_, err := w.vault.Client.Logical().WriteWithContext(ctx, path, data)
		ok(err)
	}
	write("hyvve/config", map[string]any{"lease_ttl": "1m", "soak": "0s"})
	write("hyvve/connections/main", map[string]any{
		"kind": "postgres", "url": w.postgres.URL("postgres", "hyvve_admin", root),
		"pgbouncers": "postgresql://" + console + "@" + rest, "pgbouncer_password": consolePassword,
	})
	write("hyvve/connections/main/rotate-root", nil)
	direct := strings.Replace(w.postgres.URL("hyvve", "hyvve_app", password), "hyvve_app:"+password+"@", "", 1)
	pooled := strings.Replace(bouncer.URL("hyvve", "hyvve_app", password), "?sslmode=disable", "?pgbouncer=true&sslmode=disable&schema=public", 1)
	write("hyvve/keys/database-url", map[string]any{
		"kind": "postgres", "connection": "main", "urls": "DIRECT_URL=" + direct, "value": pooled,
	})
	write("hyvve/workloads/app", map[string]any{"presents": "database-url", "min_instances": databaseInstances, "max_unavailable": "1"})
	w.passwords[password], w.passwords[root], w.passwords[consolePassword] = true, true, true

	running, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for n := range databaseInstances {
		env := []string{"DATABASE_URL", "DIRECT_URL"}[n%2]
		group.Go(func() { w.attend(running, t, fmt.Sprintf("app-%d", n), env) })
	}
	w.stop = func() {
		cancel()
		group.Wait()
	}
	t.Cleanup(w.stop)
	return w
}

// attend is an instance: it follows its bundle, and works with a pool of long-lived connections to the URL in it.
func (w *databaseWorld) attend(ctx context.Context, t *testing.T, id, env string) {
	var current atomic.Pointer[pgxpool.Pool]
	var workers sync.WaitGroup
	defer func() {
		workers.Wait()
		if p := current.Load(); p != nil {
			p.Close()
		}
	}()
	for ctx.Err() == nil {
		b, err := w.engine.Creds(ctx, "app", id)
		if err != nil {
			w.complain(ctx, id, err)
			return
		}
		url := b.Values[env].Reveal()
		w.remember(url)
		config, err := pgxpool.ParseConfig(strings.NewReplacer("pgbouncer=true&", "", "&schema=public", "").Replace(url))
		if err != nil {
			w.complain(ctx, id, err)
			return
		}
		config.MaxConns = 3
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		pool, err := pgxpool.NewWithConfig(context.Background(), config)
		if err == nil {
			err = pool.Ping(ctx)
		}
		if err != nil { // the server is away: once more
			w.complain(ctx, id, err)
			pool.Close()
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		old := current.Swap(pool)
		if old == nil {
			for range 3 {
				workers.Go(func() { w.work(ctx, id, &current) })
			}
		} else {
			old.Close() // those at work with it end first
		}
		if _, err := w.engine.Report(ctx, client.Report{Workload: "app", Instance: id, Secret: b.Secret, Etag: b.Etag, Healthy: true}); err != nil {
			w.complain(ctx, id, err)
			return
		}
		for changed := false; !changed && ctx.Err() == nil; {
			if changed, err = w.engine.Watch(ctx, "app", id, b.Etag, 20*time.Second); err != nil {
				w.complain(ctx, id, err)
				return
			}
		}
	}
}

// work reads and writes without a pause that would let an error go unseen.
func (w *databaseWorld) work(ctx context.Context, id string, current *atomic.Pointer[pgxpool.Pool]) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		var err error
		for { // a pool that was closed while we reached for it is no failure of the server's
			pool := current.Load()
			if n%2 == 0 {
				_, err = pool.Exec(context.WithoutCancel(ctx), "INSERT INTO things (text) VALUES ('x')")
			} else {
				var count int
				err = pool.QueryRow(context.WithoutCancel(ctx), "SELECT count(*) FROM (SELECT FROM things LIMIT 10) t").Scan(&count)
			}
			if err == nil || pool == current.Load() {
				break
			}
		}
		w.operations.Add(1)
		w.complain(ctx, id, err)
	}
}

func (w *databaseWorld) complain(ctx context.Context, id string, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	w.failed.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.example = id + ": " + err.Error()
}

func (w *databaseWorld) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.example
}

// remember notes the password of a URL, to search the logs for.
func (w *databaseWorld) remember(url string) {
	_, rest, _ := strings.Cut(url, "://")
	info, _, _ := strings.Cut(rest, "@")
	_, password, _ := strings.Cut(info, ":")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.passwords[password] = true
}

func (w *databaseWorld) run(t *testing.T, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // of a test
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func (w *databaseWorld) ask(t *testing.T, query string) (answer string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // of a test
	if err := conn.QueryRow(t.Context(), query).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// noPasswordLeaks searches the server's log, which holds every statement, Vault's logs, and what Vault answers.
func (w *databaseWorld) noPasswordLeaks(t *testing.T) {
	t.Helper()
	var texts []string
	for _, path := range []string{w.postgres.LogPath, w.vault.LogPath} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(data))
	}
	for _, path := range []string{"hyvve/connections/main", "hyvve/keys/database-url", "hyvve/status"} {
		secret, err := w.vault.Client.Logical().ReadWithContext(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, fmt.Sprint(secret.Data))
	}
	if len(w.passwords) < 4 {
		t.Error("fewer passwords are known than there were")
	}
	for password := range w.passwords {
		for _, text := range texts {
			if strings.Contains(text, password) {
				t.Error("a password stands in a log or an answer")
			}
		}
	}
}
