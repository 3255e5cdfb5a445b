// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

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
