// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var undelete = call{"Undelete", func(s *suite, k kind.Server, ctx context.Context, c kind.Change) error {
	undeleter, ok := k.(kind.Undeleter)
	if !ok {
		s.Fatal("kindtest: Undelete of a kind that is no Undeleter")
	}
	return undeleter.Undelete(ctx, c)
}}

// undeleted lets a retired version log in again beside the current one, ends it again, and rotates then.
func undeleted(s *suite) {
	now := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	for range rounds {
		c := s.plan()
		s.ok(stage, c)
		s.ok(verify, c)
		c = s.promoted(c)
		s.ok(retire, c)
		s.key = s.with(s.key.WithRetained(c.From.Number, now, now.Add(time.Hour)))
		s.expect("after Retire of a version that is retained", c, false, true)
		before, present := s.names(), s.use(c.To)

		s.key = s.with(s.key.WithUndeleted(c.From.Number, now, now.Add(time.Hour)))
		u := s.change(c.To.Number, c.From.Number)
		s.twice(undelete, u)
		s.ok(verify, u)
		s.expect("after Undelete", u, true, true)
		s.unproblematic(kind.Change{Key: s.key, To: u.From, Connection: s.Connection})
		s.unblocked()
		used := s.use(u.To)
		if n := s.using(back(u)); n < 1 {
			s.Errorf("InUse counts %d of an undeleted version that a session uses", n)
		}
		used.End()
		s.eventually("a count of no session of the undeleted version", func() bool { return s.using(back(u)) == 0 })

		s.twice(retire, back(u))
		s.expect("after Retire of an undeleted version", u, true, false)
		s.noStrays("after Retire of an undeleted version", before)
		if !present.Alive() {
			s.Error("Undelete and Retire end a session of the current version")
		}
		present.End()
		s.key = s.with(s.key.WithErased(u.To.Number))
		s.rotate()
	}
}

// undeleteWhileDown fails, and does the rest when the server is back.
func undeleteWhileDown(s *suite) {
	now := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	c := s.plan()
	s.ok(stage, c)
	c = s.promoted(c)
	s.ok(retire, c)
	s.key = s.with(s.key.WithRetained(c.From.Number, now, now.Add(time.Hour)))
	s.key = s.with(s.key.WithUndeleted(c.From.Number, now, now.Add(time.Hour)))
	u := s.change(c.To.Number, c.From.Number)
	s.whileDown(func() { s.fails(undelete, u, "while the server is down") })
	s.ok(undelete, u)
	s.expect("after Undelete", u, true, true)
}

// unproblematic sees that an inspection of the current version finds nothing wrong with one that is undeleted.
func (s *suite) unproblematic(c kind.Change) {
	s.Helper()
	inspector, ok := s.Kind.(kind.Inspector)
	if !ok {
		return
	}
	err := s.within(patience, "Inspect", func(ctx context.Context) error {
		found, err := inspector.Inspect(ctx, c)
		for _, p := range found.Problems {
			s.Errorf("Inspect while a version is undeleted: %s", p)
		}
		for _, text := range found.Notes {
			s.Errorf("Inspect while a version is undeleted: %s", text)
		}
		return err
	})
	if err != nil {
		s.Errorf("Inspect while a version is undeleted: %v", err)
	}
}

// unblocked sees that the next rotation is not said to be blocked by the undeleted version. The engine says that by itself.
func (s *suite) unblocked() {
	s.Helper()
	preflighter, ok := s.Kind.(kind.Preflighter)
	if !ok {
		return
	}
	before := s.key
	c := s.plan()
	s.key = before // it is a plan
	err := s.within(patience, "Preflight", func(ctx context.Context) error {
		blockers, _, err := preflighter.Preflight(ctx, c)
		for _, text := range blockers {
			s.Errorf("Preflight while a version is undeleted: %s", text)
		}
		return err
	})
	if err != nil {
		s.Errorf("Preflight while a version is undeleted: %v", err)
	}
}
