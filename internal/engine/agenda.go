// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"maps"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

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

// Before a value is erased, the engine has run for a share of its retention, an hour at most. A clock that is wrong when
// Vault starts can be corrected in this time.
const (
	settleShare = 24
	settleMost  = time.Hour
)

// planLapse puts the next end of a key's versions on the agenda, and forgets what failed of those that have ended.
func (l *locked) planLapse(name string) {
	var next time.Time
	k := l.Keys[name]
	l.lock(func(m *memory) {
		maps.DeleteFunc(m.lapsing, func(of versionID, _ schedule.Fault) bool {
			v, _ := k.Version(of.number)
			return of.key == name && v.State != key.Undeleted
		})
	})
	for _, v := range k.Versions {
		if at := l.lapse(k, v); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	l.lapses.Set(name, next)
}

// lapse returns when the retention of a version ends, or the time for which it is undeleted; zero: never. A rotation retires
// undeleted versions that workloads verify; with those that a server verifies it has nothing to do.
func (l *locked) lapse(k key.Key, v key.Version) time.Time {
	_, served := l.KindOf(k).(kind.Server)
	var end time.Time
	switch {
	case v.State == key.Retained:
		settled := l.opened.Round(0).Add(min(v.Until.Sub(v.Retired)/settleShare, settleMost))
		if settled.After(v.Until) {
			return settled
		}
		return v.Until
	case v.State != key.Undeleted:
		return end
	case v.Ending:
		end = v.Retired // it is over
	case !v.Until.IsZero() && len(k.Protects) == 0 && (served || l.rotating[k.Name] == ""):
		end = v.Until
	default:
		return end
	}
	if again := l.lapsing[versionID{k.Name, v.Number}].Next; again.After(end) {
		return again
	}
	return end
}

// lapseLater notes that an undeleted version could not be retired, and when that is tried again. No fault: it is under way.
func (l *locked) lapseLater(of versionID, fault error) {
	f := l.lapsing[of]
	f.Next = l.steady(l.Now()).Add(2 * actionDeadline)
	if fault != nil {
		f.Attempts = min(f.Attempts+1, schedule.OrphanAfter-1)
		f.Next, f.Reason = l.steady(l.Now()).Add(retryAfter(f.Attempts, fault)), fault.Error()
	}
	l.lock(func(m *memory) { m.lapsing[of] = f })
}

// lapseSoon puts the end of an undeleted version off for a moment: something else is at the server.
func (l *locked) lapseSoon(of versionID) {
	f := l.lapsing[of]
	f.Next = l.steady(l.Now()).Add(tickEvery)
	l.lock(func(m *memory) { m.lapsing[of] = f })
}

// lapseFailed is lapseLater after a call, of a version whose end has come, and reports whether that was decided and can be taken back.
func (e *Engine) lapseFailed(of versionID, fault error) (decided bool) {
	l, release := e.acquire()
	defer release()
	v, _ := l.Keys[of.key].Version(of.number)
	over := !v.Until.IsZero() && !v.Until.After(l.Now())
	if v.State == key.Undeleted && (v.Ending || over) {
		l.lapseLater(of, fault)
		l.planLapse(of.key)
	}
	_, leaked := l.leakedBy(l.Keys[of.key])
	return v.Ending && !leaked
}

// planCheck puts the first check of a key or a connection on the agenda, spread so that a restart is no storm.
func (l *locked) planCheck(of string, now time.Time) {
	every := l.Defaults.LookEvery
	if !l.checks.At(of).IsZero() || every == 0 {
		return
	}
	if name, ok := strings.CutPrefix(of, checksKey); ok {
		if _, ok := l.KindOf(l.Keys[name]).(kind.Inspector); !ok {
			return
		}
	}
	l.checks.Set(of, now.Add(schedule.SpreadOver(every, l.Share(key.Key{Name: of}, "check"))))
}

// checkSoon makes a check of a key due.
func (l *locked) checkSoon(name string, now time.Time) {
	if _, ok := l.KindOf(l.Keys[name]).(kind.Inspector); ok && l.Defaults.LookEvery > 0 {
		l.checks.Set(checksKey+name, now)
	}
}

// planChecks plans the first check of every key and every connection.
func (l *locked) planChecks(now time.Time) {
	l.checks = schedule.NewAgenda()
	for name := range l.Keys {
		l.planCheck(checksKey+name, now)
	}
	for name := range l.Connections {
		l.planCheck(checksConnection+name, now)
	}
}
