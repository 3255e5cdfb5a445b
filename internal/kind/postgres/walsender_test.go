// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// A subscriber of logical replication logs in as a walsender: it counts as use. It could not with the new version, which the
// plan says.
func TestReplicationIsUse(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	w.exec("ALTER ROLE " + quote(w.app) + " REPLICATION")
	w.connection.Options[fieldOwners] = w.app
	replicate := func(url string) (*pgconn.PgConn, error) {
		conn, err := pgconn.Connect(ctx, strings.TrimSuffix(url, "&pgbouncer=true&schema=public")+"&replication=database")
		if err != nil {
			return nil, err
		}
		_, err = conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
		return conn, err
	}
	c := w.next(w.first)
	_, notes, err := w.kind.Preflight(ctx, c)
	w.ok(err)
	if !strings.Contains(strings.Join(notes, "\n"), "has REPLICATION, which login roles are not given") {
		t.Errorf("the plan does not say it: %q", notes)
	}
	w.ok(w.kind.Stage(ctx, c))
	w.ok(w.kind.Verify(ctx, c))
	old, err := replicate(c.From.Value.Reveal())
	w.ok(err)
	if n, what, err := w.kind.InUse(ctx, c); err != nil || n == 0 {
		t.Errorf("a walsender of the old version: %d, %s, %v", n, what, err)
	}
	w.ok(old.Close(context.Background()))
	if _, err := replicate(c.To.Value.Reveal()); err == nil {
		t.Error("the new version may replicate: the note is wrong")
	}
	w.unused(c)
	w.ok(w.kind.Retire(ctx, c))
}
