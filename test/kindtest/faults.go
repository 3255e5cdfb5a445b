// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// cuts are when a call is cut short, so that a call of a few round trips is cut in each of them.
var cuts = []time.Duration{
	0, 250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond, 4 * time.Millisecond,
	6 * time.Millisecond, 8 * time.Millisecond, 12 * time.Millisecond, 16 * time.Millisecond, 24 * time.Millisecond, 32 * time.Millisecond,
	48 * time.Millisecond, 64 * time.Millisecond, 96 * time.Millisecond, 128 * time.Millisecond, 256 * time.Millisecond,
}

// cutStage withdraws what was staged in part.
func cutStage(s *suite) {
	before := s.names()
	for _, after := range cuts {
		c := s.plan()
		done := s.try(stage, c, after) == nil
		s.expectOf("after Stage was cut", "the old version", c.From, true)
		s.ok(unstage, c)
		s.expect("after Unstage of a Stage that was cut", c, true, false)
		s.noStrays("after Unstage of a Stage that was cut", before)
		s.reverted(c)
		if done {
			break
		}
	}
	s.rotate()
	s.asMany(before)
}

// asMany sees that a rotation leaves as many who can log in as there were.
func (s *suite) asMany(before []string) {
	s.Helper()
	if after := s.names(); len(after) != len(before) {
		s.Fatalf("after a rotation %q can log in; before it was %q", after, before)
	}
}

// cutCalls repeats each call, cut later each time, until it is done; then all is as if it had been made once.
func cutCalls(s *suite) {
	before := s.names()
	for range 2 {
		c := s.plan()
		s.repeat(stage, c, c.From)
		s.expect("after Stage was repeated", c, true, true)
		s.repeat(verify, c, c.From, c.To)
		s.repeat(unstage, c, c.From)
		s.expect("after Unstage was repeated", c, true, false)
		s.noStrays("after Unstage was repeated", before)
		s.reverted(c)

		c = s.plan()
		s.repeat(stage, c, c.From)
		s.ok(verify, c)
		c = s.promoted(c)
		s.repeat(inUse, c, c.From, c.To)
		s.repeat(retire, c, c.To)
		s.expect("after Retire was repeated", c, false, true)
		s.ok(verify, c)
		s.retired(c)
		s.asMany(before)
		before = s.names()
	}
}

// repeat makes a call, cut later each time, and then whole. The versions that stay are valid all the while.
func (s *suite) repeat(x call, c kind.Change, stay ...key.Version) {
	s.Helper()
	for _, after := range cuts {
		err := s.try(x, c, after)
		for _, v := range stay {
			s.expectOf("after "+x.name+" was cut", "a version that it does not concern", v, true)
		}
		if err == nil {
			break
		}
	}
	s.ok(x, c)
}

// callsAtOnce makes each call several times at the same time, as when a leader is replaced that still waits for an answer.
// Some may fail; what is done then is done once, and the call works again.
func callsAtOnce(s *suite) {
	const several = 4
	before := s.names()
	atOnce := func(x call, c kind.Change) {
		var all sync.WaitGroup
		for range several {
			all.Go(func() {
				if err := s.try(x, c, patience); err != nil {
					s.Logf("one of %d calls of %s at once: %v", several, x.name, err)
				}
			})
		}
		all.Wait()
		s.ok(x, c)
	}
	for range 2 {
		c := s.plan()
		atOnce(stage, c)
		atOnce(verify, c)
		s.expect("after Stage several times at once", c, true, true)
		atOnce(unstage, c)
		s.expect("after Unstage several times at once", c, true, false)
		s.noStrays("after Unstage several times at once", before)
		s.reverted(c)
		c = s.plan()
		s.ok(stage, c)
		s.ok(verify, c)
		c = s.promoted(c)
		atOnce(inUse, c)
		atOnce(retire, c)
		s.expect("after Retire several times at once", c, false, true)
		s.retired(c)
		s.asMany(before)
		before = s.names()
	}
}

// wrongAdministrator makes each call with a password that the server refuses: nothing changes, and the right one continues.
func wrongAdministrator(s *suite) {
	right, wrong := s.Connection, s.wrongPassword()
	before := s.names()
	c := s.plan()
	c.Connection = wrong
	s.fails(stage, c, "with a wrong administrator password")
	s.fails(unstage, c, "with a wrong administrator password")
	s.expect("after Stage with a wrong administrator password", c, true, false)
	s.noStrays("after Stage with a wrong administrator password", before)

	c.Connection = right
	s.ok(stage, c)
	staged := s.names()
	c = s.promoted(c)
	c.Connection = wrong
	for _, x := range []call{inUse, retire, unstage} {
		s.fails(x, c, "with a wrong administrator password")
		s.expect("after "+x.name+" with a wrong administrator password", c, true, true)
		s.noStrays("after "+x.name+" with a wrong administrator password", staged)
	}

	c.Connection = right
	s.ok(verify, c)
	s.ok(retire, c)
	s.expect("after Retire with the right password again", c, false, true)
}

// wrongPassword is the connection as an operator might write it by mistake.
func (s *suite) wrongPassword() kind.Connection {
	s.Helper()
	wrong := s.Connection
	wrong.Secrets = maps.Clone(wrong.Secrets)
	wrong.Secrets[kind.FieldPassword] = key.NewValue("wrong/p:a@s%s?w#o r\"d'9Zk4")
	wrong.Next = key.Value{}
	wrong.Revision++
	s.secrets.add(s, wrong.Secrets[kind.FieldPassword])
	return wrong
}

// serverDown makes each call while nobody listens, and again when somebody does. The Kind is the same one.
func serverDown(s *suite) {
	const down, up = "while the server is down", "after the server has come back"
	before := s.names()
	c := s.plan()
	s.whileDown(func() { s.fails(stage, c, down) })
	s.ok(stage, c)
	s.expect(up, c, true, true)
	s.whileDown(func() {
		for _, x := range []call{verify, inUse, unstage} {
			s.fails(x, c, down)
		}
	})
	s.ok(verify, c)
	s.ok(inUse, c)
	s.expect(up, c, true, true)
	s.whileDown(func() { s.fails(unstage, c, down) })
	s.ok(unstage, c)
	s.expect(up, c, true, false)
	s.noStrays(up, before)
	s.reverted(c)

	c = s.plan()
	s.ok(stage, c)
	s.ok(verify, c)
	c = s.promoted(c)
	s.whileDown(func() { s.fails(retire, c, down) })
	s.expect(up, c, true, true)
	s.whileDown(func() {})
	s.ok(retire, c)
	s.expect(up, c, false, true)
	s.retired(c)
	s.whileDown(func() {})
	s.rotate()
}

// whileDown does something while the server is down.
func (s *suite) whileDown(do func()) {
	s.Helper()
	s.Stop(s)
	defer s.Start(s) // also after a Fatal: others may share the server
	do()
}

// serverHangs makes each call while the server answers nothing: only the context ends it.
func serverHangs(s *suite) {
	before := s.names()
	c := s.plan()
	for _, x := range []call{stage, verify, inUse, retire, unstage} {
		s.whileFrozen(func() {
			if s.try(x, c, hanging) == nil {
				s.Errorf("%s succeeds while the server answers nothing", x.name)
			}
		})
		s.ok(unstage, c) // the server may execute the statements that it has received when it continues
		s.noStrays("after "+x.name+" of a server that hung", before)
	}
}

func (s *suite) whileFrozen(do func()) {
	s.Helper()
	defer s.Freeze(s)()
	do()
}

func verifyWhileDown(s *suite) {
	verifier, _ := s.Kind.(kind.Verifier)
	c := s.plan()
	c.To.Value = s.First
	try := func(limit time.Duration) error {
		return s.within(limit, "Verify", func(ctx context.Context) error { return verifier.Verify(ctx, c) })
	}
	for range 2 {
		if err := try(patience); err != nil {
			s.Fatalf("Verify: %v", err)
		}
		s.whileDown(func() {
			if try(failing) == nil {
				s.Error("Verify succeeds while the server is down")
			}
		})
	}
	if err := try(patience); err != nil {
		s.Fatalf("Verify after the server has come back: %v", err)
	}
}
