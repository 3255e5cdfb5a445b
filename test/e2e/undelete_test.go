// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Rows of a backup come back after the master key was rotated twice. Its version of then is undeleted; applications and the
// next rotation read them, and none is lost.
func TestRowsOfABackup(t *testing.T) {
	w := start(t, small(true))
	const name = "encryption-master-key"
	conn, err := pgx.Connect(t.Context(), w.Postgres.AdminURL("hyvve"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // of a test
	backup := map[int]string{}
	for n, row := range w.Rows {
		var text string
		if err := conn.QueryRow(t.Context(), fmt.Sprintf("SELECT %s FROM %s WHERE id = $1", row.Column, row.Table), row.ID).Scan(&text); err != nil {
			t.Fatal(err)
		}
		backup[n] = text
	}
	w.follow(w.rotate(name), "done")
	w.follow(w.rotate(name), "done")
	w.load.Stop() // as for a restore
	restored := 0
	for n, row := range w.Rows {
		if row.Table != "ai_provider_configs" && row.Table != "integration_connections" {
			continue
		}
		if _, err := conn.Exec(t.Context(), fmt.Sprintf("UPDATE %s SET %s = $1 WHERE id = $2", row.Table, row.Column), backup[n], row.ID); err != nil {
			t.Fatal(err)
		}
		restored++
	}
	lost := func() (unreadable int) {
		columns, err := w.VerifyRows(t.Context(), w.newest())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range columns {
			unreadable += c.Old + c.Unreadable
		}
		return unreadable
	}
	if n := lost(); n != restored || restored == 0 {
		t.Fatalf("%d of %d restored rows are under an earlier version: this shows nothing", n, restored)
	}
	w.write("hyvve/keys/"+name+"/undelete", map[string]any{"version": 1, "reason": "restored from a backup"})
	w.follow(w.rotate(name), "done")
	if n := lost(); n != 0 {
		t.Errorf("%d rows do not open under the new version", n)
	}
	if states := w.versions(name); states[1] != "retained" || states[3] != "retained" || states[4] != "current" {
		t.Errorf("versions are %v", states)
	}
}

// versions are the states of a key's versions, by number.
func (w *world) versions(name string) map[int]string {
	w.t.Helper()
	secret, err := w.Server.Client.Logical().ReadWithDataWithContext(w.t.Context(), "hyvve/keys/"+name, url.Values{"detailed": {"true"}})
	if err != nil {
		w.t.Fatal(err)
	}
	states := map[int]string{}
	versions, _ := secret.Data["versions"].([]any)
	for _, v := range versions {
		version, _ := v.(map[string]any)
		number := 0
		_, _ = fmt.Sscan(fmt.Sprint(version["version"]), &number)
		states[number] = fmt.Sprint(version["state"])
	}
	return states
}

// Somebody has the URL of before a rotation, and was seen by nobody. He is let in within seconds, and locked out again when
// the undeletion ends, or the key is compromised; nobody else notices.
func TestLockedOutAfterAll(t *testing.T) {
	w := start(t, small(true))
	old, _, _ := strings.Cut(w.Initial["DATABASE_URL"].Reveal(), "?") // what follows is for the application's library
	enters := func() bool {
		conn, err := pgx.Connect(t.Context(), old)
		if err != nil {
			return false
		}
		return conn.Close(t.Context()) == nil
	}
	if !enters() {
		t.Fatal("the URL in use lets nobody in: this shows nothing")
	}
	w.follow(w.rotate("database-url", "redis-url"), "done")
	if enters() {
		t.Fatal("the retired login is valid")
	}
	begun := time.Now()
	w.write("hyvve/keys/database-url/undelete", map[string]any{"version": 1, "for": "1h"})
	w.write("hyvve/keys/redis-url/undelete", map[string]any{"version": 1, "for": "1h"})
	took := time.Since(begun)
	if !enters() || took > 10*time.Second {
		t.Errorf("the undeleted login is valid: %v, after %s", enters(), took)
	}
	t.Logf("two logins were undeleted in %s", took.Round(time.Millisecond))
	w.follow(w.rotate("database-url"), "done") // beside it
	if !enters() {
		t.Error("a rotation ends an undeleted login")
	}
	for _, name := range []string{"database-url", "redis-url"} {
		w.write("hyvve/keys/"+name+"/retire", map[string]any{"version": 1})
		if state := w.versions(name)[1]; state != "retained" {
			t.Errorf("version 1 of %s is %s", name, state)
		}
	}
	if enters() {
		t.Error("the login is valid after its end")
	}
	w.write("hyvve/keys/database-url/undelete", map[string]any{"version": 1, "for": "1h"})
	w.write("hyvve/keys/redis-url/undelete", map[string]any{"version": 1, "for": "1h"})
	if !enters() {
		t.Error("the login that is undeleted once more is not valid")
	}
	w.follow(idOf(w.ask(map[string]any{"keys": "database-url,redis-url", "compromised": true})), "done")
	for _, name := range []string{"database-url", "redis-url"} {
		if state := w.versions(name)[1]; state != "destroyed" {
			t.Errorf("version 1 of %s is %s after a compromised rotation", name, state)
		}
	}
	if enters() {
		t.Error("an undeleted login is valid after a compromised rotation")
	}
	w.conclude()
}
