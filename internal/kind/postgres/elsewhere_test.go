// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"maps"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// The URL leads to another server, where the same role has the same password, such as before a move. The import is refused,
// and so is, before its first change, the rotation of a key that was imported by an earlier release.
func TestURLOfAnotherServer(t *testing.T) {
	ctx := t.Context()
	other, err := bed.ForTest(t).Postgres(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "", nil)
	u, err := urls.Credential(w.first)
	w.ok(err)
	_, err = other.NewDatabase(ctx, u.Path())
	w.ok(err)
	_, err = other.NewRole(ctx, w.app)
	w.ok(err)
	conn := w.dial(other.AdminURL(u.Path()))
	_, err = conn.Exec(ctx, "ALTER ROLE "+w.app+" PASSWORD "+literal(u.Password.Reveal()))
	w.ok(err)
	value, err := dsn.Parse(other.URL(u.Path(), w.app, u.Password.Reveal()), urls.Schemes...)
	w.ok(err)
	w.first.Value = value.Text()
	next := w.next(w.first)
	blockers, _ := w.preflight(next)
	imported := w.kind.Verify(ctx, kind.Change{Key: w.key, To: w.first, Connection: w.connection})
	if imported == nil {
		t.Fatal("a URL of another server is imported")
	}
	for what, text := range map[string]string{"import": imported.Error(), "plan": blockers} {
		if !strings.Contains(text, "DATABASE_URL at "+value.Host()+" is another server than that of connection main, "+home(w.connection).host) {
			t.Errorf("%s: %s", what, text)
		}
	}

	// By another name, or through a pooler, it is the same server.
	_, c := w.withBouncer(t, bed.PgBouncerOptions{Mode: "transaction"})
	if blockers, _ := w.preflight(c); blockers != "" {
		t.Errorf("through a pooler: %s", blockers)
	}

	// Where the password is another one there, the likely reasons are asked for.
	w.ok(conn.Ping(ctx))
	_, err = conn.Exec(ctx, "ALTER ROLE "+w.app+" PASSWORD 'another'")
	w.ok(err)
	if blockers, _ := w.preflight(next); !strings.Contains(blockers, "or is it another server than that of connection main?") {
		t.Errorf("plan: %s", blockers)
	}
}

// A plan tries what the first step would fail at: further URLs, and the verify_query, whose message names the key and the way
// out.
func TestPlanTriesTheURLs(t *testing.T) {
	w := newWorld(t, "", nil)
	current := w.rotate(w.next(w.first))
	u, err := urls.Credential(current)
	w.ok(err)
	way := "verify_query of key " + w.key.Name + ", run as " + w.app + ": SQLSTATE "
	for _, of := range []struct {
		options kind.Options
		want    string
	}{
		{kind.Options{}, ""},
		{kind.Options{login.OptionURLs: "DIRECT_URL=postgresql://" + u.Host() + "/" + u.Path() + "?sslmode=disable"}, ""},
		{kind.Options{login.OptionURLs: "DIRECT_URL=postgresql://" + u.Host() + "/nodb?sslmode=disable"}, `DIRECT_URL at ` + u.Host() + ` says: database "nodb" does not exist`},
		{kind.Options{login.OptionURLs: "DIRECT_URL=postgresql://127.0.0.1:1/" + u.Path()}, "DIRECT_URL at 127.0.0.1:1 cannot be reached"},
		{kind.Options{optionQuery: "SELEC 1"}, way + "42601: it is not one query: SELECT, VALUES, TABLE or WITH, and nothing after it; change it with: vault write hyvve/keys/" + w.key.Name + " verify_query='SELECT 1'"},
		{kind.Options{optionQuery: "WITH x AS (INSERT INTO public.things VALUES (1) RETURNING 1) SELECT 1"}, way + "0A000: it would change something"},
		{kind.Options{optionQuery: "SELECT 1 FROM public.things"}, ""},
	} {
		c := w.next(current)
		c.Key.Options = maps.Clone(c.Key.Options)
		maps.Copy(c.Key.Options, of.options)
		blockers, _ := w.preflight(c)
		if of.want == "" && blockers != "" || !strings.Contains(blockers, of.want) {
			t.Errorf("%v: blockers %q, want %q", of.options, blockers, of.want)
		}
	}
	// A present version that does not log in proves nothing of the next one.
	w.exec("ALTER ROLE " + roleNames.Of(w.key)[0] + " PASSWORD 'by-hand'")
	if blockers, _ := w.preflight(w.next(current)); blockers != "" {
		t.Errorf("blockers: %s", blockers)
	}
}

// A value with a wrong password is refused by the likely cause.
func TestImportWithAWrongPassword(t *testing.T) {
	w := newWorld(t, "", nil)
	u, err := urls.Credential(w.first)
	w.ok(err)
	err = w.kind.Verify(t.Context(), kind.Change{Key: w.key, To: key.Version{Number: 1, Value: u.With(u.User, key.NewValue("wrong")).Text()}, Connection: w.connection})
	if err == nil || !strings.Contains(err.Error(), "is the password in the value another one than the server's") || strings.Contains(err.Error(), "arrived") {
		t.Errorf("%v", err)
	}
}
