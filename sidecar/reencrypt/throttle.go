// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
)

// throttle keeps a worker from being a burden: it takes no more rows a second than it may, and rests while the database is
// slower than it should be.
type throttle struct {
	perSecond int           // rows; 0: as many as there are
	maxLoad   time.Duration // of a batch's transactions, and of the lag of any replica; 0: whatever it is

	mu   sync.Mutex
	next time.Time // when more rows may be taken
}

// Bounds of a rest for the database's sake.
const (
	maxRest     = 5 * time.Second
	restMeasure = 3 // rests are so many times as long as what took too long
)

// rest waits after so many rows were done, which took so long.
func (t *throttle) rest(ctx context.Context, db *session, rows int, took time.Duration) error {
	wait := t.reserve(rows)
	if t.maxLoad > 0 {
		slow := max(took, lag(ctx, db))
		if slow > t.maxLoad {
			wait = max(wait, min(restMeasure*slow, maxRest))
		}
	}
	if wait <= 0 {
		return nil
	}
	return backoff.Wait(ctx, wait)
}

// reserve returns how long to wait for the sake of the rate, over all sessions of the worker.
func (t *throttle) reserve(rows int) time.Duration {
	if t.perSecond == 0 {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.next.Before(now) {
		t.next = now
	}
	t.next = t.next.Add(time.Duration(rows) * time.Second / time.Duration(t.perSecond))
	return t.next.Sub(now)
}

// lag is the longest that a replica is behind, as far as our role may see.
func lag(ctx context.Context, db *session) (longest time.Duration) {
	var seconds float64
	err := db.tx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT coalesce(max(extract(epoch FROM replay_lag)), 0)::float8 FROM pg_stat_replication").Scan(&seconds)
	})
	if err != nil {
		return 0 // the goroutines that re-encrypt find out what is wrong
	}
	return time.Duration(seconds * float64(time.Second))
}
