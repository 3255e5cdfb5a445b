// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"strings"
	"testing"
	"time"
)

// Anybody with the application's URL may take the advisory lock under which roles are changed. No step waits for it forever.
func TestAdvisoryLockOfTheApplication(t *testing.T) {
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	a := roleNames.Of(w.key)[0]
	thief, err := w.session(w.first)
	w.ok(err)
	defer thief.Close(context.Background()) //nolint:errcheck // of a test
	for _, role := range []string{a, w.app} {
		_, err = thief.Exec(t.Context(), "SELECT pg_advisory_lock(hashtextextended($1, 0))", "hyvve "+role)
		w.ok(err)
	}
	w.ok(w.kind.Stage(t.Context(), c))
	w.ok(w.kind.Verify(t.Context(), c))
	w.ok(w.kind.Retire(t.Context(), c))
	if _, err := w.session(w.first); err == nil {
		t.Error("the old role can log in still")
	}
	// Another mount's administrator is waited for.
	other := w.dial(w.admin)
	_, err = other.Exec(t.Context(), "SELECT pg_advisory_lock(hashtextextended($1, 0))", "hyvve "+roleNames.Of(w.key)[1])
	w.ok(err)
	next := w.next(c.To)
	next.Key.Versions = append(next.Key.Versions, w.first, c.To)
	if err := w.kind.Stage(t.Context(), next); err == nil || !strings.Contains(err.Error(), "is being changed by somebody else") {
		t.Errorf("%v", err)
	}
}

// A session of a role whose version is compromised changes its own password and does not commit. That keeps nobody from locking the
// role, although the session comes back as soon as it is ended.
func TestSessionThatHoldsItsOwnRole(t *testing.T) {
	w := newWorld(t, "", nil)
	c := w.rotate(w.next(w.first))
	next := w.next(c)
	next.Cut = true
	w.ok(w.kind.Stage(t.Context(), next))
	holding := make(chan struct{}, 1)
	thieves, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for thieves.Err() == nil {
			thief, err := w.session(c)
			if err != nil {
				return
			}
			for _, s := range []string{"SET ROLE NONE", "BEGIN", "ALTER ROLE SESSION_USER PASSWORD 'mine'"} {
				if _, err = thief.Exec(thieves, s); err != nil {
					break
				}
			}
			select {
			case holding <- struct{}{}:
			default:
			}
			for err == nil && thieves.Err() == nil {
				_, err = thief.Exec(thieves, "SELECT pg_sleep(0.05)")
			}
			_ = thief.Close(context.Background())
		}
	}()
	<-holding
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	w.ok(w.kind.Retire(ctx, next))
	select {
	case <-ended: // it can log in no more
	case <-time.After(10 * time.Second):
		t.Error("the session goes on")
	}
	if of := w.role(roleNames.Of(w.key)[0]); !strings.HasPrefix(of, "f ") {
		t.Errorf("the role is %s", of)
	}
}
