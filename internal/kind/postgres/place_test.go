// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

func ping(ctx context.Context) func(*pgx.Conn) error {
	return func(conn *pgx.Conn) error { return conn.Ping(ctx) }
}

// withSockets starts a server that listens at a socket too.
func withSockets(t *testing.T) (p *bed.Postgres, directory string) {
	t.Helper()
	directory, err := os.MkdirTemp("", "hyvve-socket-") // its path may not be long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	if err := os.Chmod(directory, 0o777); err != nil {
		t.Fatal(err)
	}
	return ownServer(t, bed.PostgresOptions{
		HBA: []string{"local all all scram-sha-256"}, Settings: map[string]string{"unix_socket_directories": directory},
	}), directory
}

// A URL is tried where libpq goes with it.
func TestWhereURLsLead(t *testing.T) {
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Fatal("no psql: run scripts/setup (make test does)")
	}
	server, directory := withSockets(t)
	w := newWorld(t, "", nil)
	old, err := urls.Credential(w.first)
	w.ok(err)
	free, err := bed.FreePort()
	w.ok(err)
	words := strings.NewReplacer(
		"PORT", strconv.Itoa(server.Port), "DEAD", strconv.Itoa(free), "%SOCKET", url.PathEscape(directory), "SOCKET", directory, "DB", old.Path(), "APP", w.app, "SECRET", old.Password.Reveal(),
	)
	for form, want := range map[string]string{
		"127.0.0.1:PORT/DB":                                                     "works",
		"127.0.0.1:DEAD/DB":                                                     "fails",
		"127.0.0.1/DB?host=127.0.0.1&port=PORT":                                 "works",
		"127.0.0.1:PORT/DB?host=127.0.0.2&port=1":                               "is refused",
		"127.0.0.1:PORT/DB?host=127.0.0.2":                                      "fails",
		"127.0.0.2:PORT/DB?host=127.0.0.1":                                      "works",
		"/DB?host=SOCKET&port=PORT":                                             "works",
		"/DB?host=%SOCKET&port=PORT":                                            "works",
		"localhost:PORT/DB?host=SOCKET":                                         "works",
		"%SOCKET:PORT/DB":                                                       "works",
		"/DB?host=/nowhere&port=PORT":                                           "fails",
		"/DB?host=SOCKET&port=DEAD":                                             "fails",
		"127.0.0.1:DEAD,127.0.0.1:PORT/DB":                                      "works",
		"/DB?host=/nowhere,127.0.0.1&port=PORT":                                 "works",
		"127.0.0.1:PORT/DB?target_session_attrs=read-write":                     "works",
		"127.0.0.1:DEAD,127.0.0.1:PORT/DB?target_session_attrs=standby":         "fails",
		"localhost:PORT/DB?hostaddr=127.0.0.1":                                  "works",
		"no-such-host.invalid:PORT/DB?hostaddr=127.0.0.1":                       "works",
		"localhost:PORT/DB?hostaddr=127.0.0.2":                                  "fails",
		"/DB?hostaddr=127.0.0.1&port=PORT":                                      "works",
		"127.0.0.1:PORT/DB?options=-c%20statement_timeout%3D5s":                 "works",
		"127.0.0.1:PORT/DB?options=-c%20nonsense%3D1":                           "fails",
		"127.0.0.1:PORT/DB?sslmode=require":                                     "fails",
		"127.0.0.1:PORT/DB?sslmode=prefer&sslrootcert=/nowhere.pem":             "works",
		"/DB?host=SOCKET&port=PORT&sslmode=require":                             "works",
		"127.0.0.1:PORT/DB?channel_binding=require":                             "fails",
		"127.0.0.1:PORT/DB?application_name=app&connect_timeout=3&keepalives=1": "works",
		"127.0.0.1:PORT/DB?user=APP&password=SECRET":                            "works",
		"127.0.0.1:PORT/none":                                                   "fails",
	} {
		form = words.Replace(form)
		text := "postgresql://" + w.app + "@" + form
		program := exec.CommandContext(t.Context(), psql, "--no-psqlrc", "-Atc", "select 1", text)
		program.Env = []string{"PGPASSWORD=" + old.Password.Reveal(), "HOME=/nonexistent", "PATH=" + os.Getenv("PATH")}
		said, err := program.CombinedOutput()
		if works := err == nil; works != (want == "works") {
			t.Errorf("%s: psql says %s, want that it %s", form, said, want)
		}
		value := "postgresql://" + w.app + ":" + old.Password.Reveal() + "@" + form
		if _, err := w.kind.Check(nil, key.NewValue(value)); (err != nil) != (want == "is refused") {
			t.Errorf("%s: Check: %v, want that it %s", form, err, want)
		}
		target, err := dsn.Postgres(value)
		if err != nil {
			continue
		}
		err = w.kind.login(t.Context(), w.connection, placeOf("it", target), target.User, target.Password, ping(t.Context()))
		if (err == nil) != (want == "works") {
			t.Errorf("%s: %v, want that it %s", form, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), "it "+target.Hosts.String()) {
			t.Errorf("%s: %v does not say where", form, err)
		}
	}
}

// pgx, libpq and JDBC prefer the query's credentials: they are those of the new version, too.
func TestRepeatedCredentialsTakeTurns(t *testing.T) {
	w := newWorld(t, "", nil)
	old, err := urls.Credential(w.first)
	w.ok(err)
	old.Rest, _, _ = strings.Cut(old.Rest, "?")
	w.first.Value = key.NewValue(old.Text().Reveal() + "?user=" + old.User + "&password=" + url.QueryEscape(old.Password.Reveal()))
	c := w.next(w.first)
	w.ok(w.kind.Stage(t.Context(), c))
	conn, err := pgx.Connect(t.Context(), c.To.Value.Reveal())
	w.ok(err)
	defer conn.Close(context.Background()) //nolint:errcheck // of a test
	var who string
	w.ok(conn.QueryRow(t.Context(), "SELECT session_user::text").Scan(&who))
	if want := roleNames.Of(w.key)[0]; who != want {
		t.Errorf("a client logs in as %s, want %s", who, want)
	}
}

// A client goes to another host of its URL when one is away: each that answers must let the new version in.
func TestEachHostOfAURL(t *testing.T) {
	admin, other := bed.DatabaseOn(t)
	_ = admin
	ownServer(t, bed.PostgresOptions{})
	w := newWorld(t, "", nil)
	free, err := bed.FreePort()
	w.ok(err)
	with := func(hosts ...int) error {
		t.Helper()
		from, err := urls.Credential(w.first)
		w.ok(err)
		var all []string
		for _, port := range hosts {
			all = append(all, "127.0.0.1:"+strconv.Itoa(port))
		}
		change := kind.Change{Key: w.key, To: w.first, Connection: w.connection}
		text := "postgresql://" + w.app + ":" + from.Password.Reveal() + "@" + strings.Join(all, ",") + "/" + from.Path()
		change.To.Value = key.NewValue(text)
		return w.kind.Verify(t.Context(), change)
	}
	w.ok(with(w.postgres.Port, free))
	w.ok(with(free, w.postgres.Port))
	if err := with(w.postgres.Port, other.Port); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("127.0.0.1:%d", other.Port)) {
		t.Errorf("a host that does not let the version in: %v", err)
	}
	if err := with(free, free); err == nil {
		t.Error("a URL none of whose hosts answers is accepted")
	}
}

// What the environment of this process and its home directory say of PostgreSQL is for others.
func TestEnvironmentHasNoInfluence(t *testing.T) {
	w := newWorld(t, "", nil)
	home := t.TempDir()
	w.ok(os.MkdirAll(filepath.Join(home, ".postgresql"), 0o700))
	for _, name := range []string{".pgpass", ".pg_service.conf", ".postgresql/root.crt", ".postgresql/postgresql.crt", ".postgresql/postgresql.key"} {
		w.ok(os.WriteFile(filepath.Join(home, name), []byte("*:*:*:*:wrong\n"), 0o600))
	}
	t.Setenv("HOME", home)
	for _, setting := range []string{
		"SERVICE=none", "SERVICEFILE=" + home + "/none", "HOST=/nowhere", "PORT=x", "DATABASE=none", "USER=nobody", "PASSWORD=wrong",
		"PASSFILE=" + home + "/.pgpass", "APPNAME=x", "CONNECT_TIMEOUT=x", "SSLMODE=verify-full", "SSLKEY=/none", "SSLCERT=/none",
		"SSLCERTMODE=require", "SSLSNI=0", "SSLROOTCERT=/none", "SSLPASSWORD=x", "SSLNEGOTIATION=direct", "TARGETSESSIONATTRS=standby",
		"TZ=nowhere", "OPTIONS=-c nonsense=1", "MINPROTOCOLVERSION=3.2", "MAXPROTOCOLVERSION=x", "CHANNELBINDING=require", "REQUIREAUTH=none",
	} {
		name, value, _ := strings.Cut(setting, "=")
		t.Setenv("PG"+name, value)
	}
	u, err := urls.Credential(w.first)
	w.ok(err)
	w.ok(w.kind.login(t.Context(), w.connection, whereFirst(t, w), u.User, u.Password, ping(t.Context())))
	_, err = w.kind.CheckConnection(t.Context(), w.connection)
	w.ok(err)
	if err := w.kind.login(t.Context(), w.connection, whereFirst(t, w), u.User, key.Value{}, ping(t.Context())); err == nil {
		t.Error("a login without a password found one")
	}
}

func whereFirst(t *testing.T, w *world) place {
	t.Helper()
	target, err := dsn.Postgres(w.first.Value.Reveal())
	w.ok(err)
	return placeOf("it", target)
}
