// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform"
)

func (w *serversWorld) end(t *testing.T, id, want string) {
	t.Helper()
	r, err := platform.Follow(t.Context(), w.engine, id, func(r api.Rotation) { t.Logf("%s %s: %s", r.State, r.Step, platform.Short(r.NextGate)) })
	if err != nil || r.State != want {
		t.Fatalf("rotation ended as %s (%v), want %s", r.State, err, want)
	}
}

// hold keeps a rotation from leaving a step, until release: somebody who has the locks of both login roles at PostgreSQL keeps
// it in stage, an instance that does not load what it is given in switch, a session of the old role in unused, and somebody's
// transaction on that role in retire.
func (w *serversWorld) hold(t *testing.T, step string) (release func()) {
	t.Helper()
	if step == "switch" {
		return w.dawdle(t)
	}
	w.mu.Lock()
	url := w.direct
	w.mu.Unlock()
	var statements []string
	switch step {
	case "stage":
		url = w.postgres.AdminURL("postgres") // the database of the connection, whose locks are its own
		for _, role := range []string{"database_url_a", "database_url_b", "database_url_c", "database_url_d"} {
			statements = append(statements, "SELECT pg_advisory_lock(hashtextextended('hyvve "+role+"', 0))")
		}
	case "retire":
		url, statements = w.admin, []string{"BEGIN", "ALTER ROLE " + w.roles(t) + " CONNECTION LIMIT -1"}
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	release = func() { _ = conn.Close(context.Background()) } // the server may be gone by then
	t.Cleanup(release)
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	return release
}

// dawdle is an instance that is well and loads nothing more, until it goes.
func (w *serversWorld) dawdle(t *testing.T) (leave func()) {
	t.Helper()
	const name = "app-dawdler"
	b, err := w.engine.Creds(t.Context(), "app", name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.engine.Report(t.Context(), client.Report{Workload: "app", Instance: name, Secret: b.Secret, Etag: b.Etag, Healthy: true}); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := w.engine.Leave(t.Context(), "app", name, b.Secret); err != nil {
			t.Fatal(err)
		}
	}
}

// The server is killed in the middle of each step, and comes back: the rotation waits, says why, and ends.
func TestDatabaseIsKilledInEachStep(t *testing.T) {
	w := startServers(t)
	for n, step := range []string{"stage", "switch", "unused", "retire"} {
		if step != "switch" { // which asks the server for nothing
			w.hold(t, step) // for as long as the server lives
		}
		r := w.begin(t, "database-url")
		w.until(t, r.ID, step, func(r api.Rotation) bool { return r.Step == step })
		w.postgres.Kill()
		now := w.until(t, r.ID, "held by the server", func(r api.Rotation) bool {
			return strings.Contains(r.NextGate, "cannot be reached") || step == "switch" && strings.Contains(r.NextGate, "not there yet")
		})
		t.Logf("killed in %s; meanwhile %s %s: %s", step, now.State, now.Step, platform.Short(now.NextGate))
		if err := w.postgres.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.end(t, r.ID, "done")
		want, _ := logins(n + 1)
		if got := w.roles(t); got != want {
			t.Errorf("after a kill in %s %q can log in, want %s", step, got, want)
		}
	}
	w.stop()
	w.noPasswordLeaks(t)
}

// Somebody changes the administrator's password: the rotation waits with the reason, and continues as soon as the connection
// is mended; or it is taken back, and leaves no stray role.
func TestAdministratorIsLockedOut(t *testing.T) {
	w := startServers(t)
	mend := func(password string) {
		if _, err := w.vault.Client.Logical().WriteWithContext(t.Context(), "hyvve/connections/main", map[string]any{"password": password}); err != nil {
			t.Fatal(err)
		}
	}
	lockOut := func(password string) {
		w.run(t, "ALTER ROLE hyvve_admin PASSWORD '"+password+"'", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hyvve_admin'")
	}
	lockOut("behind-our-back")
	r := w.begin(t, "database-url")
	waits := func(r api.Rotation) bool { return strings.Contains(r.NextGate, "password authentication failed") }
	w.until(t, r.ID, "held by the password", waits)
	mend("behind-our-back")
	w.end(t, r.ID, "done")

	lockOut("once-more")
	r = w.begin(t, "database-url")
	w.until(t, r.ID, "held by the password", waits)
	if _, err := w.engine.Revert(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	w.until(t, r.ID, "held on its way back", func(r api.Rotation) bool { return r.State == "reverting" && waits(r) })
	mend("once-more")
	w.end(t, r.ID, "reverted")
	if got := w.roles(t); got != "database_url_a" {
		t.Errorf("%q can log in, want database_url_a", got)
	}
	w.noStrays(t, "redis_url_b", "database_url_b")
	w.noFailures(t)
}
