// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"crypto/rand"
	"fmt"
	"maps"
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

// The connection's administrator is one of the roles that a rotation would lock, or give another password. The rotation does
// neither, no matter where the new version comes from.
func TestAdministratorIsOneOfTheRoles(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	u, err := dsn.Parse(w.admin, urls.Schemes...)
	w.ok(err)
	role := func(name string) key.Version {
		t.Helper()
		password, err := w.postgres.NewRole(ctx, name)
		w.ok(err)
		return key.Version{Number: 1, Value: u.With(name, key.NewValue(password)).Text()}
	}
	root := role(fmt.Sprintf("root%d", worlds))
	own := role(roleNames.Of(w.key)[0])
	brought := role(fmt.Sprintf("brought%d", worlds))
	brought.Number = 2
	for _, tt := range []struct {
		name     string
		admin    key.Version
		from, to key.Version
		words    string
	}{
		{"one of the pair", own, w.first, w.next(w.first).To, "one of the login roles of this key"},
		{"the old role, and a value of an operator's", root, root, brought, "the role that this rotation locks at its end"},
		{"the old role", root, root, w.next(root).To, "the role that this rotation locks at its end"},
	} {
		admin, err := urls.Credential(tt.admin)
		w.ok(err)
		w.exec("ALTER ROLE " + quote(admin.User) + " SUPERUSER")
		c := kind.Change{Key: w.key, From: tt.from, To: tt.to}
		w.connection.Revision++
		w.connection.Options[login.FieldURL] = tt.admin.Value.Reveal()
		c.Connection, err = w.kind.NormalizeConnection(w.connection)
		w.ok(err)
		for call, err := range map[string]error{"CheckChange": w.kind.CheckChange(c), "Stage": w.kind.Stage(ctx, c), "Retire": w.kind.Retire(ctx, c)} {
			if err == nil || !strings.Contains(err.Error(), tt.words) || !strings.Contains(err.Error(), "connection main logs in as "+admin.User) || strings.Contains(err.Error(), admin.Password.Reveal()) {
				t.Errorf("%s: %s: %v, want %q", tt.name, call, err, tt.words)
			}
		}
		w.ok(w.kind.Unstage(ctx, c))
		if _, err := w.session(tt.admin); err != nil {
			t.Errorf("%s: the administrator does not get in any more: %v", tt.name, err)
		}
	}
}

func TestRotateRoot(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	root := fmt.Sprintf("root%d", worlds)
	old, err := w.postgres.NewRole(ctx, root)
	w.ok(err)
	w.exec("ALTER ROLE " + root + " SUPERUSER")
	u, err := dsn.Parse(w.admin, urls.Schemes...)
	w.ok(err)
	c, err := w.kind.NormalizeConnection(kind.Connection{Name: "root", Options: kind.Options{login.FieldURL: u.With(root, key.NewValue(old)).Text().Reveal()}})
	w.ok(err)
	c.Next = key.NewValue("next-password-of-root")
	for range 2 { // the second time the engine did not hear of the first
		w.ok(w.kind.RotateRoot(ctx, c))
	}
	change := w.next(w.first)
	change.Connection = c
	w.ok(w.kind.Stage(ctx, change)) // with either of the two passwords
	if _, err := pgx.Connect(ctx, u.With(root, key.NewValue(old)).Text().Reveal()); err == nil {
		t.Error("the old password still logs in")
	}
	c.Secrets["password"], c.Next = c.Next, key.Value{}
	c.Revision++
	if _, err := w.kind.CheckConnection(ctx, c); err != nil {
		t.Error(err)
	}
	c.Secrets["password"], c.Next = key.NewValue("neither"), key.NewValue("nor")
	if err := w.kind.RotateRoot(ctx, c); err == nil || !refused(err) {
		t.Errorf("neither password in force: %v", err)
	}
}

// A password that is set outlasts a crash at the very next moment, also where commits are not waited for by default.
func TestRotateRootOutlastsACrash(t *testing.T) {
	server, err := bed.ForTest(t).PostgresWith(t.Context(), bed.PostgresOptions{Settings: map[string]string{"synchronous_commit": "off", "wal_writer_delay": "10s"}})
	if err != nil {
		t.Fatal(err)
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	old, err := server.NewRole(t.Context(), "root")
	ok(err)
	conn, err := pgx.Connect(t.Context(), server.AdminURL("postgres"))
	ok(err)
	_, err = conn.Exec(t.Context(), "ALTER ROLE root SUPERUSER; CHECKPOINT")
	ok(err)
	ok(conn.Close(t.Context()))
	k := New(rand.Reader)
	defer k.Close() //nolint:errcheck // of a test
	c, err := k.NormalizeConnection(kind.Connection{Name: "root", Options: kind.Options{login.FieldURL: server.URL("postgres", "root", old)}})
	ok(err)
	c.Next = key.NewValue("next-password-of-root")
	ok(k.RotateRoot(t.Context(), c))
	server.Kill()
	ok(server.Start(t.Context()))
	c.Secrets[kind.FieldPassword], c.Next = c.Next, key.Value{}
	c.Revision++
	if _, err := k.CheckConnection(t.Context(), c); err != nil {
		t.Errorf("the new password is lost: %v", err)
	}
}

// Nobody knows the administrator's password any more, as when the server was restored from before rotate-root. The refusal
// names the way back, in a check, in a rotation and in rotate-root, and it works as it is printed.
func TestAdministratorIsLockedOut(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	admin := w.app + "_root"
	w.administrator(admin)
	w.exec("ALTER ROLE "+admin+" SUPERUSER", "ALTER ROLE "+admin+" PASSWORD 'of-the-dump'")
	for _, c := range []kind.Connection{w.connection, {Name: "main", Kind: "postgres", Options: maps.Clone(w.connection.Options), Secrets: w.connection.Secrets, Written: time.Unix(1, 0)}} {
		if !c.Written.IsZero() {
			c.Options[fieldRows] = "true"
		}
		if _, err := w.kind.CheckConnection(ctx, c); err == nil || strings.Contains(err.Error(), "restored") || !strings.Contains(err.Error(), "give the password of role "+quoteIfNeeded(admin)) {
			t.Errorf("where nobody has ever logged in with the password: %v", err)
		}
	}
	w.connection.Written = time.Unix(1, 0)
	w.connection.Revision++
	c := w.next(w.first)
	_, check := w.kind.CheckConnection(ctx, w.connection)
	w.connection.Next = key.NewValue("next")
	for name, err := range map[string]error{"check": check, "stage": w.kind.Stage(ctx, c), "rotate-root": w.kind.RotateRoot(ctx, w.connection)} {
		if err == nil || !strings.Contains(err.Error(), "password authentication failed") || !strings.Contains(err.Error(), "restored from before rotate-root") ||
			!strings.HasSuffix(err.Error(), "vault write hyvve/connections/main password=-") {
			t.Fatalf("%s: %v", name, err)
		}
	}
	_, rest, _ := strings.Cut(check.Error(), "as a superuser: ")
	statement, _, _ := strings.Cut(rest, ";")
	w.exec(strings.ReplaceAll(statement, "…", "of-my-choice"))
	w.connection.Secrets[kind.FieldPassword], w.connection.Next = key.NewValue("of-my-choice"), key.Value{}
	w.connection.Revision++
	if _, err := w.kind.CheckConnection(ctx, w.connection); err != nil {
		t.Error(err)
	}

	w.exec("ALTER ROLE " + admin + " NOLOGIN")
	w.connection.Revision++
	_, err := w.kind.CheckConnection(ctx, w.connection)
	if err == nil || !strings.Contains(err.Error(), "ALTER ROLE") {
		t.Fatal(err)
	}
	_, rest, _ = strings.Cut(err.Error(), "as a superuser, ")
	statement, _, _ = strings.Cut(rest, ",")
	w.exec(statement)
	if _, err := w.kind.CheckConnection(ctx, w.connection); err != nil {
		t.Error(err)
	}
}
