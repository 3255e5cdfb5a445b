// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

func TestMain(m *testing.M) { bed.Main(m) }

// world is a database with an application's role that owns a table, and a key that has the role's URL.
type world struct {
	t          testing.TB
	admin      string // URL
	postgres   *bed.Postgres
	kind       *Kind
	connection kind.Connection
	key        key.Key
	first      key.Version
	app        string
}

var worlds int

var fingerprints = key.NewFingerprinter([]byte("worlds"))

// on makes worlds on a server of its own, for as long as a test lasts; nil: the one that all tests share.
var on *bed.Postgres

// caPEM is that of the server's certificate, where it has one.
var caPEM string

func database(t testing.TB) (string, *bed.Postgres) {
	t.Helper()
	if on == nil {
		return bed.DatabaseOn(t)
	}
	url, err := on.NewDatabase(t.Context(), fmt.Sprintf("own_%d", worlds))
	if err != nil {
		t.Fatal(err)
	}
	return url, on
}

func newWorld(t testing.TB, app string, options kind.Options) *world {
	t.Helper()
	w := &world{t: t, kind: New(rand.Reader), app: app}
	t.Cleanup(func() { _ = w.kind.Close() })
	w.admin, w.postgres = database(t)
	worlds++
	if w.app == "" {
		w.app = fmt.Sprintf("app%d", worlds)
	}
	password, err := w.postgres.NewRole(t.Context(), w.app)
	if err != nil {
		t.Fatal(err)
	}
	w.exec("GRANT ALL ON SCHEMA public TO "+quote(w.app), "SET ROLE "+quote(w.app), "CREATE TABLE things (id int)", "RESET ROLE")
	c := kind.Connection{Name: "main", Kind: "postgres", Options: kind.Options{login.FieldURL: w.admin, login.FieldCA: caPEM}, Revision: 1}
	if w.connection, err = w.kind.NormalizeConnection(c); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(w.connection.Options[login.FieldURL], w.connection.Secrets["password"].Reveal()) {
		t.Error("the password stays in the URL")
	}
	if options == nil {
		options = kind.Options{}
	}
	options[kind.OptionConnection] = "main"
	if options, err = w.kind.Normalize(options); err != nil {
		t.Fatal(err)
	}
	w.key = key.Key{Name: fmt.Sprintf("database-url-%d", worlds), Env: "DATABASE_URL", Kind: "postgres", Options: options, Mount: "worlds"}
	u, err := dsn.Parse(w.admin, urls.Schemes...)
	if err != nil {
		t.Fatal(err)
	}
	url := u.With(w.app, key.NewValue(password)).Text()
	w.first = key.Version{Number: 1, Value: key.NewValue(url.Reveal() + "&pgbouncer=true&schema=public")}
	return w
}

func (w *world) exec(statements ...string) {
	w.t.Helper()
	conn := w.dial(w.admin)
	for _, s := range statements {
		if _, err := conn.Exec(w.t.Context(), s); err != nil {
			w.t.Fatalf("%s: %v", s, err)
		}
	}
}

func (w *world) dial(url string) *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// session logs in with a version as an application would.
func (w *world) session(v key.Version) (*pgx.Conn, error) {
	url := strings.TrimSuffix(v.Value.Reveal(), "&pgbouncer=true&schema=public")
	return pgx.Connect(w.t.Context(), url)
}

// next is the change to a version that takes the place of one.
func (w *world) next(from key.Version) kind.Change {
	w.t.Helper()
	value, err := w.kind.Generate(rand.Reader, w.key, from.Value)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.kind.Check(w.key.Options, value); err != nil {
		w.t.Fatal(err)
	}
	to := key.Version{Number: from.Number + 1, Value: value, Fingerprint: fingerprints.Of(w.key.Name, value)}
	return kind.Change{Key: w.key, From: from, To: to, Connection: w.connection}
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) logins() string {
	w.t.Helper()
	var names []string
	rows, err := w.dial(w.admin).Query(w.t.Context(), "SELECT rolname FROM pg_roles WHERE rolcanlogin AND (rolname = $1 OR rolname LIKE $2) ORDER BY 1", w.app, strings.ReplaceAll(w.key.Name, "-", "\\_")+"%")
	w.ok(err)
	names, err = pgx.CollectRows(rows, pgx.RowTo[string])
	w.ok(err)
	return strings.Join(names, " ")
}

func TestAdoptionAndTurns(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	own := roleNames.Of(w.key)
	a, b := own[0], own[1]
	w.exec("ALTER ROLE "+w.app+" SET search_path TO \"$user\", public, \"Odd, name\"", "ALTER ROLE "+w.app+" SET app.tenant_id TO 'it''s \\ one'",
		"ALTER ROLE "+w.app+" CONNECTION LIMIT 17")
	old, err := w.session(w.first)
	w.ok(err)
	defer old.Close(context.Background()) //nolint:errcheck // of a test

	c := w.next(w.first)
	if want := a + ":"; !strings.Contains(c.To.Value.Reveal(), "//"+want) || !strings.HasSuffix(c.To.Value.Reveal(), "?sslmode=disable&pgbouncer=true&schema=public") {
		t.Fatal("the new version is not the same URL with the first login role")
	}
	for range 2 { // each call may be repeated
		w.ok(w.kind.Stage(ctx, c))
		w.ok(w.kind.Verify(ctx, c))
	}
	conn, err := w.session(c.To)
	w.ok(err)
	var acts, path, tenant string
	w.ok(conn.QueryRow(ctx, "SELECT current_user::text, current_setting('search_path'), current_setting('app.tenant_id')").Scan(&acts, &path, &tenant))
	if acts != w.app || path != `"$user", public, "Odd, name"` || tenant != `it's \ one` {
		t.Errorf("a session acts as %s with search_path %s and tenant %s", acts, path, tenant)
	}
	if _, err := conn.Exec(ctx, "CREATE TABLE made (id int); ALTER TABLE things ADD COLUMN x int"); err != nil {
		t.Errorf("the owner's tables: %v", err)
	}
	var tableOwner string
	var limit int
	w.ok(conn.QueryRow(ctx, "SELECT tableowner::text, (SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user) FROM pg_tables WHERE tablename = 'made'").Scan(&tableOwner, &limit))
	if tableOwner != w.app || limit != 17 {
		t.Errorf("a new table is %s's, the connection limit is %d", tableOwner, limit)
	}
	n, what, err := w.kind.InUse(ctx, c)
	if err != nil || n != 1 || !strings.Contains(what, "role "+w.app) {
		t.Errorf("in use: %d, %s, %v", n, what, err)
	}
	w.ok(old.Close(ctx))
	w.unused(c)
	for range 2 {
		w.ok(w.kind.Retire(ctx, c))
	}
	if got := w.logins(); got != a {
		t.Errorf("%s can log in, want %s", got, a)
	}
	if _, err := w.session(w.first); err == nil {
		t.Error("the adopted role still logs in")
	}
	w.ok(conn.Close(ctx))

	second := w.next(c.To)
	w.ok(w.kind.Stage(ctx, second))
	w.ok(w.kind.Verify(ctx, second))
	w.unused(second)
	w.ok(w.kind.Retire(ctx, second))
	third := w.next(second.To)
	w.ok(w.kind.Stage(ctx, third))
	if got := w.logins(); got != b+" "+own[2] {
		t.Errorf("%s can log in", got)
	}
	w.ok(w.kind.Verify(ctx, third))
	w.ok(w.kind.Retire(ctx, third))
	last := third.To
	for _, want := range []string{own[3], a, b} {
		last = w.rotate(w.next(last))
		if got := w.logins(); got != want {
			t.Errorf("%s can log in, want %s", got, want)
		}
	}
}

// back is the change turned over, as the engine makes it when it goes back.
func (w *world) back(c kind.Change) kind.Change {
	c.From, c.To = c.To, c.From
	return c
}

// unused waits for the server to notice that a session has ended.
func (w *world) unused(c kind.Change) {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		n, what, err := w.kind.InUse(w.t.Context(), c)
		w.ok(err)
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("still in use: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestUnstageLeavesNothing(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	w.ok(w.kind.Unstage(ctx, c)) // it was never staged
	w.ok(w.kind.Stage(ctx, c))
	for range 2 {
		w.ok(w.kind.Unstage(ctx, c))
	}
	var roles int
	w.ok(w.dial(w.admin).QueryRow(ctx, "SELECT count(*) FROM pg_roles WHERE rolname = $1", roleNames.Of(w.key)[0]).Scan(&roles))
	if roles != 0 || w.logins() != w.app {
		t.Errorf("%d roles are left, and %s can log in", roles, w.logins())
	}
	// One that something depends on stays, locked.
	w.ok(w.kind.Stage(ctx, c))
	w.exec("GRANT SELECT ON things TO " + quote(roleNames.Of(w.key)[0]))
	w.ok(w.kind.Unstage(ctx, c))
	if got := w.logins(); got != w.app {
		t.Errorf("%s can log in", got)
	}
	w.ok(w.kind.Stage(ctx, c))
	w.ok(w.kind.Verify(ctx, c))
}

func TestCutEndsSessions(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	w.ok(w.kind.Stage(ctx, c))
	conn, err := w.session(w.first)
	w.ok(err)
	c.Cut = true
	w.ok(w.kind.Retire(ctx, c))
	if err := conn.Ping(ctx); err == nil {
		t.Error("the old session lives")
	}
}

func TestOddNames(t *testing.T) {
	ctx := t.Context()
	for _, name := range []string{`O'Brien "the" owner`, "Ünï cödé", `back\slash`, "UPPER", "semi;colon--"} {
		w := newWorld(t, name, kind.Options{"username": name + "!"})
		c := w.next(w.first)
		w.ok(w.kind.Stage(ctx, c))
		w.ok(w.kind.Verify(ctx, c))
		conn, err := w.session(c.To)
		w.ok(err)
		var acts, is string
		w.ok(conn.QueryRow(ctx, "SELECT current_user::text, session_user::text").Scan(&acts, &is))
		if acts != name || is != name+"!_a" {
			t.Errorf("%q acts as %q", is, acts)
		}
		w.ok(conn.Close(ctx))
		w.ok(w.kind.Retire(ctx, c))
		w.exec("DROP OWNED BY "+quote(name), "DROP ROLE "+quote(name+"!_a"), "DROP ROLE "+quote(name))
	}
}

// Neither passwords nor what would stand for them to a client ever reach the server's log.
func TestPasswordsDoNotReachTheServer(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	w.ok(w.kind.Stage(ctx, c))
	w.ok(w.kind.Verify(ctx, c))
	w.ok(w.kind.Retire(ctx, c))
	w.connection.Next = key.NewValue("the-next-root-password")
	log, err := os.ReadFile(w.postgres.LogPath)
	w.ok(err)
	u, err := urls.Credential(c.To)
	w.ok(err)
	if !strings.Contains(string(log), "SCRAM-SHA-256$4096") {
		t.Error("the log does not show statements: this test proves nothing")
	}
	if strings.Contains(string(log), u.Password.Reveal()) {
		t.Error("the server's log holds the password")
	}
}

func TestVerifierIsWhatTheServerWouldMake(t *testing.T) {
	w := newWorld(t, "", nil)
	v, err := verifier(rand.Reader, key.NewValue("pencil"))
	w.ok(err)
	w.exec("ALTER ROLE " + w.app + " PASSWORD '" + v + "'")
	u, err := urls.Credential(w.first)
	w.ok(err)
	if _, err := pgx.Connect(t.Context(), u.With(w.app, key.NewValue("pencil")).Text().Reveal()[:strings.Index(u.With(w.app, key.NewValue("pencil")).Text().Reveal(), "&pgbouncer")]); err != nil {
		t.Error(err)
	}
}

func TestWhatTheOperatorHasToMend(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	password := w.connection.Secrets["password"].Reveal()
	weak := fmt.Sprintf("weak%d", worlds)
	weakPassword, err := w.postgres.NewRole(ctx, weak)
	w.ok(err)
	revision := w.connection.Revision
	as := func(user, password string, options kind.Options) kind.Connection {
		other := w.connection
		revision++
		other.Revision = revision
		u, err := dsn.Parse(w.admin, urls.Schemes...)
		w.ok(err)
		other.Options = kind.Options{login.FieldURL: u.With(user, key.NewValue(password)).Text().Reveal()}
		for name, value := range options {
			other.Options[name] = value
		}
		other, err = w.kind.NormalizeConnection(other)
		w.ok(err)
		return other
	}
	check := func(c kind.Connection) error {
		_, err := w.kind.CheckConnection(ctx, c)
		return err
	}
	stage := func(change func(*kind.Change)) error {
		other := c
		change(&other)
		return w.kind.Stage(ctx, other)
	}
	verify := func(change func(*kind.Change)) error {
		other := c
		change(&other)
		return w.kind.Verify(ctx, other)
	}
	_, short := w.kind.CheckConnection(ctx, as("postgres", "wrong-secret", nil))
	for want, err := range map[string]error{
		"password authentication failed":  short,
		"lacks CREATEROLE":                check(as(weak, weakPassword, nil)),
		"replicas: the replica 127.0.0.1": check(as("postgres", password, kind.Options{fieldReplicas: "127.0.0.1:1"})),
		"may not do this":                 stage(func(c *kind.Change) { c.Connection = as(weak, weakPassword, nil) }),
		"an administrator of its own": stage(func(c *kind.Change) {
			c.From.Value = key.NewValue(w.admin)
		}),
		`owner role "nobody" does not exist`: stage(func(c *kind.Change) {
			c.Key.Options = kind.Options{"owner": "nobody"}
		}),
		"which is in use":                    stage(func(c *kind.Change) { c.From = c.To }),
		"has the role not arrived there yet": verify(func(*kind.Change) {}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "wrong-secret") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	w.ok(check(w.connection))
	if got := w.logins(); got != w.app {
		t.Errorf("refused calls left %s", got)
	}
}

func TestErrorsAreOurs(t *testing.T) {
	w := newWorld(t, "", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.kind.Stage(ctx, w.next(w.first)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
