// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"fmt"
	"math"
	"syscall"
	"time"
)

// Prometheus is a gate on a counter of the workload: it must not grow by more than MaxIncrease within Window after a change.
// What it was before the change does not count; a counter that is set back, as a restart does, and a series that was not
// there before, count from 0.
//
// While the window lasts, the workload is well. Once the counter has grown too much it is not, until it has grown by no
// more than MaxIncrease within a whole window again: so a rotation that waits for a soak time waits on.
type Prometheus struct {
	Metrics
	MaxIncrease float64
	Window      time.Duration
	Path        string // where it is kept over restarts of the sidecar; empty: nowhere
	Warn        func(err error)

	kept     watched
	recalled bool
	now      func() time.Time // nil: time.Now
}

// watched is what is kept.
type watched struct {
	Change string             `json:"change"`
	Since  time.Time          `json:"since"`  // when the window began
	Based  bool               `json:"based"`  // Last is of before
	Last   map[string]float64 `json:"last"`   // by labels
	Born   float64            `json:"born"`   // of the process that Last is of
	Grown  float64            `json:"grown"`  // since the window began
	Failed string             `json:"failed"` // why the workload is unhealthy
	Over   bool               `json:"over"`   // the window has ended, and the workload is healthy
	Known  bool               `json:"known"`  // the metric was there at least once
}

var (
	_ Checker = (*Prometheus)(nil)
	_ Gate    = (*Prometheus)(nil)
)

func (p *Prometheus) time() time.Time {
	if p.now != nil {
		return p.now()
	}
	return time.Now()
}

func (p *Prometheus) recall() {
	if p.recalled {
		return
	}
	p.recalled = true
	if err := recall(p.Path, &p.kept); err != nil {
		p.kept = watched{}
		p.Warn(err)
	}
	if now := p.time(); p.kept.Since.After(now) { // the clock was set back
		p.kept.Since = now
	}
}

// Begin implements Gate: it takes what the counter is before the change, and the window begins. That is kept before the
// change is made, so that killed anywhere, the sidecar knows it at its next start.
func (p *Prometheus) Begin(ctx context.Context, change string) error {
	p.recall()
	if p.kept.Change == change {
		return nil
	}
	next := watched{Change: change, Last: map[string]float64{}}
	s, err := p.read(ctx)
	switch {
	case err == nil:
		next.Based, next.Last, next.Born, next.Known = true, s.series, s.born, s.known
	case errors.Is(err, syscall.ECONNREFUSED):
		next.Based, err = true, nil // it does not run, and will count from 0
	default:
		err = fmt.Errorf("health check: %s before the change is not known, and what it is at the next look takes its place: %w", &p.Metrics, err)
	}
	next.Since = p.time()
	p.kept = next
	return several{err, keep(p.Path, p.kept)}.orNil()
}

// Check implements Checker.
func (p *Prometheus) Check(ctx context.Context, _ string) error {
	p.recall()
	if p.kept.Over {
		return nil
	}
	ended := !p.kept.Since.IsZero() && p.time().Sub(p.kept.Since) >= p.Window // before it is looked: what comes later does not count
	s, err := p.read(ctx)
	if err != nil && p.kept.Failed != "" {
		return proof{errors.New(p.kept.Failed)}
	}
	if err != nil {
		return fmt.Errorf("health check: %s: %w", &p.Metrics, err)
	}
	changed := p.grow(s)
	switch {
	case p.kept.Grown > p.MaxIncrease:
		p.fail()
		changed = true
	case ended:
		p.end()
		changed = true
	}
	if changed {
		if err := keep(p.Path, p.kept); err != nil {
			p.Warn(err)
		}
	}
	if p.kept.Failed != "" {
		return proof{errors.New(p.kept.Failed)}
	}
	return nil
}

// grow adds what has come since the last look. It reports whether there is something to keep.
func (p *Prometheus) grow(s sample) (changed bool) {
	k := &p.kept
	if k.Since.IsZero() {
		k.Since = p.time()
	}
	k.Known = k.Known || s.known
	if !k.Based {
		k.Based, k.Last, k.Born = true, s.series, s.born
		return true
	}
	// A process that tells when it was started counts from 0, however far it has come since.
	another := k.Born != 0 && s.born != 0 && math.Abs(s.born-k.Born) > 1
	for series, v := range s.series {
		last := k.Last[series]
		if another || v < last {
			last = 0
		}
		if v != last {
			k.Grown += v - last
			changed = true
		}
	}
	changed = changed || another || len(s.series) != len(k.Last)
	k.Last, k.Born = s.series, s.born
	return changed
}

// fail notes that the counter has grown too much, and begins another window. The words stay those of the first time, so
// that it is reported once.
func (p *Prometheus) fail() {
	k, now := &p.kept, p.time()
	if k.Failed == "" {
		took := max(now.Sub(k.Since).Round(time.Second), time.Second)
		k.Failed = fmt.Sprintf("health check: %s has grown by %g in the %s after the change, and max_increase is %g", &p.Metrics, k.Grown, took, p.MaxIncrease)
	}
	k.Grown, k.Since = 0, now
}

// end notes that a window has passed without that.
func (p *Prometheus) end() {
	p.kept.Failed, p.kept.Over = "", true
	if !p.kept.Known {
		p.Warn(fmt.Errorf("health check: %s never was there, so that it proves nothing; look at its name", p.Metric))
	}
}
