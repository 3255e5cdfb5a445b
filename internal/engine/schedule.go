// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"strconv"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// share is a number from 0 to 1 that differs between keys and versions. It is derived, not drawn, so that a restart
// changes nothing.
func (e *Engine) share(k key.Key, purpose string) float64 {
	current, _ := k.Current()
	n, err := strconv.ParseUint(e.fingerprints.Sum("jitter", purpose, k.Name, strconv.Itoa(current.Number))[:8], 16, 32)
	if err != nil {
		return 0
	}
	return float64(n) / (1 << 32)
}

// never is the time of what is not planned.
var never time.Time

// plan puts a key on the agenda. turn is held.
func (e *Engine) plan(name string, now time.Time) {
	var at time.Time
	if k, ok := e.keys[name]; ok && e.rotating[name] == "" && !e.trying[name] {
		at = e.plannedAt(k, now)
	}
	e.lock(func() { e.agenda.Set(name, at) })
	e.planLapse(name)
	e.planCheck(checksKey+name, now)
}

// plannedAt is due, but for what failed before, and for what came due while the engine was away: that is spread, so that
// a restart is no storm.
func (e *Engine) plannedAt(k key.Key, now time.Time) time.Time {
	at := schedule.Due(k, now, e.share)
	if at.IsZero() {
		return at
	}
	if at.Before(e.opened) {
		at = e.opened.Add(schedule.SpreadOver(schedule.Spread, e.share(k, "spread")))
	}
	if fault := e.starts[k.Name]; fault.Next.After(at) {
		at = fault.Next
	}
	return at
}

// startDue starts the rotations whose time has come, and gives how long until the next one. turn is held.
func (e *Engine) startDue(ctx context.Context, now time.Time) time.Duration {
	for {
		first, ok := e.agenda.Next()
		if !ok {
			return tickEvery
		}
		if left := first.At.Sub(now); left > 0 {
			return min(tickEvery, left)
		}
		if err := e.startOne(ctx, first.Key, now); err != nil {
			return tickEvery
		}
	}
}

// startOne starts a key's automatic rotation. A refusal is noted and tried again later; the error is one of storage.
func (e *Engine) startOne(ctx context.Context, name string, now time.Time) error {
	k := e.keys[name]
	if e.rotating[name] != "" || e.plannedAt(k, now).After(now) { // a window has closed meanwhile
		e.plan(name, now)
		return nil
	}
	if tries := e.witnessTries([]string{name}); len(tries) > 0 {
		e.startTried(name, tries, now)
		return nil
	}
	return e.startNow(ctx, name, now)
}

// startNow starts a key's automatic rotation, or notes why it cannot. The error is one of storage. turn is held.
func (e *Engine) startNow(ctx context.Context, name string, now time.Time) error {
	k := e.keys[name]
	request := Request{Keys: []string{name}, Trigger: rotation.ByPeriod, Reason: "rotation_period is over", By: rotation.Itself}
	if k.Policy.Schedule != "" {
		request.Trigger, request.Reason = rotation.BySchedule, "a time of rotation_schedule has come"
	}
	_, err := e.start(ctx, request)
	if err == nil {
		return nil
	}
	if e.failing() {
		e.Observer.Fault("automatic rotation of key "+name+" could not start", err)
		return err
	}
	e.startFailed(name, err, now)
	return nil
}

// startFailed notes why a key's automatic rotation could not start, and plans another try. turn is held.
func (e *Engine) startFailed(name string, err error, now time.Time) {
	e.Observer.Fault("automatic rotation of key "+name+" could not start", err)
	attempts := e.starts[name].Attempts + 1
	fault := schedule.Fault{Attempts: attempts, Next: now.Add(schedule.Backoff(attempts)), Reason: err.Error()}
	e.lock(func() { e.starts[name] = fault })
	e.plan(name, now)
}

// remaining is how long a lease on a key's current version may last: to its end, and without limit where it has none. A
// version that is overdue has no life left to go by: its rotation will refuse the renewal. mu is held.
func (e *Engine) remaining(k key.Key, now time.Time) (time.Duration, bool) {
	end := e.agenda.At(k.Name)
	if k.Policy.Period > 0 && !k.Policy.Disabled {
		if current, ok := k.Current(); ok {
			end = current.Created.Add(k.Policy.Period)
		}
	}
	if left := end.Sub(now); !end.IsZero() && left > 0 {
		return left, true
	}
	return 0, false
}
