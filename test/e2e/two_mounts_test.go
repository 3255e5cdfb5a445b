// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform"
)

// mountInstances are those of app in each mount: one through PgBouncer, one not.
const mountInstances = 2

// aloneEvery is how often the mounts rotate one after the other and not at the same time.
const aloneEvery = 5

// TestTwoMounts rotates the same keys of two mounts again and again, on one PostgreSQL and one Redis, under load. The login
// roles of both act as one owner, which the first mount imports as its login. No operation fails, and neither mount touches
// what is the other's.
func TestTwoMounts(t *testing.T) {
	w := startTwoMounts(t)
	n := rotations(t, 3)
	watched := w.watch(t)
	begun := time.Now()
	for i := range n {
		what := fmt.Sprintf("rotation %d", i+1)
		if i%aloneEvery == 0 {
			w.rotateAlone(t, what, w.one, w.two)
			w.rotateAlone(t, what, w.two, w.one)
		} else {
			w.rotateTogether(t, what)
		}
		w.oneLoginEach(t, what)
	}
	took := time.Since(begun)
	looks, statements := watched(), w.statements(t)
	w.refusesTheOthers(t)
	for _, m := range w.mounts() {
		m.noFailures(t)
		rate := float64(m.operations.Load()) / took.Seconds()
		if n >= 10 && rate < leastRate {
			t.Errorf("mount %s: %.0f operations a second: at least %d are wanted", m.mount, rate, leastRate)
		}
		t.Logf("mount %s: %d operations in %d rotations and %.0f s (%.0f/s), %d failed", m.mount, m.operations.Load(), n, took.Seconds(), rate, m.failed.Load())
	}
	if looks < n || statements < n {
		t.Errorf("%d looks at the servers, %d statements of administrators", looks, statements)
	}
	if owner := w.one.ask(t, "SELECT string_agg(DISTINCT tableowner, ' ') FROM pg_tables WHERE schemaname = 'public'"); owner != "hyvve_app" {
		t.Errorf("tables are %s's", owner)
	}
	t.Logf("%d looks at the servers, and %d statements of administrators: none touches the other mount's logins", looks, statements)
}

// twoMounts are two mounts of the engine in one Vault, with the same servers and keys of the same names.
type twoMounts struct {
	one, two *mounted
	nodes    []*goredis.Client // of Redis, logged in all the time: logins that are short make a rotation look for longer
}

// mounted is one of two mounts, with instances of its own.
type mounted struct {
	*serversWorld
	root     string            // its administrator, at both servers
	imported map[string]string // the logins of its first versions, by key
}

func (w *twoMounts) mounts() []*mounted { return []*mounted{w.one, w.two} }

func startTwoMounts(t *testing.T) *twoMounts {
	t.Helper()
	ctx := t.Context()
	b := bed.ForTest(t)
	base := &serversWorld{}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	base.postgres, err = b.PostgresWith(ctx, bed.PostgresOptions{Settings: map[string]string{"log_line_prefix": logPrefix + "%u "}})
	ok(err)
	base.redis, err = b.Redis(ctx)
	ok(err)
	base.replica, err = base.redis.Replica(ctx)
	ok(err)
	base.vault, err = b.Vault(ctx, bed.VaultOptions{Durable: true, Audit: true, NoMount: true})
	ok(err)
	base.admin, err = base.postgres.NewDatabase(ctx, "hyvve")
	ok(err)
	owner, err := base.postgres.NewRole(ctx, "hyvve_app")
	ok(err)
	tenant, err := base.postgres.NewRole(ctx, "hyvve_app_two")
	ok(err)
	base.run(t, "GRANT ALL ON SCHEMA public TO hyvve_app", "GRANT hyvve_app TO hyvve_app_two", "ALTER ROLE hyvve_app_two SET role = hyvve_app",
		"SET ROLE hyvve_app", "CREATE TABLE things (id bigserial PRIMARY KEY, text text)")
	bouncer, err := b.PgBouncer(ctx, base.postgres, bed.PgBouncerOptions{
		Mode: "transaction", AuthQuery: true, Settings: map[string]string{"default_pool_size": "10"},
	})
	ok(err)
	const cachePassword = "password-of-the-second-tenant"
	for _, r := range []*bed.Redis{base.redis, base.replica} {
		_, err := r.Do(ctx, "ACL", "SETUSER", "cache_two", "on", ">"+cachePassword, "~*", "&*", "+@all", "-@admin")
		ok(err)
	}
	w := &twoMounts{}
	for _, r := range []*bed.Redis{base.redis, base.replica} {
		node := goredis.NewClient(&goredis.Options{Addr: r.Addr, Username: "admin", Password: r.AdminPassword, DisableIdentity: true})
		t.Cleanup(func() { _ = node.Close() })
		w.nodes = append(w.nodes, node)
	}
	for n, m := range []*mounted{
		{root: rootName + "_one", imported: map[string]string{"database-url": "hyvve_app", "redis-url": "default"}},
		{root: rootName + "_two", imported: map[string]string{"database-url": "hyvve_app_two", "redis-url": "cache_two"}},
	} {
		mount := []string{bed.Mount, "second"}[n]
		m.serversWorld = &serversWorld{
			postgres: base.postgres, redis: base.redis, replica: base.replica, vault: base.vault, admin: base.admin,
			mount: mount, engine: client.New(base.vault.Client, mount), passwords: map[string]bool{},
		}
		cache := []string{m.redis.URL, m.redis.UserURL("cache_two", cachePassword)}[n]
		m.define(t, bouncer, []string{owner, tenant}[n], cache+"/0")
		*[]**mounted{&w.one, &w.two}[n] = m
	}
	for _, m := range w.mounts() {
		m.startInstances(t, mountInstances)
	}
	return w
}

// define enables the engine and imports both URLs in use, which are the mount's own.
func (m *mounted) define(t *testing.T, bouncer *bed.PgBouncer, password, cache string) {
	t.Helper()
	ctx := t.Context()
	m.write(t, "sys/mounts/"+m.mount, map[string]any{"type": bed.PluginName})
	m.write(t, m.mount+"/config", map[string]any{"lease_ttl": "1m", "soak": "0s", "observe": "1s"})
	root, err := m.postgres.NewRole(ctx, m.root)
	if err != nil {
		t.Fatal(err)
	}
	m.run(t, "ALTER ROLE "+m.root+" SUPERUSER")
	console, err := dsn.Parse(bouncer.ConsoleURL(), "postgresql")
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, m.mount+"/connections/main", map[string]any{
		"kind": "postgres", "url": m.postgres.URL("postgres", m.root, root),
		"pgbouncers": "postgresql://" + console.User + "@" + console.Rest, "pgbouncer_password": console.Password.Reveal(),
	})
	user := m.imported["database-url"]
	direct, err := dsn.Parse(m.postgres.URL("hyvve", user, password), "postgresql")
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, m.mount+"/keys/database-url", map[string]any{
		"kind": "postgres", "connection": "main", "urls": "DIRECT_URL=" + direct.Without().Text().Reveal(),
		"value": strings.Replace(bouncer.URL("hyvve", user, password), "?sslmode=disable", "?pgbouncer=true&sslmode=disable&schema=public", 1),
	})
	cacheRoot := "password-of-" + m.root
	for _, r := range []*bed.Redis{m.redis, m.replica} {
		if _, err := r.Do(ctx, "ACL", "SETUSER", m.root, "on", ">"+cacheRoot, "~*", "&*", "+@all"); err != nil {
			t.Fatal(err)
		}
	}
	m.write(t, m.mount+"/connections/cache", map[string]any{"kind": "redis", "url": m.redis.UserURL(m.root, cacheRoot), "nodes": m.replica.Addr, "timeout": "1s"})
	m.write(t, m.mount+"/keys/redis-url", map[string]any{"kind": "redis", "connection": "cache", "value": cache})
	for _, name := range []string{"main", "cache"} {
		m.write(t, m.mount+"/connections/"+name+"/rotate-root", nil)
	}
	m.secret(password, root, cacheRoot, console.Password.Reveal())
	m.remember(cache)
	m.write(t, m.mount+"/workloads/app", map[string]any{"presents": "database-url,redis-url", "min_instances": mountInstances, "max_unavailable": "1"})
}

// rotate begins a rotation of both keys. What it returns waits for its end, in any goroutine.
func (m *mounted) rotate(t *testing.T, what string) (end func() error) {
	t.Helper()
	r := m.begin(t, "database-url", "redis-url")
	return func() error {
		r, err := platform.Follow(t.Context(), m.engine, r.ID, func(r api.Rotation) {
			t.Logf("mount %s, %s: %s %s: %s", m.mount, what, r.State, r.Step, platform.Short(r.NextGate))
		})
		if err == nil && r.State != "done" {
			err = fmt.Errorf("it is %s", r.State)
		}
		if err != nil {
			return fmt.Errorf("mount %s, %s: %w", m.mount, what, err)
		}
		return nil
	}
}

func (w *twoMounts) rotateTogether(t *testing.T, what string) {
	t.Helper()
	ends := []func() error{w.one.rotate(t, what), w.two.rotate(t, what)}
	errs := make([]error, len(ends))
	var group sync.WaitGroup
	for n, end := range ends {
		group.Go(func() { errs[n] = end() })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// rotateAlone rotates the keys of a mount, and wants everybody else's logins to stay as they are.
func (w *twoMounts) rotateAlone(t *testing.T, what string, m, other *mounted) {
	t.Helper()
	before := w.logins(t)
	if err := m.rotate(t, what)(); err != nil {
		t.Fatal(err)
	}
	w.sameButFor(t, what+" of mount "+m.mount, m, before)
	if _, there := before[other.user(t, "redis-url")]; !there {
		t.Errorf("the login of mount %s was not looked at", other.mount)
	}
}

// sameButFor compares all logins with those of before, but for those of a mount; nil: of nobody.
func (w *twoMounts) sameButFor(t *testing.T, what string, m *mounted, before map[string]string) {
	t.Helper()
	after := w.logins(t)
	for name := range after {
		if _, there := before[name]; !there {
			before[name] = "there was none"
		}
	}
	for name, old := range before {
		if now := after[name]; now != old && (m == nil || !m.owns(t, name)) {
			t.Errorf("%s changes %s, which is not its own, from\n%s\nto\n%s", what, name, old, now)
		}
	}
}

// user is the login of a key as it was given out last.
func (m *mounted) user(t *testing.T, key string) string {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	u, err := dsn.Parse(map[string]string{"database-url": m.direct, "redis-url": m.cache}[key], "postgresql", "redis")
	if err != nil {
		t.Fatal(err)
	}
	if u.User == "" {
		return "default"
	}
	return u.User
}

// id is what names of the mount's logins hold, after the first rotation.
func (m *mounted) id(t *testing.T) string {
	t.Helper()
	parts := strings.Split(m.user(t, "redis-url"), "_") // redis_url_ab23cd_a
	if len(parts) != 4 {
		t.Fatalf("mount %s has the user %s", m.mount, m.user(t, "redis-url"))
	}
	return parts[2]
}

// owns reports whether a login is one of the mount's keys.
func (m *mounted) owns(t *testing.T, name string) bool {
	t.Helper()
	return strings.Contains(name, "_url_"+m.id(t)+"_") || name == m.imported["database-url"] || name == m.imported["redis-url"]
}

// logins are all there are, at PostgreSQL and both nodes of Redis, with all that is known of them.
func (w *twoMounts) logins(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	text := w.one.ask(t, `SELECT string_agg(concat_ws(' ', rolname, oid, rolcanlogin, rolconnlimit, rolvaliduntil, rolpassword, shobj_description(oid, 'pg_authid'),
		(SELECT string_agg(roleid::text, ',' ORDER BY roleid) FROM pg_auth_members WHERE member = a.oid),
		(SELECT string_agg(setconfig::text, ',' ORDER BY setdatabase) FROM pg_db_role_setting WHERE setrole = a.oid)), E'\n') FROM pg_authid a`)
	for line := range strings.SplitSeq(text, "\n") {
		name, _, _ := strings.Cut(line, " ")
		all[name] = line
	}
	for n, node := range w.nodes {
		lines, err := node.Do(t.Context(), "ACL", "LIST").StringSlice()
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			all[strings.Fields(line)[1]] += fmt.Sprintf("\nnode %d: %s", n, line)
		}
	}
	return all
}

// oneLoginEach wants one role and one user of each mount that can log in: the one that was given out last.
func (w *twoMounts) oneLoginEach(t *testing.T, what string) {
	t.Helper()
	all := w.logins(t)
	for _, m := range w.mounts() {
		var valid []string
		for name, text := range all {
			f := strings.Fields(text)
			if m.owns(t, name) && (f[2] == "t" || strings.Contains(text, " on ")) {
				valid = append(valid, name)
			}
		}
		slices.Sort(valid)
		if want := []string{m.user(t, "database-url"), m.user(t, "redis-url")}; !slices.Equal(valid, want) {
			t.Errorf("%s: %q of mount %s can log in, want %q", what, valid, m.mount, want)
		}
	}
}

// refusesTheOthers has the second mount ask for the first one's logins: by their name, and by their URL. It is refused, and
// nothing changes.
func (w *twoMounts) refusesTheOthers(t *testing.T) {
	t.Helper()
	before := w.logins(t)
	for name, of := range map[string]struct{ kind, connection, own, theirs string }{
		"database-url": {"postgres", "main", w.two.direct, w.one.direct},
		"redis-url":    {"redis", "cache", w.two.cache, w.one.cache},
	} {
		login := w.one.user(t, name)
		for other, fields := range map[string]map[string]any{
			name + "-by-name": {"username": login[:len(login)-len("_a")], "value": of.own},
			name + "-by-url":  {"value": of.theirs},
		} {
			fields["kind"], fields["connection"] = of.kind, of.connection
			w.two.write(t, w.two.mount+"/keys/"+other, fields)
			w.two.write(t, w.two.mount+"/workloads/"+other, map[string]any{"presents": other, "min_instances": 0})
			plan, err := w.two.vault.Client.Logical().WriteWithContext(t.Context(), w.two.mount+"/rotate", map[string]any{"key": other, "dry_run": true, "detailed": true})
			if err != nil {
				t.Fatal(err)
			}
			if blockers := fmt.Sprint(plan.Data["blockers"]); !strings.Contains(blockers, "mount") {
				t.Errorf("mount %s may take %s: blockers %s", w.two.mount, login, blockers)
			}
		}
	}
	w.sameButFor(t, "a plan", nil, before)
}
