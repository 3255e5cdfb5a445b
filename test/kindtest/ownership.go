// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// somebodyElse stages a version whose login exists already and is not the key's. Stage refuses; that login and its sessions
// stay as they are, also after Unstage, and the key rotates once it has gone.
func somebodyElse(s *suite) {
	c := s.plan()
	held := s.use(c.From)
	theirs := s.Occupy(s, c.To.Value)
	s.secrets.add(s, theirs)
	if !s.Valid(s, theirs) {
		s.Fatal("the value that World.Occupy returns is not valid")
	}
	session := s.Use(s, theirs)
	s.Cleanup(session.End)
	before := s.names()
	intact := func(when string) {
		s.Helper()
		if !s.Valid(s, theirs) || !session.Alive() {
			s.Fatalf("%s changes a login of somebody else, which the key has not made", when)
		}
		s.noStrays("after "+when, before)
		s.expect("after "+when, c, true, false)
	}
	for range 2 {
		s.refuses(c)
		s.fails(stage, c, "although somebody else has a login of that name")
		intact("Stage")
		s.ok(unstage, c)
		intact("Unstage")
	}
	if !held.Alive() {
		s.Error("Stage of a login of somebody else ends a session of the old version")
	}
}

// claimed has a key of another mount claim the old version's login, as two mounts with one name may. Retire refuses it, also with
// Cut, and leaves that login and its sessions as they are.
func claimed(s *suite) {
	c := s.plan()
	s.ok(stage, c)
	s.ok(verify, c)
	c = s.promoted(c)
	other := s.key
	other.Mount = otherMount
	s.Claim(s, c.From.Value, other)
	session := s.use(c.From)
	before := s.names()
	for _, c.Cut = range []bool{false, true} {
		s.fails(retire, c, "although another key has claimed the old version's login")
		s.noStrays("after Retire", before)
		s.expect("after Retire of a claimed login", c, true, true)
		if !session.Alive() {
			s.Error("Retire ends a session of a login that another key has claimed")
		}
	}
}

// refuses sees that a plan of the change would name what stops it.
func (s *suite) refuses(c kind.Change) {
	s.Helper()
	if _, ok := s.Kind.(kind.Preflighter); ok && len(s.blockers(c)) == 0 {
		s.Error("Preflight names no blocker although somebody else has a login of that name")
	}
}

// preflight has nothing to say against a rotation that goes well, at each of its steps, and changes nothing.
func preflight(s *suite) {
	c := s.plan()
	before := s.names()
	clear := func(when string) {
		s.Helper()
		for range 2 {
			if blockers := s.blockers(c); len(blockers) > 0 {
				s.Fatalf("Preflight %s: %s", when, strings.Join(blockers, "; "))
			}
		}
	}
	clear("before Stage")
	s.noStrays("after Preflight", before)
	s.expect("after Preflight", c, true, false)
	s.ok(stage, c)
	clear("after Stage")
	s.expect("after Preflight", c, true, true)
	s.whileDown(func() {
		if _, _, err := s.preflighter().Preflight(s.Context(), c); err == nil {
			s.Error("Preflight succeeds while the server is down")
		}
	})
}

func (s *suite) preflighter() kind.Preflighter {
	p, _ := s.Kind.(kind.Preflighter)
	return p
}

// blockers are what Preflight finds.
func (s *suite) blockers(c kind.Change) (blockers []string) {
	s.Helper()
	var notes []string
	err := s.within(patience, "Preflight", func(ctx context.Context) (err error) {
		blockers, notes, err = s.preflighter().Preflight(ctx, c)
		return err
	})
	if err != nil {
		s.Fatalf("Preflight: %v", err)
	}
	s.secrets.absentText(s, "what Preflight says", strings.Join(append(notes, blockers...), "; "))
	return blockers
}
