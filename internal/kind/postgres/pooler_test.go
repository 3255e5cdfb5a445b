// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// A PgBouncer keeps a connection at a server that nobody has named, a standby for example. It hides no session that an application
// has at the named one, neither from a look nor from a sample.
func TestPgBouncersConnectionsElsewhereHideNoSession(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	u, err := urls.Credential(w.first)
	w.ok(err)
	other, err := bed.ForTest(t).PostgresWith(ctx, bed.PostgresOptions{})
	w.ok(err)
	there := w.dial(other.AdminURL("postgres"))
	_, err = there.Exec(ctx, "CREATE ROLE "+quote(w.app)+" LOGIN PASSWORD "+literal(u.Password.Reveal()))
	w.ok(err)
	bouncer, err := bed.ForTest(t).PgBouncer(ctx, other, bed.PgBouncerOptions{Users: map[string]string{w.app: u.Password.Reveal()}})
	w.ok(err)
	w.names(bouncer)
	client, err := pgx.Connect(ctx, bouncer.URL("postgres", w.app, u.Password.Reveal()))
	w.ok(err)
	_, err = client.Exec(ctx, "SELECT 1", pgx.QueryExecModeSimpleProtocol)
	w.ok(err)
	w.ok(client.Close(context.Background()))
	w.noClients()
	c := w.next(w.first)
	direct, err := w.session(w.first)
	w.ok(err)
	defer direct.Close(context.Background()) //nolint:errcheck // of a test
	for _, look := range []struct {
		what string
		long time.Duration
	}{{"look", 0}, {"sample", 300 * time.Millisecond}} {
		n, what, err := w.kind.count(ctx, c, look.long)
		if err != nil || n == 0 || !strings.Contains(what, "sessions of role "+w.app) {
			t.Errorf("a %s: %d, %s, %v", look.what, n, what, err)
		}
	}
}

// PgBouncer does not say which process serves a connection through a socket. As many sessions through sockets are its own as it has
// such connections; a session over TCP is not.
func TestIdleConnectionsOfPgBouncerThroughASocket(t *testing.T) {
	ctx := t.Context()
	_, directory := withSockets(t)
	w := newWorld(t, "", nil)
	direct := w.first
	_, c := w.withBouncer(t, bed.PgBouncerOptions{Mode: "session", Host: directory})
	client, err := w.session(c.From)
	w.ok(err)
	_, err = client.Exec(ctx, "SELECT 1")
	w.ok(err)
	w.ok(client.Close(context.Background()))
	w.unused(c) // although PgBouncer still has its connection
	u, err := urls.Credential(direct)
	w.ok(err)
	socket, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d dbname=%s user=%s password=%s", directory, w.postgres.Port, u.Path(), w.app, u.Password.Reveal()))
	w.ok(err)
	defer socket.Close(context.Background()) //nolint:errcheck // of a test
	if n, what, err := w.kind.InUse(ctx, c); err != nil || n != 1 {
		t.Errorf("with a session through the socket: %d, %s, %v", n, what, err)
	}
	tcp, err := w.session(direct)
	w.ok(err)
	defer tcp.Close(context.Background()) //nolint:errcheck // of a test
	if n, what, err := w.kind.InUse(ctx, c); err != nil || n != 2 {
		t.Errorf("with a session over TCP, too: %d, %s, %v", n, what, err)
	}
}

// noClients waits until PgBouncer has noticed that the clients of the application's role have left.
func (w *world) noClients() {
	w.t.Helper()
	for ctx := w.t.Context(); ; {
		now, err := w.kind.pooled(ctx, w.connection, w.app, 0)
		w.ok(err)
		if now.clients == 0 {
			return
		}
		w.ok(backoff.Wait(ctx, 10*time.Millisecond))
	}
}
