// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform"
)

// rotations is how often a soak rotates, few times without being asked: make test-soak ROTATIONS=50 does it for long.
func rotations(t *testing.T, few int) int {
	t.Helper()
	text := os.Getenv("HYVVE_ROTATIONS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("ROTATIONS=%q is not a number from 1", text)
	}
	return n
}

// leastRate is how many operations a second the load must make to prove anything.
const leastRate = 200

// TestServerURLs adopts the URLs in use, and rotates them together again and again under load: one half of the instances
// comes to PostgreSQL through a PgBouncer in transaction mode, the other directly; all use Redis. No operation fails, no
// user is ever locked that has a session, and one user of each pair can log in after each rotation.
func TestServerURLs(t *testing.T) {
	w := startServers(t)
	n := rotations(t, 3)
	inspect := w.inspectLocks(t)
	begun := time.Now()
	for i := range n {
		r := w.begin(t, "database-url", "redis-url")
		end, err := platform.Follow(t.Context(), w.engine, r.ID, func(r api.Rotation) {
			t.Logf("%d: %s %s: %s", i+1, r.State, r.Step, platform.Short(r.NextGate))
		})
		if err != nil || end.State != "done" {
			t.Fatalf("rotation %d ended as %s: %v", i+1, end.State, err)
		}
		role, user := logins(i + 1)
		w.validLogins(t, fmt.Sprintf("after rotation %d", i+1), role, user)
	}
	took := time.Since(begun)
	looks, sessions := inspect()
	w.noFailures(t)
	rate := float64(w.operations.Load()) / took.Seconds()
	if n >= 10 && rate < leastRate {
		t.Errorf("%.0f operations a second: at least %d are wanted", rate, leastRate)
	}
	if looks < n || sessions > 0 {
		t.Errorf("in %d looks at the servers, up to %d sessions of a locked user were seen", looks, sessions)
	}
	if owner := w.ask(t, "SELECT string_agg(DISTINCT tableowner, ' ') FROM pg_tables WHERE schemaname = 'public'"); owner != "hyvve_app" {
		t.Errorf("tables are %s's", owner)
	}
	t.Logf("%d operations in %d rotations and %.0f s (%.0f/s), %d failed; %d looks at the servers, %d sessions of a locked user",
		w.operations.Load(), n, took.Seconds(), rate, w.failed.Load(), looks, sessions)
}

// inspectLocks looks at the servers all the time for sessions of users that cannot log in any more. What it returns ends
// that. Sessions of PgBouncer's without a client are nobody's and do not count; its clients are asked for by the rotation.
func (w *serversWorld) inspectLocks(t *testing.T) (end func() (looks, sessions int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := pgx.Connect(ctx, w.admin)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	var looks, most int
	group.Go(func() {
		defer conn.Close(context.Background()) //nolint:errcheck // of a test
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for ctx.Err() == nil {
			var inDatabase int
			err := conn.QueryRow(context.Background(), `
				WITH locked AS MATERIALIZED (SELECT rolname FROM pg_roles WHERE NOT rolcanlogin)
				SELECT count(*) FROM locked JOIN pg_stat_activity ON usename = rolname WHERE application_name IN ('app-1', 'app-3')`).Scan(&inDatabase)
			if err != nil {
				t.Errorf("looking at PostgreSQL: %v", err)
				return
			}
			inCache, err := w.lockedInCache()
			if err != nil {
				t.Errorf("looking at Redis: %v", err)
				return
			}
			looks++
			most = max(most, inDatabase, inCache)
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	return func() (int, int) {
		cancel()
		group.Wait()
		return looks, most
	}
}

// lockedInCache counts sessions of users that are off. Users are asked for first: a lock that comes later does not count.
func (w *serversWorld) lockedInCache() (sessions int, err error) {
	users, err := w.redis.Do(context.Background(), "ACL", "LIST")
	if err != nil {
		return 0, err
	}
	clients, err := w.redis.Do(context.Background(), "CLIENT", "LIST")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(users) {
		if f := strings.Fields(line); f[2] == "off" {
			for client := range strings.Lines(clients) {
				if strings.Contains(client, " name=app-") && strings.Contains(client, " user="+f[1]+" ") {
					sessions++
				}
			}
		}
	}
	return sessions, nil
}
