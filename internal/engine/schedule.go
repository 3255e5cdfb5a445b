// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

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

// startTried starts a key's automatic rotation when its witness was tried, in the background.
func (l *locked) startTried(name string, tries []witnessTry, now time.Time) {
	l.trying[name] = true
	l.plan(name, now)
	l.background(func(e *Engine) {
		faults := e.try(e.ctx, tries)
		l, release := e.acquire()
		defer release()
		defer l.nudge()
		delete(l.trying, name)
		if l.failing() {
			return
		}
		now := l.Now()
		if at := l.plannedAt(l.Keys[name], now); at.IsZero() || at.After(now) || l.rotating[name] != "" { // changed meanwhile
			l.plan(name, now)
			return
		}
		if len(faults) > 0 {
			l.startFailed(name, rotation.Refusef("%s", strings.Join(summed(faults), "; ")), now)
			return
		}
		if err := l.startNow(l.ctx, name, now); err != nil {
			l.Observer.Fault("automatic rotation of key "+name+" could not be stored", err)
		}
	})
}

// lapseDue erases what has been retained for long enough, retires undeleted versions whose time is over, and returns how
// long until the next one.
func (l *locked) lapseDue(ctx context.Context, now time.Time) time.Duration {
	now = l.steady(now)
	for {
		first, ok := l.lapses.Next()
		if !ok {
			return tickEvery
		}
		if left := first.At.Sub(now); left > 0 {
			return min(tickEvery, left)
		}
		if err := l.lapseOne(ctx, first.Key, now); err != nil {
			l.Observer.Fault("the end of a version of key "+first.Key, err)
			return tickEvery
		}
	}
}

// lapseOne ends what is due of a key, first what has waited longest: one version of it at a time is at the server. The error is
// one of storage.
func (l *locked) lapseOne(ctx context.Context, name string, now time.Time) error {
	k := l.Keys[name]
	due := slices.DeleteFunc(slices.Clone(k.Versions), func(v key.Version) bool {
		at := l.lapse(k, v)
		return at.IsZero() || at.After(now)
	})
	slices.SortStableFunc(due, func(a, b key.Version) int { return l.lapse(k, a).Compare(l.lapse(k, b)) })
	for _, v := range due {
		k = l.Keys[name]
		if v.State == key.Undeleted {
			if err := l.endUndeleted(ctx, k, v); err != nil {
				return err
			}
			continue
		}
		text := fmt.Sprintf("erased version %d of %s, retained until %s", v.Number, name, rotation.Stamp(v.Until))
		if err := l.eraseVersion(ctx, k, v, text, rotation.Itself, ""); err != nil {
			return err
		}
	}
	l.planLapse(name)
	return nil
}

// startFollowing starts rotations that follow, and returns how long until the next one may start.
func (l *locked) startFollowing(ctx context.Context, now time.Time) time.Duration {
	wait := tickEvery
	for _, id := range slices.Sorted(maps.Keys(l.following)) {
		if left := l.following[id].fault.Next.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		if err := l.followOne(ctx, l.following[id], now); err != nil {
			l.Observer.Fault("rotation "+id+", which follows "+l.following[id].Follows, err)
			return tickEvery
		}
	}
	return wait
}

// followOne starts a rotation that follows, or notes why it cannot. The error is one of storage.
func (l *locked) followOne(ctx context.Context, n following, now time.Time) error {
	if _, running := l.active[n.ID]; running { // the process died before the intent was removed
		return l.dropFollowing(ctx, n.ID)
	}
	if data, err := l.Store.Get(ctx, pathRotations+n.ID); err != nil {
		return fmt.Errorf("reading rotation %s: %w", n.ID, err)
	} else if data != nil {
		return l.dropFollowing(ctx, n.ID)
	}
	for _, name := range n.Keys {
		if _, ok := l.Keys[name]; !ok {
			return l.replaced(ctx, n, []string{name}, "the key was deleted")
		}
		if id := l.rotating[name]; id != "" {
			return l.replaced(ctx, n, l.active[id].KeyNames(), "rotation "+id+" replaces the version")
		}
	}
	if _, err := l.start(ctx, n.request()); err == nil {
		l.nudge()
		return nil
	} else if l.failing() {
		return err
	} else {
		l.Observer.Fault("rotation "+n.ID+", which follows "+n.Follows+", could not start", err)
		n.fault = schedule.Fault{Attempts: n.fault.Attempts + 1, Next: now.Add(schedule.Backoff(n.fault.Attempts + 1)), Reason: err.Error()}
		l.lock(func(m *memory) { m.following[n.ID] = n })
	}
	return nil
}

// request asks for a rotation that follows. The user who has escalated the other one is its user.
func (n following) request() Request {
	request := Request{
		id: n.ID, follows: n.Follows, Keys: n.Keys, Reason: n.Reason, By: rotation.Actor{Name: n.By, Entity: n.Entity}, Trigger: rotation.ByOperator,
		Compromised: n.Compromised, Deadline: n.Deadline, Upgrade: n.Upgrade, Retain: n.Retain,
	}
	if n.ConfirmBy == rotation.ConfirmByOther {
		request.ConfirmBy = n.ConfirmBy
	}
	if n.Compromised {
		return request
	}
	request.OnFailure = n.OnFailure
	if n.Confirm {
		request.Confirm = rotation.ConfirmManual
	}
	return request
}
