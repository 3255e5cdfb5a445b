// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"
)

// Of two that change the same role the second sees what the first has done, also where the database is set to give each
// transaction a view from before it had waited.
func TestIsolationOfTheServerDoesNotMatter(t *testing.T) {
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			ctx := t.Context()
			w := newWorld(t, "", nil)
			w.exec("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''" + level + "''', current_database()); END $$")
			c := w.next(w.first)
			other := New(rand.Reader)
			t.Cleanup(func() { _ = other.Close() })

			before := w.dial(w.admin)
			lock := "hashtextextended(" + literal("hyvve "+roleNames.Of(w.key)[0]) + ", 0)"
			_, err := before.Exec(ctx, "SELECT pg_advisory_lock("+lock+")")
			w.ok(err)
			done := make(chan error, 2)
			for _, k := range []*Kind{w.kind, other} {
				go func() { done <- k.Stage(ctx, c) }()
			}
			deadline := time.Now().Add(lockPatience)
			for waiting := 0; waiting < 2; {
				w.ok(before.QueryRow(ctx, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").Scan(&waiting))
				if time.Now().After(deadline) {
					t.Fatalf("%d wait for the lock, want 2", waiting)
				}
				<-time.After(10 * time.Millisecond)
			}
			_, err = before.Exec(ctx, "SELECT pg_advisory_unlock("+lock+")")
			w.ok(err)
			w.ok(errors.Join(<-done, <-done))
			w.ok(w.kind.Verify(ctx, c))
		})
	}
}

// lockPatience is less than what a transaction waits for another, so that a failure says what has failed.
const lockPatience = 8 * time.Second
