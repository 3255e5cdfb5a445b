// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// restored are keys by how often they were rotated before the backup, with what is wrong after the restore: the role of the
// version that came after the backup is not in it, or is there and locked, since it had its first turn before. Where the
// dump is run at a server in use, the roles are still there that it does not have; roles are dropped and made again on which
// nothing depends.
var restored = map[string]struct {
	rotations       int
	wrong, wrongOld string // at a new server, and at one in use
}{
	"imported": {0, "has no role", ""},
	"young":    {1, "has no role", "not as its owner"},
	"turned":   {4, "is locked", "is locked"},
}

// TestPostgresRestoredFromDump restores PostgreSQL, on a new server, from a dump that is one rotation old.
func TestPostgresRestoredFromDump(t *testing.T) {
	w := startRestored(t, bed.PostgresOptions{})
	dump, err := w.postgres.Dump(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.rotateAll(t)
	w.definePostgres(t, "later", "later_app")
	later := w.value(t, "later")
	if err := w.postgres.Empty(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.replay(t, dump)
	w.mends(t)
	w.madeByHand(t, later)
}

// TestPostgresDumpOverSessions runs such a dump at the server itself, with --clean, while sessions are open. The database
// stays, since it is in use; roles are dropped and made again. Open sessions go on.
func TestPostgresDumpOverSessions(t *testing.T) {
	w := startRestored(t, bed.PostgresOptions{})
	dump, err := w.postgres.Dump(t.Context(), "--clean", "--if-exists")
	if err != nil {
		t.Fatal(err)
	}
	w.rotateAll(t)
	open := map[string]*pgx.Conn{}
	for name, url := range w.newest {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background()) //nolint:errcheck // of a test
		open[name] = conn
	}
	w.replay(t, dump)
	wrong := map[string]string{}
	for name, of := range restored {
		wrong[name] = of.wrongOld
	}
	w.reconciles(t, wrong)
	for name, conn := range open {
		var count int
		err := conn.QueryRow(t.Context(), "SELECT count(*) FROM things").Scan(&count)
		if err != nil && name != "young" { // whose owner was dropped
			t.Errorf("an open session of %s: %v", name, err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	w.goesOn(t)
}

// TestPostgres18RestoredFromCopy puts a copy of the data back that is one rotation old.
func TestPostgres18RestoredFromCopy(t *testing.T) {
	w := startRestored(t, bed.PostgresOptions{Major: 18})
	restore, err := w.postgres.Copy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.rotateAll(t)
	if err := restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.mends(t)
}

// restoredWorld is a Vault and a PostgreSQL of which a backup is about to be made.
type restoredWorld struct {
	*snapshotsWorld
	old, newest map[string]string // URLs by key: those at the time of the backup, and those of now
}

func startRestored(t *testing.T, o bed.PostgresOptions) *restoredWorld {
	t.Helper()
	w := &restoredWorld{snapshotsWorld: startSnapshotsOn(t, o)}
	w.write(t, "hyvve/config", map[string]any{"observe": "0s", "look_every": "0s"}) // nothing is restored without being asked for
	for name := range restored {
		w.definePostgres(t, name, name+"_app")
	}
	for n := range 4 {
		var names []string
		for name, of := range restored {
			if n < of.rotations {
				names = append(names, name)
			}
		}
		w.rotate(t, names...)
	}
	w.run(t, "CREATE TABLE things (id int)", "ALTER TABLE things OWNER TO imported_app", "GRANT SELECT ON things TO turned_app",
		"CREATE ROLE readers", "GRANT SELECT ON things TO readers", "GRANT readers TO young_app")
	w.old = w.values(t)
	return w
}

// values reads what Vault hands out of all keys.
func (w *restoredWorld) values(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for name := range restored {
		all[name] = w.value(t, name)
	}
	return all
}

// rotateAll rotates all keys once.
func (w *restoredWorld) rotateAll(t *testing.T) {
	t.Helper()
	w.rotate(t, slices.Sorted(maps.Keys(restored))...)
	w.newest = w.values(t)
}

func (w *restoredWorld) run(t *testing.T, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.postgres.AdminURL("hyvve"))
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

// replay restores a dump.
func (w *restoredWorld) replay(t *testing.T, dump string) {
	t.Helper()
	said, err := w.postgres.Restore(t.Context(), dump)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("psql: %s", said)
}

// roles are all roles with what they may do.
func (w *restoredWorld) roles(t *testing.T) (text string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.postgres.AdminURL("hyvve"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // of a test
	err = conn.QueryRow(t.Context(), `SELECT string_agg(concat_ws(' ', rolname, rolcanlogin, rolpassword, shobj_description(oid, 'pg_authid')), E'\n' ORDER BY rolname) FROM pg_authid`).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// mends reconciles all keys after a restore, and rotates them again.
func (w *restoredWorld) mends(t *testing.T) {
	t.Helper()
	wrong := map[string]string{}
	for name, of := range restored {
		wrong[name] = of.wrong
	}
	w.reconciles(t, wrong)
	w.goesOn(t)
}

// reconciles wants plan and status to say what is wrong, and reconcile to let everybody log in: with the current versions, and
// with those of the backup, with which the restored server lets clients in.
func (w *restoredWorld) reconciles(t *testing.T, wrong map[string]string) {
	t.Helper()
	w.works(t, "a version of the backup after the restore", w.old)
	for _, name := range slices.Sorted(maps.Keys(restored)) {
		if got := fmt.Sprint(w.plan(t, name)["blockers"]); !strings.Contains(got, wrong[name]) || wrong[name] == "" && got != "[]" {
			t.Errorf("the plan of %s has blockers %q, want %q", name, got, wrong[name])
		}
		if got := w.status(t, name); !strings.Contains(got, wrong[name]) || strings.Contains(got, "PROBLEM") != (wrong[name] != "") {
			t.Errorf("status of %s is %q, want %q", name, got, wrong[name])
		}
		before := w.roles(t)
		would := w.reconcile(t, name, true)
		if w.roles(t) != before || (len(would["would_do"].([]any)) > 0) != (wrong[name] != "") {
			t.Errorf("%s: a dry run would do %v, and roles are\n%s\nbefore\n%s", name, would["would_do"], w.roles(t), before)
		}
		did := w.reconcile(t, name, false)
		if fmt.Sprint(did["done"]) != fmt.Sprint(would["would_do"]) || len(did["problems"].([]any)) > 0 {
			t.Errorf("%s: reconcile did %v, and would do %v; problems: %v", name, did["done"], would["would_do"], did["problems"])
		}
		if again := w.reconcile(t, name, false); len(again["done"].([]any)) > 0 {
			t.Errorf("%s: reconcile did %v once more", name, again["done"])
		}
		if got := w.status(t, name); strings.Contains(got, "PROBLEM") || !strings.Contains(got, "NOTE: ") || !strings.Contains(got, "is retired") {
			t.Errorf("status of %s after reconcile is %q", name, got)
		}
	}
	w.works(t, "a version of the backup after reconcile", w.old)
	w.works(t, "a current version after reconcile", w.newest)
}

// madeByHand has a key whose role an operator made after the dump: reconcile says what to do by hand, and that helps.
func (w *restoredWorld) madeByHand(t *testing.T, url string) {
	t.Helper()
	blockers := fmt.Sprint(w.plan(t, "later")["blockers"])
	_, err := w.vault.Client.Logical().WriteWithContext(t.Context(), "hyvve/keys/later/reconcile", nil)
	for _, text := range []string{blockers, fmt.Sprint(err)} {
		if !strings.Contains(text, "has no role later_app") || !strings.Contains(text, `CREATE ROLE later_app LOGIN; then \password later_app in psql`) {
			t.Errorf("reconcile of a role that an operator made says %q", text)
		}
	}
	u, err := dsn.Parse(url, "postgresql")
	if err != nil {
		t.Fatal(err)
	}
	w.run(t, "CREATE ROLE later_app LOGIN PASSWORD '"+u.Password.Reveal()+"'")
	w.rotate(t, "later")
	w.logsIn(t, "later", w.value(t, "later"))
}

// goesOn rotates all keys once more. Who was let in by the restored server is let in still.
func (w *restoredWorld) goesOn(t *testing.T) {
	t.Helper()
	for name := range restored {
		if got := fmt.Sprint(w.plan(t, name)["blockers"]); got != "[]" {
			t.Errorf("after reconcile the plan of %s has blockers %s", name, got)
		}
	}
	w.rotateAll(t)
	w.works(t, "a version of the backup after the next rotation", w.old)
	w.works(t, "a current version after the next rotation", w.newest)
}

// works wants URLs to log in, and their sessions to have the rights of the application's role.
func (w *restoredWorld) works(t *testing.T, what string, urls map[string]string) {
	t.Helper()
	for name, url := range urls {
		if err := readsThings(t.Context(), url, name+"_app"); err != nil {
			t.Errorf("%s: %s: %v", what, name, err)
		}
	}
}

func readsThings(ctx context.Context, url, want string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // of a test
	var acts string
	if err := conn.QueryRow(ctx, "SELECT current_user, (SELECT count(*) FROM things)").Scan(&acts, nil); err != nil {
		return err
	}
	if acts != want {
		return fmt.Errorf("the session acts as %s", acts)
	}
	return nil
}

func (w *restoredWorld) plan(t *testing.T, name string) map[string]any {
	t.Helper()
	return w.asks(t, "hyvve/rotate", map[string]any{"key": name, "dry_run": true, "detailed": true})
}

func (w *restoredWorld) reconcile(t *testing.T, name string, dryRun bool) map[string]any {
	t.Helper()
	return w.asks(t, "hyvve/keys/"+name+"/reconcile", map[string]any{"dry_run": dryRun, "detailed": true})
}

func (w *restoredWorld) asks(t *testing.T, path string, data map[string]any) map[string]any {
	t.Helper()
	answer, err := w.vault.Client.Logical().WriteWithContext(t.Context(), path, data)
	if err != nil {
		t.Fatal(err)
	}
	return answer.Data
}

// status is the line of a key.
func (w *restoredWorld) status(t *testing.T, name string) string {
	t.Helper()
	answer, err := w.vault.Client.Logical().ReadWithContext(t.Context(), "hyvve/status")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(answer.Data[name])
}
