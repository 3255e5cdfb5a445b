// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// A client that logs in, runs a statement and leaves is seen by a sample of a second, though a look would miss it.
func TestSampleSeesShortSessions(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	w.ok(w.kind.Stage(ctx, c))
	visit := func() {
		conn, err := w.session(c.From)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(ctx) //nolint:errcheck // nothing is pending
		if _, err := conn.Exec(ctx, "SELECT pg_sleep(0.02)"); err != nil {
			t.Error(err)
		}
	}
	missed := 0
	const visits = 10
	for range visits {
		var visitor sync.WaitGroup
		visitor.Go(func() {
			if backoff.Wait(ctx, 300*time.Millisecond) == nil {
				visit()
			}
		})
		n, what, err := w.kind.Sample(ctx, c, time.Second)
		visitor.Wait()
		if errors.As(err, new(kind.Unattributed)) { // no sample saw it, and the server has counted it
			missed++
			continue
		}
		w.ok(err)
		if n == 0 {
			t.Error("a visit was missed, and nothing says so")
		} else if !strings.Contains(what, "sessions of role "+w.app) {
			t.Errorf("what: %s", what)
		}
	}
	if missed > visits/2 { // a machine that is busy takes samples late
		t.Errorf("%d of %d visits were missed", missed, visits)
	}
	if n, what, err := w.kind.Sample(ctx, c, time.Second); n != 0 || err != nil {
		t.Errorf("nobody is there, and it counts %d: %s (%v)", n, what, err)
	}
	conn, err := w.session(c.From)
	w.ok(err)
	defer conn.Close(ctx) //nolint:errcheck // nothing is pending
	if n, what, err := w.kind.Sample(ctx, c, time.Second); n != 1 || err != nil {
		t.Errorf("one session is there throughout, and it counts %d: %s (%v)", n, what, err)
	}
}

// Callers that ask again at once are sampled without a break, and share the results.
func TestSamplesWithoutABreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sampler
		var mu sync.Mutex
		var log []string
		begun := time.Now()
		take := func(roles []string, long time.Duration, _ *shortLogins) (map[string]use, misses, error) {
			mu.Lock()
			log = append(log, fmt.Sprintf("%s %s", time.Since(begun), strings.Join(roles, "+")))
			mu.Unlock()
			time.Sleep(long) //nolint:forbidigo // in the bubble's time
			return map[string]use{}, misses{}, nil
		}
		var callers sync.WaitGroup
		caller := func(role string, after time.Duration) {
			callers.Go(func() {
				time.Sleep(after) //nolint:forbidigo // in the bubble's time
				for range 3 {
					if _, _, err := s.ask(context.Background(), role, time.Second, take); err != nil {
						t.Error(err)
					}
				}
			})
		}
		caller("a", 0)
		caller("b", 500*time.Millisecond)
		callers.Wait()
		synctest.Wait()
		want := "0s a, 1s a+b, 2s a+b, 3s a+b"
		if got := strings.Join(log, ", "); !strings.HasPrefix(got, want) {
			t.Errorf("samples: %s; want %s", got, want)
		}
		if left, _, err := s.ask(context.Background(), "c", time.Second, take); err != nil || left.count() != 0 {
			t.Errorf("after all have left: %v", err)
		}
		time.Sleep(5 * time.Second) //nolint:forbidigo // in the bubble's time: until it has ended by itself
	})
}

// Logins that no sample can see are counted; those that are seen are not, nor are ours, and logins to other databases.
func TestUnseenLogins(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	w.ok(w.kind.Stage(ctx, c))
	u, err := urls.Credential(w.first)
	w.ok(err)
	enter := func(text string, times int, stay time.Duration) {
		for range times {
			conn, err := pgx.Connect(ctx, text)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := conn.Exec(ctx, "SELECT pg_sleep("+fmt.Sprint(stay.Seconds())+")"); err != nil {
				t.Error(err)
			}
			_ = conn.Close(ctx)
		}
	}
	stranger := w.admin // another role in the same database, so that none counts as use
	elsewhere := strings.Replace(stranger, "/"+u.Path(), "/postgres", 1)
	for name, test := range map[string]struct {
		does   func()
		missed bool
	}{
		"nobody":                  {func() {}, false},
		"long enough to be seen":  {func() { enter(stranger, 1, 500*time.Millisecond) }, false},
		"our own":                 {func() { w.ok(w.kind.Verify(ctx, c)) }, false},
		"too short to be seen":    {func() { enter(stranger, 20, 0) }, true},
		"too short, elsewhere":    {func() { enter(elsewhere, 20, 0) }, false},
		"stays beyond the sample": {func() { _ = backoff.Wait(ctx, 600*time.Millisecond); enter(stranger, 1, 700*time.Millisecond) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			of := w.kind.sampler(w.connection, home(w.connection))
			of.mu.Lock()
			of.cost, of.costAt = time.Second, now() // as at a server that is too busy to look often
			of.mu.Unlock()
			var group sync.WaitGroup
			group.Go(func() {
				if backoff.Wait(ctx, 200*time.Millisecond) == nil {
					test.does()
				}
			})
			missed := false
			for range 2 {
				n, what, err := w.kind.Sample(ctx, c, time.Second)
				if errors.As(err, new(kind.Unattributed)) {
					missed, err = true, nil
				}
				w.ok(err)
				if n > 0 {
					t.Errorf("%d sessions of the old role: %s", n, what)
				}
			}
			group.Wait()
			if missed != test.missed {
				t.Errorf("logins without a session seen: %t, want %t", missed, test.missed)
			}
		})
	}
}
