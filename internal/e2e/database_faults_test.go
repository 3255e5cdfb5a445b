// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/demo"
)

// begin rotates database-url.
func (w *databaseWorld) begin(t *testing.T) client.Rotation {
	t.Helper()
	r, err := w.engine.Rotate(t.Context(), "scenario", "database-url")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// until looks at a rotation until it is as wanted.
func (w *databaseWorld) until(t *testing.T, id, what string, is func(client.Rotation) bool) client.Rotation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
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

func (w *databaseWorld) end(t *testing.T, id, want string) {
	t.Helper()
	r, err := demo.Follow(t.Context(), w.engine, id, func(r client.Rotation) { t.Logf("%s %s: %s", r.State, r.Step, demo.Short(r.NextGate)) })
	if err != nil || r.State != want {
		t.Fatalf("rotation ended as %s (%v), want %s", r.State, err, want)
	}
}

const logins = "SELECT coalesce(string_agg(rolname, ' ' ORDER BY rolname), '') FROM pg_roles WHERE rolcanlogin AND (rolname = 'hyvve_app' OR rolname LIKE 'database\\_url\\__')"

// The server is killed in the middle of each step, and comes back: the rotation waits, says why, and ends.
func TestDatabaseIsKilledInEachStep(t *testing.T) {
	w := startDatabaseWorld(t)
	for n, step := range []string{"stage", "switch", "unused", "retire"} {
		r := w.begin(t)
		if step != "stage" {
			w.until(t, r.ID, step, func(r client.Rotation) bool { return r.Step == step || r.Step == "retire" || r.State == "done" })
		}
		w.postgres.Kill()
		now, err := w.engine.Rotation(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("killed when it was %s %s", now.State, now.Step)
		select {
		case <-time.After(1500 * time.Millisecond): // for some tries to fail
		case <-t.Context().Done():
		}
		if now, err = w.engine.Rotation(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		t.Logf("meanwhile: %s", demo.Short(now.NextGate))
		if err := w.postgres.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.end(t, r.ID, "done")
		if got, want := w.ask(t, logins), "database_url_"+[]string{"a", "b"}[n%2]; got != want {
			t.Errorf("after a kill in %s %q can log in, want %s", step, got, want)
		}
	}
	w.stop()
}

// Somebody changes the administrator's password: the rotation waits with the reason, and goes on as soon as the connection
// is mended; or it is taken back, and leaves no stray role.
func TestAdministratorIsLockedOut(t *testing.T) {
	w := startDatabaseWorld(t)
	mend := func(password string) {
		if _, err := w.vault.Client.Logical().WriteWithContext(t.Context(), "hyvve/connections/main", map[string]any{"password": password}); err != nil {
			t.Fatal(err)
		}
	}
	lockOut := func(password string) {
		w.run(t, "ALTER ROLE hyvve_admin PASSWORD '"+password+"'", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hyvve_admin'")
	}
	lockOut("behind-our-back")
	r := w.begin(t)
	waits := func(r client.Rotation) bool { return strings.Contains(r.NextGate, "password authentication failed") }
	w.until(t, r.ID, "held by the password", waits)
	mend("behind-our-back")
	w.end(t, r.ID, "done")

	lockOut("once-more")
	r = w.begin(t)
	w.until(t, r.ID, "held by the password", waits)
	if _, err := w.engine.Revert(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	w.until(t, r.ID, "held on its way back", func(r client.Rotation) bool { return r.State == "reverting" && waits(r) })
	mend("once-more")
	w.end(t, r.ID, "reverted")
	if got := w.ask(t, logins); got != "database_url_a" {
		t.Errorf("%q can log in, want database_url_a", got)
	}
	if stray := w.ask(t, "SELECT coalesce(string_agg(rolname, ' '), '') FROM pg_roles WHERE rolname = 'database_url_b'"); stray != "" {
		t.Errorf("role %s is left", stray)
	}
	w.stop()
	if w.failed.Load() > 0 {
		t.Errorf("%d operations failed: %s", w.failed.Load(), w.last())
	}
}
