// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var issuerCases = []testCase{
	{"lost values are revoked", lostValues},
	{"an older attempt harms no younger one", olderAttempt},
}

func (s *suite) sessionless() bool {
	_, none := s.Kind.(kind.Sessionless)
	return none
}

// latest is a change with its versions as they are stored now, where a server makes the values.
func (s *suite) latest(c kind.Change) kind.Change {
	if _, ok := s.Kind.(kind.Issuer); ok {
		s.mu.Lock()
		c.Key = s.key
		s.mu.Unlock()
		c.From, c.To = s.latestOf(c.From), s.latestOf(c.To)
	}
	return c
}

func (s *suite) latestOf(v key.Version) key.Version {
	if _, ok := s.Kind.(kind.Issuer); !ok {
		return v
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.key.Version(v.Number); ok && now.State.Live() {
		now.State = v.State
		return now
	}
	return v
}

// stageAt stages as the engine does: where the server makes the value, that is stored before Stage is called.
func (s *suite) stageAt(ctx context.Context, k kind.Server, c kind.Change) error {
	issuer, ok := k.(kind.Issuer)
	if !ok {
		return k.Stage(ctx, c)
	}
	if err := s.issue(ctx, issuer, c, true); err != nil {
		return err
	}
	return k.Stage(ctx, s.latest(c))
}

// issue makes an attempt at a value; without keep its answer is lost.
func (s *suite) issue(ctx context.Context, issuer kind.Issuer, c kind.Change, keep bool) error {
	to := s.latestOf(c.To)
	order, wanted := issuer.Attempt(to.Value)
	if !wanted {
		return nil
	}
	next := to
	next.Value = order
	if err := s.storeIssued(to.Value, next); err != nil {
		return err
	}
	made, err := issuer.Issue(ctx, s.latest(c))
	if err != nil || !keep {
		return err
	}
	s.mu.Lock()
	s.secrets.add(s, made.Value)
	s.mu.Unlock()
	next.Value, next.Handle = made.Value, made.Handle
	return s.storeIssued(order, next)
}

func (s *suite) storeIssued(order key.Value, to key.Version) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.key.WithIssued(to.Number, order, to)
	if err == nil {
		s.key = k
	}
	return err
}

// lostValues loses what the server has made, before a rotation continues and before one goes back.
func lostValues(s *suite) {
	issuer, _ := s.Kind.(kind.Issuer)
	lose := func(c kind.Change) {
		s.Helper()
		before := s.names()
		err := s.within(patience, "Issue", func(ctx context.Context) error { return s.issue(ctx, issuer, c, false) })
		if err != nil {
			s.Fatalf("Issue: %v", err)
		}
		if after := s.names(); len(after) != len(before)+1 {
			s.Fatalf("after Issue %q can log in; before it was %q", after, before)
		}
		s.fails(verify, c, "although the value that the server has made is lost")
	}
	before := s.names()
	c := s.plan()
	lose(c)
	s.ok(unstage, c)
	s.expectOf("after Unstage of a value that was lost", "the old version", c.From, true)
	s.noStrays("after Unstage of a value that was lost", before)
	s.reverted(c)

	c = s.plan()
	lose(c)
	s.ok(stage, c)
	s.ok(verify, c)
	if after := s.names(); len(after) != len(before)+1 {
		s.Fatalf("after Stage of a version whose first value was lost %q can log in; before it was %q", after, before)
	}
	c = s.promoted(c)
	s.ok(retire, c)
	s.expect("after Retire", c, false, true)
	s.retired(c)
	s.asMany(before)
}

// olderAttempt is one of a process that has lost its place and does not know so yet: it asks after a younger one has been
// answered. It takes nothing away from that, and what it brings is revoked.
func olderAttempt(s *suite) {
	issuer, _ := s.Kind.(kind.Issuer)
	before := s.names()
	c := s.plan()
	first, _ := issuer.Attempt(s.latestOf(c.To).Value)
	stale := s.latest(c)
	stale.To.Value = first
	next := stale.To
	if err := s.storeIssued(s.latestOf(c.To).Value, next); err != nil {
		s.Fatal(err)
	}
	s.ok(stage, c)
	s.ok(verify, c)
	err := s.within(patience, "Issue", func(ctx context.Context) error {
		made, err := issuer.Issue(ctx, stale)
		s.secrets.add(s, made.Value)
		return err
	})
	if err != nil {
		s.Logf("Issue of an older attempt: %v", err)
	}
	s.expect("after an older attempt", c, true, true)
	c = s.promoted(c)
	s.ok(retire, c)
	s.expect("after Retire", c, false, true)
	s.retired(c)
	if after := s.names(); len(after) != len(before) {
		s.Fatalf("after an older attempt and a rotation %q can log in; before it was %q", after, before)
	}
}
