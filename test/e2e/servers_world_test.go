// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// serversWorld is a PostgreSQL with a pooler before it, a Redis with a replica, and instances that use them.
type serversWorld struct {
	postgres *bed.Postgres
	redis    *bed.Redis
	replica  *bed.Redis
	vault    *bed.Vault
	mount    string // of the engine
	engine   *client.Client
	admin    string // URL of the database's administrator

	operations, failed atomic.Int64
	mu                 sync.Mutex
	example            string
	direct, cache      string // the URLs of the database and of Redis that were given out last
	passwords          map[string]bool
	stop               func() // the instances
}

const (
	serverInstances = 4
	rootName        = "hyvve_admin" // the engine's administrator, at both servers
)

func startServers(t *testing.T) *serversWorld {
	t.Helper()
	ctx := t.Context()
	b := bed.ForTest(t)
	w := &serversWorld{mount: bed.Mount, passwords: map[string]bool{}}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.postgres, err = b.Postgres(ctx)
	ok(err)
	w.redis, err = b.Redis(ctx)
	ok(err)
	w.replica, err = w.redis.Replica(ctx)
	ok(err)
	w.vault, err = b.Vault(ctx, bed.VaultOptions{Audit: true})
	ok(err)
	w.engine = client.New(w.vault.Client, bed.Mount)
	w.write(t, "hyvve/config", map[string]any{"lease_ttl": "1m", "soak": "0s", "observe": "1s"})
	w.defineDatabase(t, b)
	w.defineCache(t)
	w.write(t, "hyvve/workloads/app", map[string]any{"presents": "database-url,redis-url", "min_instances": serverInstances, "max_unavailable": "1"})
	w.startInstances(t, serverInstances)
	return w
}

// startInstances lets instances of app work until stop: every other one comes to the database through PgBouncer.
func (w *serversWorld) startInstances(t *testing.T, count int) {
	running, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for n := range count {
		i := &serversInstance{world: w, id: fmt.Sprintf("app-%d", n), env: []string{"DATABASE_URL", "DIRECT_URL"}[n%2]}
		group.Go(func() { i.attend(running) })
	}
	w.stop = func() {
		cancel()
		group.Wait()
	}
	t.Cleanup(w.stop)
}

// defineDatabase makes database-url: pooled as DATABASE_URL, direct as DIRECT_URL.
func (w *serversWorld) defineDatabase(t *testing.T, b *bed.Bed) {
	t.Helper()
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.admin, err = w.postgres.NewDatabase(ctx, "hyvve")
	ok(err)
	password, err := w.postgres.NewRole(ctx, "hyvve_app")
	ok(err)
	root, err := w.postgres.NewRole(ctx, rootName)
	ok(err)
	w.run(t, "ALTER ROLE hyvve_admin SUPERUSER", "GRANT ALL ON SCHEMA public TO hyvve_app", "SET ROLE hyvve_app", "CREATE TABLE things (id bigserial PRIMARY KEY, text text)")
	bouncer, err := b.PgBouncer(ctx, w.postgres, bed.PgBouncerOptions{
		Mode: "transaction", AuthQuery: true, Settings: map[string]string{"default_pool_size": "10"},
	})
	ok(err)
	console, err := dsn.Parse(bouncer.ConsoleURL(), "postgresql")
	ok(err)
	w.write(t, "hyvve/connections/main", map[string]any{
		"kind": "postgres", "url": w.postgres.URL("postgres", rootName, root),
		"pgbouncers": "postgresql://" + console.User + "@" + console.Rest, "pgbouncer_password": console.Password.Reveal(),
	})
	w.write(t, "hyvve/connections/main/rotate-root", nil)
	direct, err := dsn.Parse(w.postgres.URL("hyvve", "hyvve_app", password), "postgresql")
	ok(err)
	pooled := strings.Replace(bouncer.URL("hyvve", "hyvve_app", password), "?sslmode=disable", "?pgbouncer=true&sslmode=disable&schema=public", 1)
	w.write(t, "hyvve/keys/database-url", map[string]any{
		"username": "database_url",
		"kind":     "postgres", "connection": "main", "urls": "DIRECT_URL=" + direct.Without().Text().Reveal(), "value": pooled,
	})
	w.secret(password, root, console.Password.Reveal())
}

// defineCache makes redis-url: that of the user default, as many platforms have it.
func (w *serversWorld) defineCache(t *testing.T) {
	t.Helper()
	const root = "root-password-of-the-cache"
	for _, r := range []*bed.Redis{w.redis, w.replica} {
		if _, err := r.Do(t.Context(), "ACL", "SETUSER", rootName, "on", ">"+root, "~*", "&*", "+@all"); err != nil {
			t.Fatal(err)
		}
	}
	w.write(t, "hyvve/connections/cache", map[string]any{"kind": "redis", "url": w.redis.UserURL(rootName, root), "nodes": w.replica.Addr, "timeout": "1s"})
	w.write(t, "hyvve/connections/cache/rotate-root", nil)
	w.write(t, "hyvve/keys/redis-url", map[string]any{"kind": "redis", "connection": "cache", "username": "redis_url", "value": w.redis.URL + "/0"})
	w.secret(root)
	w.remember(w.redis.URL)
}

func (w *serversWorld) write(t *testing.T, path string, data map[string]any) {
	t.Helper()
	if _, err := w.vault.Client.Logical().WriteWithContext(t.Context(), path, data); err != nil {
		t.Fatal(err)
	}
}

// remember notes the password of a URL, to search the logs for.
func (w *serversWorld) remember(url string) {
	u, err := dsn.Parse(url, "postgresql", "redis")
	if err != nil {
		return
	}
	w.secret(u.Password.Reveal())
}

// secret notes passwords, as instances do meanwhile.
func (w *serversWorld) secret(passwords ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, password := range passwords {
		w.passwords[password] = true
	}
}

// given notes what an instance was given.
func (w *serversWorld) given(b client.Bundle) {
	for _, v := range b.Values {
		w.remember(v.Reveal())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.direct, w.cache = b.Values["DIRECT_URL"].Reveal(), b.Values["REDIS_URL"].Reveal()
}

func (w *serversWorld) run(t *testing.T, statements ...string) {
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

func (w *serversWorld) ask(t *testing.T, query string) (answer string) {
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

// roles are those of database-url that can log in.
func (w *serversWorld) roles(t *testing.T) string {
	t.Helper()
	return w.ask(t, "SELECT coalesce(string_agg(rolname, ' ' ORDER BY rolname), '') FROM pg_roles WHERE rolcanlogin AND (rolname = 'hyvve_app' OR rolname LIKE 'database\\_url\\__')")
}

// users are those of redis-url that can log in at a node.
func (w *serversWorld) users(t *testing.T, r *bed.Redis) string {
	t.Helper()
	list, err := r.Do(t.Context(), "ACL", "LIST")
	if err != nil {
		t.Fatal(err)
	}
	var on []string
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); f[2] == "on" && f[1] != rootName && f[1] != "admin" {
			on = append(on, f[1])
		}
	}
	return strings.Join(on, " ")
}

// logins are the ones of database-url and redis-url after so many rotations: four roles, and two users, take turns.
func logins(rotations int) (role, user string) {
	return "database_url_" + string("abcd"[(rotations-1)%4]), "redis_url_" + string("ab"[(rotations-1)%2])
}

// validLogins wants the one user of each server's pair that can log in, on all nodes.
func (w *serversWorld) validLogins(t *testing.T, what, role, user string) {
	t.Helper()
	if got := w.roles(t); got != role {
		t.Errorf("%s: %q can log in at PostgreSQL, want %s", what, got, role)
	}
	for _, r := range []*bed.Redis{w.redis, w.replica} {
		if got := w.users(t, r); got != user {
			t.Errorf("%s: %q can log in at Redis %s, want %s", what, got, r.Addr, user)
		}
	}
}

// begin rotates keys.
func (w *serversWorld) begin(t *testing.T, keys ...string) api.Rotation {
	t.Helper()
	r, err := w.engine.Rotate(t.Context(), "scenario", keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// untilAtMost is long since each login that was too short for a sample, as happens on a busy machine, begins a window of a
// minute again.
const untilAtMost = 5 * time.Minute

// until looks at a rotation until it is as wanted.
func (w *serversWorld) until(t *testing.T, id, what string, is func(api.Rotation) bool) api.Rotation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), untilAtMost)
	defer cancel()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		r, err := w.engine.Rotation(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if is(r) {
			return r
		}
		if r.Ended() {
			t.Fatalf("rotation ended as %s before it was %s", r.State, what)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("rotation is %s %s, not %s: %s", r.State, r.Step, what, r.NextGate)
		case <-ticker.C:
		}
	}
}

// noFailures ends the load, and wants that nobody has noticed anything.
func (w *serversWorld) noFailures(t *testing.T) {
	t.Helper()
	w.stop()
	if failed := w.failed.Load(); failed > 0 {
		t.Errorf("%d of %d operations failed: %s", failed, w.operations.Load(), w.last())
	}
	w.noPasswordLeaks(t)
}

// noPasswordLeaks searches the servers' logs, of which PostgreSQL's holds every statement, Vault's logs, and what Vault
// answers.
func (w *serversWorld) noPasswordLeaks(t *testing.T) {
	t.Helper()
	var texts []string
	for _, path := range []string{w.postgres.LogPath, w.redis.LogPath, w.replica.LogPath, w.vault.LogPath} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(data))
	}
	for _, path := range []string{"connections/main", "connections/cache", "keys/database-url", "keys/redis-url", "status"} {
		secret, err := w.vault.Client.Logical().ReadWithContext(t.Context(), w.mount+"/"+path)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, fmt.Sprint(secret.Data))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.passwords) < 6 {
		t.Error("fewer passwords are known than there were")
	}
	for password := range w.passwords {
		for _, text := range texts {
			if password == "" || strings.Contains(text, password) {
				t.Error("a password stands in a log or an answer, or one is empty")
			}
		}
	}
}

func (w *serversWorld) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.example
}
