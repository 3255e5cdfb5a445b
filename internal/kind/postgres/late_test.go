// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// read returns a log.
func (w *world) read(path string) string {
	w.t.Helper()
	data, err := os.ReadFile(path)
	w.ok(err)
	return string(data)
}

// A client that still has a retired version stands in the server's log, in the words that docs/postgres.md gives, and nowhere
// else: were there a statistic of it, status could warn.
func TestLateClientsStandInTheLogOnly(t *testing.T) {
	w := newWorld(t, "", nil)
	password, err := w.postgres.NewRole(t.Context(), w.app+"_monitor")
	w.ok(err)
	w.exec("GRANT pg_monitor TO " + quote(w.app+"_monitor"))
	monitor, err := pgx.Connect(t.Context(), w.postgres.URL("postgres", w.app+"_monitor", password))
	w.ok(err)
	t.Cleanup(func() { _ = monitor.Close(t.Context()) })
	w.rotate(w.next(w.first))

	counted := func() (text string) {
		w.ok(monitor.QueryRow(t.Context(), `SELECT string_agg(format('%s %s %s %s', datid, sessions_fatal, sessions_abandoned, sessions_killed), ', ' ORDER BY datid) FROM pg_stat_database`).Scan(&text))
		return text
	}
	before := counted()
	for range 3 {
		if _, err := w.session(w.first); err == nil {
			t.Fatal("a retired version logs in")
		}
	}
	for _, line := range []string{"FATAL:  password authentication failed for user \"" + w.app + "\"", "DETAIL:  User \"" + w.app + "\" has no password assigned."} {
		if n := strings.Count(w.read(w.postgres.LogPath), line); n != 3 {
			t.Errorf("the log has %d times: %s", n, line)
		}
	}
	if after := counted(); after != before {
		t.Errorf("statistics count refused logins: before %s, after %s; let status warn of them", before, after)
	}

	var locked string
	w.ok(monitor.QueryRow(t.Context(), "SELECT rolname FROM pg_roles WHERE NOT rolcanlogin AND shobj_description(oid, 'pg_authid') LIKE 'hyvve % key="+w.key.Name+" %'").Scan(&locked))
	if locked != w.app {
		t.Errorf("the locked role is said to be %s", locked)
	}
	half := w.halfLoggedIn()
	t.Cleanup(func() { _ = half.Close() })
	var seen int
	w.ok(monitor.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", w.app).Scan(&seen))
	if seen != 0 {
		t.Error("pg_stat_activity tells who is about to log in; let status warn of it")
	}
}

// halfLoggedIn is a client that has said who it is, and not proved it yet.
func (w *world) halfLoggedIn() net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.postgres.Port))
	w.ok(err)
	hello := &pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersionNumber, Parameters: map[string]string{"user": w.app, "database": "postgres"}}
	text, err := hello.Encode(nil)
	w.ok(err)
	_, err = conn.Write(text)
	w.ok(err)
	asked := make([]byte, 64)
	if n, err := conn.Read(asked); err != nil || !bytes.Contains(asked[:n], []byte("SCRAM-SHA-256")) {
		w.t.Fatalf("the server does not ask for a password: %q, %v", asked[:n], err)
	}
	return conn
}

// Behind a PgBouncer that asks the server for verifiers it is the pooler's log.
func TestLateClientsOfPgBouncer(t *testing.T) {
	w := newWorld(t, "", nil)
	bouncer, c := w.withBouncer(t, bed.PgBouncerOptions{})
	w.rotate(c)
	if _, err := w.session(w.first); err == nil {
		t.Fatal("a retired version logs in")
	}
	if log := w.read(bouncer.LogPath); !strings.Contains(log, "@127.0.0.1:") || !strings.Contains(log, "login failed: db=") {
		t.Errorf("PgBouncer's log does not tell of the login:\n%s", log)
	}
}
