// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// never is the time of what is not planned.
var never time.Time

// plan puts a key on the agenda.
func (l *locked) plan(name string, now time.Time) {
	var at time.Time
	if k, ok := l.Keys[name]; ok && l.rotating[name] == "" && !l.trying[name] {
		at = l.plannedAt(k, now)
	}
	l.lock(func(m *memory) { m.agenda.Set(name, at) })
	l.planLapse(name)
	l.planCheck(checksKey+name, now)
}

// plannedAt is due, but for what failed before, and for what came due while the engine was away: that is spread, so that
// a restart is no storm.
func (l *locked) plannedAt(k key.Key, now time.Time) time.Time {
	at := schedule.Due(k, now, l.Share)
	if at.IsZero() {
		return at
	}
	if at.Before(l.opened) {
		at = l.opened.Add(schedule.SpreadOver(schedule.Spread, l.Share(k, "spread")))
	}
	if fault := l.starts[k.Name]; fault.Next.After(at) {
		at = fault.Next
	}
	return at
}

// startDue starts the rotations whose time has come, and returns how long until the next one.
func (l *locked) startDue(ctx context.Context, now time.Time) time.Duration {
	for {
		first, ok := l.agenda.Next()
		if !ok {
			return tickEvery
		}
		if left := first.At.Sub(now); left > 0 {
			return min(tickEvery, left)
		}
		if err := l.startOne(ctx, first.Key, now); err != nil {
			return tickEvery
		}
	}
}

// startOne starts a key's automatic rotation. A refusal is noted and tried again later; the error is one of storage.
func (l *locked) startOne(ctx context.Context, name string, now time.Time) error {
	k := l.Keys[name]
	if l.rotating[name] != "" || l.plannedAt(k, now).After(now) { // a window has closed meanwhile
		l.plan(name, now)
		return nil
	}
	if tries := l.witnessTries([]string{name}); len(tries) > 0 {
		l.startTried(name, tries, now)
		return nil
	}
	return l.startNow(ctx, name, now)
}

// startNow starts a key's automatic rotation, or notes why it cannot. The error is one of storage.
func (l *locked) startNow(ctx context.Context, name string, now time.Time) error {
	k := l.Keys[name]
	request := Request{Keys: []string{name}, Trigger: rotation.ByPeriod, Reason: "rotation_period is over", By: rotation.Itself}
	if k.Policy.Schedule != "" {
		request.Trigger, request.Reason = rotation.BySchedule, "a time of rotation_schedule has come"
	}
	_, err := l.start(ctx, request)
	if err == nil {
		return nil
	}
	if l.failing() {
		l.Observer.Fault("automatic rotation of key "+name+" could not start", err)
		return err
	}
	l.startFailed(name, err, now)
	return nil
}

// startFailed notes why a key's automatic rotation could not start, and plans another try.
func (l *locked) startFailed(name string, err error, now time.Time) {
	l.Observer.Fault("automatic rotation of key "+name+" could not start", err)
	attempts := l.starts[name].Attempts + 1
	fault := schedule.Fault{Attempts: attempts, Next: now.Add(schedule.Backoff(attempts)), Reason: err.Error()}
	l.lock(func(m *memory) { m.starts[name] = fault })
	l.plan(name, now)
}

// remaining is how long a lease on a key's current version may last: to its end, and without limit where it has none. A
// version that is overdue has no life left to go by: its rotation will refuse the renewal.
func (rs *records) remaining(k key.Key, now time.Time) (time.Duration, bool) {
	end := rs.agenda.At(k.Name)
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
