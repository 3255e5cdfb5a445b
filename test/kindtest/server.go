// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var serverCases = []testCase{
	{"rotation", rotation},
	{"revert", revert},
	{"unstage without stage", unstageWithoutStage},
	{"compromised", compromised},
	{"calls at once", callsAtOnce},
	{"cut stage then unstage", cutStage},
	{"cut calls are repeated", cutCalls},
	{"server down", serverDown},
}

// rounds is how many rotations bring each of two logins that take turns back twice.
const rounds = 4

func rotation(s *suite) {
	before := s.names()
	for range rounds {
		s.rotate()
		s.asMany(before)
	}
}

// rotate is one rotation, each call made twice.
func (s *suite) rotate() {
	s.Helper()
	c := s.plan()
	s.fails(verify, c, "before the new version is staged")
	s.expect("before Stage", c, true, false)
	held := s.use(c.From)
	s.twice(stage, c)
	s.twice(verify, c)
	s.expect("after Stage", c, true, true)
	if !held.Alive() {
		s.Error("Stage ends a session of the old version")
	}
	c = s.promoted(c)
	other, present := s.use(c.From), s.use(c.To)
	if !s.sessionless() {
		if n := s.using(c); n < 2 {
			s.Errorf("InUse counts %d while two sessions use the old version", n)
		}
		other.End()
		s.eventually("a count of one session, after one of two has ended", func() bool { return s.using(c) == 1 })
	}
	held.End()
	s.eventually("a count of no session of the old version, while the new version has one", func() bool { return s.using(c) == 0 })
	s.twice(retire, c)
	s.expect("after Retire", c, false, true)
	if !present.Alive() {
		s.Error("Retire ends a session of the new version")
	}
	present.End()
	s.ok(verify, c)
	if n := s.using(c); n != 0 {
		s.Errorf("InUse counts %d after Retire", n)
	}
	s.retired(c)
}

// hostileUsers rotates while users of the server have written there what they may.
func hostileUsers(s *suite) {
	ran := s.Hostile(s)
	for range 2 {
		s.rotate()
	}
	for _, what := range ran() {
		s.Errorf("what a user of the server has written has run in a session of the kind's: %s", what)
	}
}

// revert goes back from a staged version, before and after workloads present it, and rotates then.
func revert(s *suite) {
	for range rounds {
		for _, present := range []bool{false, true} {
			before := s.names()
			c := s.plan()
			held := s.use(c.From)
			s.ok(stage, c)
			s.ok(verify, c)
			if present {
				c = s.promoted(c)
				used := s.use(c.To)
				if n := s.using(back(c)); n < 1 && !s.sessionless() {
					s.Errorf("InUse counts %d of a new version that a session uses, asked for a revert", n)
				}
				used.End()
				s.eventually("a count of no session of the new version", func() bool { return s.using(back(c)) == 0 })
			}
			s.twice(unstage, c)
			s.expect("after Unstage", c, true, false)
			s.noStrays("after Unstage", before)
			if !held.Alive() {
				s.Error("Unstage ends a session of the old version")
			}
			held.End()
			s.reverted(c)
		}
		s.rotate()
	}
}

func unstageWithoutStage(s *suite) {
	for range 2 {
		before := s.names()
		c := s.plan()
		held := s.use(c.From)
		s.twice(unstage, c)
		s.expect("after Unstage of what was never staged", c, true, false)
		s.noStrays("after Unstage of what was never staged", before)
		if !held.Alive() {
			s.Error("Unstage of what was never staged ends a session of the old version")
		}
		held.End()
		s.reverted(c)
		s.rotate()
	}
}

// compromised is a rotation whose Retire ends what still uses the old version.
func compromised(s *suite) {
	for range 2 {
		c := s.plan()
		c.Cut = true
		stolen := s.use(c.From)
		s.ok(stage, c)
		s.ok(verify, c)
		c = s.promoted(c)
		c.Cut = true
		present := s.use(c.To)
		s.twice(retire, c)
		s.expect("after Retire with Cut", c, false, true)
		if !s.sessionless() {
			s.eventually("an end of the old version's session by Retire with Cut", func() bool { return !stolen.Alive() })
		}
		s.eventually("a count of no session after Retire with Cut", func() bool { return s.using(c) == 0 })
		if !present.Alive() {
			s.Error("Retire with Cut ends a session of the new version")
		}
		present.End()
		s.retired(c)
	}
}

// firstVersion stages one that takes the place of none. It brings a World of its own, whose first version it withdraws.
func firstVersion(s *suite) {
	c := s.change(0, 1)
	s.expect("after Stage of a first version", c, false, true)
	before := s.names()
	s.twice(stage, c)
	s.twice(verify, c)
	s.noStrays("after Stage of a first version again", before)
	s.twice(unstage, c)
	s.expect("after Unstage of a first version", c, false, false)
	if left := s.names(); len(left) != len(before)-1 {
		s.Errorf("after Unstage of a first version %q can log in; with it it was %q", left, before)
	}
	if _, ok := s.Kind.(kind.Issuer); ok {
		return // another value would be made, for another version
	}
	s.twice(stage, c)
	s.expect("after Stage of a first version that was withdrawn", c, false, true)
	s.noStrays("after Stage of a first version that was withdrawn", before)
}

// verifyOnly is what a Verifier keeps that is no Server.
func verifyOnly(s *suite) {
	verifier, _ := s.Kind.(kind.Verifier)
	try := func(c kind.Change) error {
		return s.within(patience, "Verify", func(ctx context.Context) error { return verifier.Verify(ctx, c) })
	}
	c := s.plan()
	for range 2 {
		c.To.Value = s.First
		if err := try(c); err != nil || !s.Valid(s, s.First) {
			s.Fatalf("Verify of First, which should be valid: %v", err)
		}
		c.To.Value = s.Refused
		if try(c) == nil || s.Valid(s, s.Refused) {
			s.Fatal("Verify takes World.Refused, which should not be valid")
		}
	}
	for _, v := range s.Values {
		c.To.Value = v
		if err := try(c); (err == nil) != s.Valid(s, v) {
			s.Errorf("Verify says %v of a value of which the server says valid: %t", err, s.Valid(s, v))
		}
	}
}

// sampleTime is for how long the suite has a kind sample. Its own tests shorten it.
var sampleTime = time.Second

const (
	// visitTime is how long a short session lasts: as long as that of a client that runs one statement.
	visitTime = 20 * time.Millisecond
	// visits is how many short sessions there are, one in each sample.
	visits = 5
	// maxMissed is how many of them may be missed, on a machine that is busy.
	maxMissed = 3
)

// shortSessions has a client of the old version come and go in the middle of a sample.
func shortSessions(s *suite) {
	sampler, ok := s.Kind.(kind.Sampler)
	if !ok {
		s.Fatal("the kind is a Server and no Sampler: a client that logs in for a moment each second is locked out")
	}
	c := s.plan()
	s.ok(stage, c)
	s.ok(verify, c)
	c = s.promoted(c)
	missed := 0
	for range visits {
		if n := s.sampled(sampler, c, s.visit(c)); n < 1 {
			missed++
		}
	}
	if missed > maxMissed {
		s.Errorf("Sample misses %d of %d sessions that were open for 20 ms while it sampled", missed, visits)
	}
	if n := s.sampled(sampler, c, nil); n != 0 {
		s.Errorf("Sample counts %d while nobody uses the old version", n)
	}
	s.twice(retire, c)
	s.retired(c)
}

// visit returns what opens a session of the old version for a moment.
func (s *suite) visit(c kind.Change) func() {
	return func() {
		rest(sampleTime / 3)
		session := s.Use(s, c.From.Value)
		rest(visitTime)
		session.End()
	}
}

// sampled samples while something is done.
func (s *suite) sampled(sampler kind.Sampler, c kind.Change, do func()) (count int) {
	s.Helper()
	var busy sync.WaitGroup
	if do != nil {
		busy.Go(do)
	}
	var what string
	err := s.within(patience, "Sample", func(ctx context.Context) (err error) {
		count, what, err = sampler.Sample(ctx, c, sampleTime)
		return err
	})
	busy.Wait()
	if errors.As(err, new(kind.Unattributed)) {
		err = nil
		if do != nil {
			count = 1 // the kind has noticed the visit
		}
	}
	if err != nil {
		s.Fatalf("Sample: %v", err)
	}
	s.secrets.absentText(s, "what Sample says", what)
	return count
}

// rest waits: what is tested here is what is seen of a moment.
func rest(d time.Duration) { <-time.After(d) }
