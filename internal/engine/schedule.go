// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Limits of what a policy may say.
const (
	// MinPeriod is the shortest rotation_period: below it a rotation would begin before the last one can have ended.
	MinPeriod = 10 * time.Second
	// MinWindow is the shortest rotation_window: a restart of Vault must fit in.
	MinWindow = time.Minute
)

// Retries: exponential, with a cap. What has failed orphanAfter times in a row is an orphan: nobody can be expected to
// mend it by waiting, so that status says so, and retries are rare.
const (
	retryFirst  = time.Second
	retryMost   = 5 * time.Minute
	orphanAfter = 12 // after some 20 minutes
	orphanRetry = time.Hour
)

func backoff(attempts int) time.Duration {
	if attempts >= orphanAfter {
		return orphanRetry
	}
	return min(retryFirst<<min(attempts-1, 16), retryMost)
}

// cronForm is the field's usual five fields; CRON_TZ=Area/City before them sets the zone, which is UTC otherwise.
var cronForm = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// parseSchedule refuses what is no schedule, and what never comes.
func parseSchedule(text string, now time.Time) (cron.Schedule, error) {
	if strings.HasPrefix(text, "@every") {
		return nil, fmt.Errorf("rotation_schedule %q: use rotation_period for that", text)
	}
	schedule, err := cronForm.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("rotation_schedule %q is not a cron expression of five fields, such as \"0 3 * * SUN\" or \"CRON_TZ=Europe/Berlin 0 3 * * SUN\": %w", text, err)
	}
	if schedule.Next(now.UTC()).IsZero() {
		return nil, fmt.Errorf("rotation_schedule %q never comes in the next five years; look at its day and month", text)
	}
	return schedule, nil
}

// checkAutomation names what is wrong with when a key is to rotate by itself.
func checkAutomation(p key.Policy, now time.Time) error {
	switch {
	case p.Period != 0 && p.Schedule != "":
		return errors.New("rotation_period and rotation_schedule exclude each other; set one of them to 0 or \"\"")
	case p.Period != 0 && p.Period < MinPeriod:
		return fmt.Errorf("rotation_period %s is too short; use at least %s, or 0 to rotate only when asked", p.Period, MinPeriod)
	case p.Window != 0 && p.Schedule == "":
		return errors.New("rotation_window needs a rotation_schedule that opens it; set one, or set rotation_window=0")
	case p.Window != 0 && p.Window < MinWindow:
		return fmt.Errorf("rotation_window %s is too short; use at least %s, or 0 for none", p.Window, MinWindow)
	}
	if p.Schedule != "" {
		if _, err := parseSchedule(p.Schedule, now); err != nil {
			return err
		}
	}
	return nil
}

// Jitter, so that keys made together do not rotate together: up to a share of the period, or of the window.
const (
	jitterShare = 20
	jitterMost  = 10 * time.Minute
	// spread is over how long those are started that came due while the engine was away.
	spread = time.Minute
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

func part(d time.Duration, share float64) time.Duration { return time.Duration(float64(d) * share) }

// due is when a key rotates by itself, zero where it does not. A version is leased for its period: it rotates before the
// end, by up to a twentieth of it. A time of the schedule that was missed counts as long as its window is open, or for
// ever where it has none.
func (e *Engine) due(k key.Key, now time.Time) time.Time {
	current, ok := k.Current()
	switch {
	case !ok || k.Policy.Disabled:
		return time.Time{}
	case k.Policy.Period > 0:
		most := min(k.Policy.Period/jitterShare, jitterMost)
		return current.Created.Add(k.Policy.Period - part(most, e.share(k, "period")))
	case k.Policy.Schedule == "":
		return time.Time{}
	}
	schedule, err := parseSchedule(k.Policy.Schedule, current.Created)
	if err != nil {
		return time.Time{} // refused on write
	}
	after := current.Created
	if window := k.Policy.Window; window > 0 && now.Add(-window).After(after) {
		after = now.Add(-window)
	}
	at := schedule.Next(after.UTC())
	if at.IsZero() {
		return at
	}
	return at.Add(part(min(k.Policy.Window/jitterShare, jitterMost), e.share(k, "schedule")))
}

// never is the time of what is not planned.
var never time.Time

// startFault is an automatic rotation that could not start.
type startFault struct {
	attempts int
	next     time.Time
	reason   string
}

func (f startFault) orphan() bool { return f.attempts >= orphanAfter }

// start is a time at which a key may be due.
type start struct {
	at  time.Time
	key string
}

// agenda is the starts to come, the soonest first. An entry that is not that of starts[key] any more is void.
type agenda struct {
	heap  []start
	times map[string]time.Time // by key
}

func (a *agenda) Len() int           { return len(a.heap) }
func (a *agenda) Less(i, j int) bool { return a.heap[i].at.Before(a.heap[j].at) }
func (a *agenda) Swap(i, j int)      { a.heap[i], a.heap[j] = a.heap[j], a.heap[i] }
func (a *agenda) Push(x any)         { a.heap = append(a.heap, x.(start)) }

func (a *agenda) Pop() any {
	last := a.heap[len(a.heap)-1]
	a.heap = a.heap[:len(a.heap)-1]
	return last
}

// set replaces what is planned of a key; zero: nothing.
func (a *agenda) set(name string, at time.Time) {
	if at.IsZero() {
		delete(a.times, name)
		return
	}
	if a.times[name].Equal(at) {
		return
	}
	a.times[name] = at
	heap.Push(a, start{at, name})
}

// next gives the soonest start that counts.
func (a *agenda) next() (start, bool) {
	for len(a.heap) > 0 {
		first := a.heap[0]
		if at, ok := a.times[first.key]; ok && at.Equal(first.at) {
			return first, true
		}
		heap.Pop(a)
	}
	return start{}, false
}

// plan puts a key on the agenda. turn is held.
func (e *Engine) plan(name string, now time.Time) {
	var at time.Time
	if k, ok := e.keys[name]; ok && e.rotating[name] == "" && !e.trying[name] {
		at = e.plannedAt(k, now)
	}
	e.lock(func() { e.agenda.set(name, at) })
	e.planLapse(name)
	e.planCheck(checksKey+name, now)
}

// plannedAt is due, but for what failed before, and for what came due while the engine was away: that is spread, so that
// a restart is no storm.
func (e *Engine) plannedAt(k key.Key, now time.Time) time.Time {
	at := e.due(k, now)
	if at.IsZero() {
		return at
	}
	if at.Before(e.opened) {
		at = e.opened.Add(part(spread, e.share(k, "spread")))
	}
	if fault := e.starts[k.Name]; fault.next.After(at) {
		at = fault.next
	}
	return at
}

// startDue starts the rotations whose time has come, and gives how long until the next one. turn is held.
func (e *Engine) startDue(ctx context.Context, now time.Time) time.Duration {
	for {
		first, ok := e.agenda.next()
		if !ok {
			return tickEvery
		}
		if left := first.at.Sub(now); left > 0 {
			return min(tickEvery, left)
		}
		if err := e.startOne(ctx, first.key, now); err != nil {
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
	fault := e.starts[name]
	fault.attempts++
	fault.next, fault.reason = now.Add(backoff(fault.attempts)), err.Error()
	e.lock(func() { e.starts[name] = fault })
	e.plan(name, now)
}

// remaining is how long a lease on a key's current version may last: to its end, and without limit where it has none. A
// version that is overdue has no life left to go by: its rotation will refuse the renewal. mu is held.
func (e *Engine) remaining(k key.Key, now time.Time) (time.Duration, bool) {
	end := e.agenda.times[k.Name]
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
