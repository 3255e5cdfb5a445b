// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// Callers that ask while a query is in progress share the next one: no caller gets a result from before it asked.
func TestCensus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		var looked context.Context
		var c census
		answer := make(chan error)
		at := func(ctx context.Context, roles []string) (map[string]use, error) {
			looked = ctx
			slices.Sort(roles)
			asked = append(asked, strings.Join(roles, " "))
			found := map[string]use{}
			for _, role := range roles {
				found[role] = make(use, len(asked))
			}
			select {
			case err := <-answer:
				return found, err
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		answers := map[string]string{}
		var mu sync.Mutex
		ask := func(ctx context.Context, roles ...string) {
			for _, role := range roles {
				go func() {
					found, err := c.ask(ctx, role, at)
					mu.Lock()
					defer mu.Unlock()
					answers[role] = fmt.Sprint(found.count(), err)
				}()
			}
			synctest.Wait()
		}
		tell := func(err error) {
			answer <- err
			synctest.Wait()
		}
		impatient, leave := context.WithCancel(t.Context())
		ask(t.Context(), "a")
		ask(impatient, "b")
		ask(t.Context(), "c", "d")
		tell(nil)
		if answers["a"] != "1 <nil>" || len(answers) != 1 || len(asked) != 2 || asked[1] != "b c d" {
			t.Errorf("%v was asked, and %v answered", asked, answers)
		}
		leave()
		synctest.Wait()
		if answers["b"] != "0 context canceled" || looked.Err() != nil {
			t.Errorf("who leaves is told %s; the others' look: %v", answers["b"], looked.Err())
		}
		tell(errors.New("down"))
		if answers["c"] != "2 down" || answers["d"] != "2 down" {
			t.Errorf("a look that failed: %v", answers)
		}
		impatient, leave = context.WithCancel(t.Context())
		ask(impatient, "e")
		ask(impatient, "f")
		leave() // nobody waits for this look any more, nor for the next
		synctest.Wait()
		if looked.Err() == nil || answers["e"] != answers["b"] || answers["f"] != answers["b"] {
			t.Errorf("%v was asked, and %v answered", asked, answers)
		}
		ask(t.Context(), "g")
		tell(nil)
		if answers["g"] != fmt.Sprint(len(asked), nil) || asked[len(asked)-1] != "g" {
			t.Errorf("after everybody left: %v", answers)
		}
	})
}

// The server has ended all sessions without a word: the next call opens new ones, and counts nothing twice.
func TestEndedSessionsAreReplaced(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	end := func() {
		w.exec("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = '" + ownName + "'")
	}
	var group sync.WaitGroup
	for range adminSessions {
		group.Go(func() {
			if err := w.kind.Stage(ctx, c); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for name, call := range map[string]func() error{
		"stage": func() error { return w.kind.Stage(ctx, c) },
		"in use": func() error {
			conn, err := w.session(c.To)
			w.ok(err)
			defer conn.Close(ctx) //nolint:errcheck // of a test
			n, what, err := w.kind.InUse(ctx, w.back(c))
			if n != 1 && err == nil {
				t.Errorf("%d sessions: %s", n, what)
			}
			return err
		},
		"retire": func() error { return w.kind.Retire(ctx, c) },
	} {
		end()
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Calls for two revisions of a connection, as a check beside a write of it, do not end each other's sessions.
func TestRevisionsLeaveEachOtherAlone(t *testing.T) {
	w := newWorld(t, "", nil)
	var group sync.WaitGroup
	for revision := range uint64(2) {
		c := w.connection
		c.Revision = revision
		group.Go(func() {
			for range 40 {
				if err := w.kind.admin(t.Context(), c, home(c), ping(t.Context())); err != nil {
					t.Errorf("revision %d: %v", revision, err)
					return
				}
			}
		})
	}
	group.Wait()
	w.kind.mu.Lock()
	defer w.kind.mu.Unlock()
	for name, pool := range w.kind.pools {
		if pool.users != 0 {
			t.Errorf("%d calls use sessions %s after all have ended", pool.users, name)
		}
	}
}

// A server that takes connections and answers nothing holds up its own logins, and nobody else's.
func TestSilentServerHoldsUpNoOther(t *testing.T) {
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	w.ok(w.kind.Stage(t.Context(), c))
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	w.ok(err)
	defer silent.Close() //nolint:errcheck // of a test
	stuck := c
	stuck.Connection.Options = maps.Clone(c.Connection.Options)
	stuck.Connection.Options[login.FieldURL] = fmt.Sprintf("postgresql://postgres@%s/postgres?sslmode=disable", silent.Addr())
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 2 * maxLogins {
		group.Go(func() {
			if err := w.kind.Verify(ctx, stuck); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		})
	}
	for range maxLogins { // all that may try at a time do
		conn, err := silent.Accept()
		w.ok(err)
		defer conn.Close() //nolint:errcheck // of a test
	}
	w.ok(w.kind.Verify(t.Context(), c))
	cancel()
	group.Wait()
}
