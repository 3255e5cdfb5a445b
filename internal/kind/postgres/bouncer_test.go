// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// withBouncer returns a world's change with its URL through a PgBouncer, whose console the connection names.
func (w *world) withBouncer(t *testing.T, o bed.PgBouncerOptions) (*bed.PgBouncer, kind.Change) {
	t.Helper()
	o.AuthQuery = true
	bouncer, err := bed.ForTest(t).PgBouncer(t.Context(), w.postgres, o)
	w.ok(err)
	u, err := urls.Credential(w.first)
	w.ok(err)
	through, err := urls.Credential(key.Version{Value: key.NewValue(bouncer.URL(u.Path(), u.User, u.Password.Reveal()))})
	w.ok(err)
	w.first.Value = through.Text()
	w.names(bouncer)
	if o.TLS {
		ca, err := os.ReadFile(bouncer.CA)
		w.ok(err)
		w.connection.Options[login.FieldCA] = string(ca)
	}
	if _, err := w.kind.CheckConnection(t.Context(), w.connection); err != nil {
		t.Fatal(err)
	}
	return bouncer, w.next(w.first)
}

// names has the connection name a PgBouncer's console.
func (w *world) names(bouncer *bed.PgBouncer) {
	w.t.Helper()
	console, err := urls.Credential(key.Version{Value: key.NewValue(bouncer.ConsoleURL())})
	w.ok(err)
	w.connection.Options[fieldBouncers] = console.String()
	w.connection.Secrets[fieldConsole] = console.Password
}

// PgBouncer keeps connections at the server that nobody uses any more; its console tells them from those in use.
func TestIdleConnectionsOfPgBouncerAreNoUse(t *testing.T) {
	ctx := t.Context()
	for _, mode := range []string{"transaction", "session"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, "", nil)
			_, c := w.withBouncer(t, bed.PgBouncerOptions{Mode: mode})
			client, err := w.session(c.From)
			w.ok(err)
			if _, err := client.Exec(ctx, "SELECT 1"); err != nil {
				t.Fatal(err)
			}
			w.ok(w.kind.Stage(ctx, c))
			w.ok(w.kind.Verify(ctx, c))
			w.ok(w.kind.Verify(ctx, c))
			n, what, err := w.kind.InUse(ctx, c)
			if err != nil || n == 0 || !strings.Contains(what, "clients of role") {
				t.Errorf("with a client: %d, %s, %v", n, what, err)
			}
			w.ok(client.Close(context.Background()))
			w.unused(c) // although PgBouncer still has its connection
			w.ok(w.kind.Retire(ctx, c))
		})
	}
}

// A PgBouncer that takes no client without TLS, with a certificate of a CA of its own: its console and its clients count, and
// no password goes to one whose certificate is not trusted.
func TestPgBouncerOverTLS(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	_, c := w.withBouncer(t, bed.PgBouncerOptions{Mode: "transaction", TLS: true})
	client, err := w.session(c.From)
	w.ok(err)
	_, err = client.Exec(ctx, "SELECT 1")
	w.ok(err)
	w.ok(w.kind.Stage(ctx, c))
	w.ok(w.kind.Verify(ctx, c))
	n, what, err := w.kind.InUse(ctx, c)
	if err != nil || n == 0 || !strings.Contains(what, "clients of role") {
		t.Errorf("with a client: %d, %s, %v", n, what, err)
	}
	w.ok(client.Close(context.Background()))
	w.unused(c)
	w.ok(w.kind.Retire(ctx, c))

	stranger := w.connection
	stranger.Revision++
	stranger.Options = maps.Clone(stranger.Options)
	delete(stranger.Options, login.FieldCA)
	if _, err := w.kind.CheckConnection(ctx, stranger); err == nil || !strings.Contains(err.Error(), "certificate") || !strings.Contains(err.Error(), "PgBouncer") {
		t.Errorf("without its CA: %v", err)
	}
}

// Between two clients PgBouncer says DISCARD ALL in session mode, which sets the session back to its role's settings: it
// acts as its owner again. A reset query that ends with SET ROLE NONE takes the owner away, and Verify says so.
func TestResetsOfPgBouncer(t *testing.T) {
	ctx := t.Context()
	for reset, acts := range map[string]bool{"": true, "DISCARD ALL": true, "SET ROLE NONE": false} {
		w := newWorld(t, "", nil)
		_, c := w.withBouncer(t, bed.PgBouncerOptions{Mode: "session", ResetQuery: reset})
		w.ok(w.kind.Stage(ctx, c))
		w.ok(w.kind.Verify(ctx, c))
		err := w.kind.Verify(ctx, c) // over the same connection at the server, after the reset
		if acts != (err == nil) || err != nil && !strings.Contains(err.Error(), "not as its owner") {
			t.Errorf("after %q: %v", reset, err)
		}
	}
}
