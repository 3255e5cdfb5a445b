// SPDX-License-Identifier: Apache-2.0

package machine

import "time"

// cond is a condition on the state before an event, and on the event. Its name stands in docs/agent.md.
type cond struct {
	name  string
	holds func(s State, e Event) bool
}

var always = cond{"", func(State, Event) bool { return true }}

// and returns the condition that both hold.
func (c cond) and(d cond) cond {
	return cond{c.name + ", " + d.name, func(s State, e Event) bool { return c.holds(s, e) && d.holds(s, e) }}
}

const (
	settleFor   = 2 * time.Second        // for a workload to prove itself before anything is reported
	settlePause = 50 * time.Millisecond  // between checks meanwhile
	provePause  = 250 * time.Millisecond // between checks until one passes
)

var (
	another    = cond{"of another instance", func(s State, _ Event) bool { return s.Life == Arriving }}
	hasLease   = cond{"a bundle was read", func(s State, _ Event) bool { return s.Holds() }}
	notProved  = cond{"it never proved itself", func(s State, _ Event) bool { return s.Loaded == "" || s.Verdict != Healthy }}
	hasContent = cond{"there is a bundle or a copy", func(s State, _ Event) bool { return s.HasContent() }}

	fixed      = cond{"it cannot be renewed", func(s State, _ Event) bool { return s.Renewal == Fixed }}
	tooShort   = cond{"for less than half its time", func(s State, e Event) bool { return e.TTL < s.TTL/2 }}
	renewing   = cond{"of the token's renewal", func(_ State, e Event) bool { return e.Of == RenewToken }}
	littleLeft = cond{"little of it is left", func(s State, e Event) bool { return s.Ends-e.At < s.TTL/6 }}
	noSession  = cond{"of a login", func(_ State, e Event) bool { return e.Of == Login }}

	copyDue = cond{"the copy may be used", func(s State, e Event) bool {
		return s.Settings.Copies == WithCopy && !s.HasContent() && e.At-s.Begun >= s.Settings.Patience
	}}
	onHand = cond{"the files hold its content", func(s State, e Event) bool {
		return s.Files == FilesWritten && e.Held.Content == s.Filed
	}}
	outdated = cond{"another bundle is due, or the lease stays due", func(s State, e Event) bool {
		return e.Etag != s.Held.Etag || s.Lease == LeaseDue && e.Lease <= 0
	}}
	extends = cond{"it extends the lease", func(_ State, e Event) bool { return e.Lease > 0 }}

	written     = cond{"files are written", func(s State, _ Event) bool { return s.Files == FilesWritten }}
	leaves      = cond{"a reload is pending", func(_ State, e Event) bool { return e.Reload == ReloadPending }}
	reloadless  = cond{"nothing reloads it", func(_ State, e Event) bool { return e.Settings.Reloads == WithoutReload }}
	settled     = cond{"no file or reload is faulty", func(s State, _ Event) bool { return s.Files == FilesWritten && s.Reload != ReloadFaulty }}
	checkNeeded = cond{"there is more to check", func(s State, _ Event) bool { return s.Settings.Checks == WithChecks || s.Reload == ReloadPending }}
	looks       = cond{"there are destinations", func(_ State, e Event) bool { return e.Settings.LookEvery > 0 }}

	enough = cond{"often enough in a row", func(s State, _ Event) bool {
		return s.Good+1 >= s.Settings.Successes || s.Settings.Checks == WithoutChecks
	}}
	isNews   = cond{"that is news", func(s State, _ Event) bool { return s.Verdict != Healthy || s.Load != Loaded }}
	timeLeft = cond{"before the deadline of a change", func(s State, e Event) bool { return s.Load != Loaded && e.At < s.ProveBy }}
	tolerant = cond{"fewer than failures in a row", func(s State, _ Event) bool {
		return s.Load == Loaded && s.Verdict == Healthy && s.Bad+1 < s.Settings.Failures
	}}
	sameReason  = cond{"for the same reason", func(s State, e Event) bool { return s.Verdict == Unhealthy && s.Reason == e.Reason }}
	timeToCheck = cond{"there is time for another check", func(s State, e Event) bool { return e.At+pauseAfter(s, e) <= s.SettleBy }}
	pressing    = cond{"that is a verdict", func(s State, e Event) bool {
		return !timeLeft.holds(s, e) && !tolerant.holds(s, e)
	}}
	otherVerdict = cond{"that is another verdict", func(s State, e Event) bool { return pressing.holds(s, e) && !sameReason.holds(s, e) }}
	otherReason  = cond{"that is another reason", func(s State, e Event) bool { return !sameReason.holds(s, e) }}
)

// pauseAfter is the pause between two checks of a workload that settles: a check that has passed is not alone in its interval.
func pauseAfter(s State, e Event) time.Duration {
	if e.Kind == CheckPassed {
		return s.Settings.Interval
	}
	return settlePause
}
