// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

const (
	// lookEvery is how often servers are looked at for use of an old version while the end of its window is not near.
	lookEvery = time.Second
	// denseSlice is the length of one dense sample. A longer one would hold an administrator's session for longer.
	denseSlice = time.Second
)

// sample takes the next sample of a rotation's servers in the background, if one is due.
func (l *locked) sample(r rotation.Rotation) {
	if !r.Samples() || l.busy[r.ID] {
		return
	}
	f := l.facts(r)
	if !f.Sampled {
		return
	}
	dense := r.WantsDense(f)
	if o := f.Observed; !dense && !o.Until.IsZero() && f.Now.Sub(o.Until) < lookEvery && !f.Now.Before(o.Until) {
		return
	}
	calls, err := l.serverCalls(r, rotation.ActSample)
	if err != nil || len(calls) == 0 {
		l.observe(r.ID, func(o rotation.Observation) rotation.Observation {
			return rotation.Observation{Until: f.Now, Since: f.Now, Fault: untrusted.Text(fmt.Sprint(err))}
		})
		return
	}
	l.busy[r.ID] = true
	l.background(func(e *Engine) {
		e.observeWith(r, calls, dense)
		l, release := e.acquire()
		defer release()
		defer l.nudge()
		delete(l.busy, r.ID)
		if l.failing() {
			return
		}
		if err := l.advance(l.ctx, r.ID); err != nil {
			l.Observer.Fault("rotation "+r.ID+" could not be moved on", err)
		}
	})
}

// observeWith takes one sample, or dense ones until they are enough, or one has seen somebody.
func (s *state) observeWith(r rotation.Rotation, calls []serverCall, dense bool) {
	for {
		slice := time.Duration(0)
		if dense {
			slice = denseSlice
		}
		begin := s.Now()
		err := s.sampleAll(calls, slice)
		end := s.Now()
		var use inUse
		var short kind.Unattributed
		o := s.observe(r.ID, func(o rotation.Observation) rotation.Observation {
			switch {
			case errors.As(err, &use):
				return o.Used(end, untrusted.Text(use.text))
			case errors.As(err, &short):
				o = o.Unused(begin, end, slice)
				o.Short = untrusted.Text(short.Error())
				return o
			case err != nil:
				return rotation.Observation{Since: end, Until: end, Seen: o.Seen, Use: o.Use, Fault: untrusted.Text(err.Error())}
			}
			return o.Unused(begin, end, slice)
		})
		_, enough := r.Needs(o)
		if !dense || o.Fault != "" || o.Until.Equal(o.Seen) || s.ctx.Err() != nil || o.Dense == 0 || o.Dense >= enough || end.Sub(begin) < slice/2 || !s.still(r) {
			return
		}
	}
}

// still reports whether a rotation is where it was, and not paused.
func (s *state) still(r rotation.Rotation) bool {
	m, unlock := s.memory.Lock()
	defer unlock()
	now, ok := m.active[r.ID]
	return ok && now.State == r.State && now.Paused == nil
}

// observe replaces what is known of the use of a rotation's old versions, and returns it.
func (s *state) observe(id string, change func(rotation.Observation) rotation.Observation) (o rotation.Observation) {
	s.lock(func(m *memory) {
		o = change(m.observed[id])
		m.observed[id] = o
	})
	return o
}

// sampleAll samples the servers of several keys at the same time. Its error is of all of them.
func (s *state) sampleAll(calls []serverCall, long time.Duration) error {
	ctx, cancel := context.WithTimeout(s.ctx, actionDeadline)
	defer cancel()
	errs := make([]error, len(calls))
	var busy sync.WaitGroup
	for n, call := range calls {
		if long == 0 { // it takes a moment only
			errs[n] = call(ctx, 0)
			continue
		}
		busy.Go(func() { errs[n] = call(ctx, long) })
	}
	busy.Wait()
	var seen []string
	var short error
	for _, err := range errs {
		if use := (inUse{}); errors.As(err, &use) {
			seen = append(seen, use.text)
		} else if errors.As(err, new(kind.Unattributed)) {
			short = err
		} else if err != nil {
			return err
		}
	}
	if len(seen) > 0 {
		return inUse{strings.Join(seen, "; ")}
	}
	return short
}

// unused returns an error while the server says that From is in use, at once or at any moment for that long.
func unused(ctx context.Context, server kind.Server, c kind.Change, long time.Duration) error {
	count, use, err := untrusted.InUse(ctx, server, c, long)
	if count > 0 && errors.As(err, new(kind.Unattributed)) {
		err = nil
	}
	if err == nil && count > 0 {
		err = inUse{fmt.Sprintf("%s: version %d is in use: %s", c.Key.Env, c.From.Number, use)}
	}
	return err
}

// unusedStill is unused once more, right before a version is taken away. Logins that are too short to see whose they were do
// not hold that up: the samples that opened the way have taken them into account.
func unusedStill(ctx context.Context, server kind.Server, c kind.Change, long time.Duration) error {
	err := unused(ctx, server, c, long)
	if errors.As(err, new(kind.Unattributed)) {
		return nil
	}
	return err
}
