// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"slices"
	"time"
)

// Next is the machine. It returns the state after an event, and the effects to perform in their order, of which at most the
// last has a result in any case; others have one where they fail. Where there is no result, the machine waits for the result
// of the request that is under way, for news or for the timer that [Timers.First] returns.
func Next(s State, e Event) (State, []Effect) {
	next := s
	for t, kind := range elapsed {
		if e.Kind == kind {
			next.Timers[t] = Never
		}
	}
	var effects []Effect
	for _, r := range regions {
		effects = append(effects, r.step(&s, &next, e)...)
	}
	return due(next, e.At, effects)
}

// Begin returns the first effects of a process that starts.
func Begin(s State, at Moment) (State, []Effect) { return due(s, at, nil) }

// due adds the effects that the rules say.
func due(s State, at Moment, effects []Effect) (State, []Effect) {
	for again := true; again; {
		again = false
		for _, r := range rules {
			if !r.when(s) {
				continue
			}
			for _, one := range r.do(s) {
				effects = append(effects, Effect{Do: one})
			}
			if r.then != nil {
				r.then(&s, at)
			}
			again = r.silent
			break
		}
	}
	return s, effects
}

// step takes an event.
func (r region[T]) step(before, next *State, e Event) (effects []Effect) {
	n := r.find(before, e)
	if n < 0 {
		return nil
	}
	row := r.rows[n]
	if row.to != "" {
		*r.of(next) = row.to
	}
	for _, a := range row.do {
		effects = append(effects, a.do(next, e)...)
	}
	return effects
}

// find returns which row counts for an event; -1 where none does.
func (r region[T]) find(s *State, e Event) int {
	at := *r.of(s)
	return slices.IndexFunc(r.rows, func(row row[T]) bool { return row.matches(at, e.Kind) && row.when.holds(*s, e) })
}

func (r row[T]) matches(at T, kind Kind) bool {
	return slices.Contains(r.on, kind) && (len(r.from) == 0 || slices.Contains(r.from, at))
}

// rule says which effects are due. Of all rules the first one whose condition holds counts; after one without a result the
// rules are asked again. Where none holds, the machine waits for an event.
type rule struct {
	name   string
	when   func(s State) bool
	do     func(s State) []Do
	then   func(s *State, at Moment) // what the start of the effects changes
	silent bool                      // no effect has a result
}

func effects(all ...Do) func(State) []Do { return func(State) []Do { return all } }

// ask returns the rule that starts a request to Vault, during which no watch is open.
func ask(name string, when func(s State) bool, one Do, to Request, also ...func(s *State, at Moment)) rule {
	return rule{
		name: name, silent: true,
		when: func(s State) bool { return s.Request == NoRequest && when(s) },
		do: func(s State) []Do {
			if s.Watch == WatchOpen {
				return []Do{CloseWatch, one}
			}
			return []Do{one}
		},
		then: func(s *State, at Moment) {
			s.Watch, s.Request = WatchClosed, to
			for _, do := range also {
				do(s, at)
			}
		},
	}
}

func closeWatch(s *State, _ Moment) { s.Watch = WatchClosed }

// asks reports whether a request may be started. None is while a workload has its short while to prove itself, so that a
// change is one report.
func (s State) asks() bool {
	return s.Request == NoRequest && s.Vault == VaultOpen && s.Load != Settling && s.Life == Running
}

// serves reports whether the newest bundle is known, so that there is something to report and to wait for.
func (s State) serves() bool { return s.asks() && s.Token == TokenValid && s.Bundle == BundleCurrent }

var rules = []rule{
	{
		name: "the process ends, or no request is to be made: close the watch", silent: true,
		when: func(s State) bool { return s.Watch == WatchOpen && (s.Life != Running || s.Vault != VaultOpen) },
		do:   effects(CloseWatch), then: closeWatch,
	},
	ask("life is moving", func(s State) bool { return s.Life == Moving }, ReadNew, ReadingNew),
	{
		name: "life is leaving",
		when: func(s State) bool { return s.Life == Leaving },
		do:   effects(Leave),
	},
	{
		name: "life is holding",
		when: func(s State) bool { return s.Life == Holding },
		do:   effects(ReportLeaving),
	},
	{
		name: "life is failing",
		when: func(s State) bool { return s.Life == Failing },
		do:   effects(ReportFailure),
	},
	{
		name: "life is adopting or arriving",
		when: func(s State) bool { return s.Life == Adopting || s.Life == Arriving },
		do:   effects(Adopt),
	},
	{
		name: "the secret is unsaved, or to be saved again",
		when: func(s State) bool { return s.running(s.Secret == SecretUnsaved || s.Secret == SecretAgain) },
		do:   effects(SaveSecret),
	},
	{
		name: "recovery is due",
		when: func(s State) bool { return s.running(s.Recovery == RecoveryDue) },
		do:   effects(LoadCopy),
	},
	{
		name: "files are due",
		when: func(s State) bool { return s.running(s.Files == FilesDue) },
		do:   effects(BeginGates, KeepCopy, FeedProxies, PrepareFiles, NoteReload, Write),
	},
	{
		name: "the secret is homeless, and the files are as they should be",
		when: func(s State) bool { return s.running(s.Secret == SecretHomeless) },
		do:   effects(SaveSecret), then: func(s *State, _ Moment) { s.Secret = SecretAgain },
	},
	{
		name: "a check is due, and a reload is pending",
		when: func(s State) bool { return s.running(s.Check == CheckDue && s.Reload == ReloadPending) },
		do:   effects(ReloadWorkload),
	},
	{
		name: "a check is due",
		when: func(s State) bool { return s.running(s.Check == CheckDue) },
		do:   effects(CheckWorkload),
	},
	{
		name: "a look is due, and no reload is pending",
		when: func(s State) bool { return s.running(s.Look == LookDue && s.Reload == NoReload) },
		do:   effects(LookAtPods),
	},
	{
		name: "a look is due",
		when: func(s State) bool { return s.running(s.Look == LookDue) },
		do:   effects(LookAtTargets),
	},
	ask("there is no token", func(s State) bool { return s.asks() && s.Token == NoToken },
		Login, LoggingIn, func(s *State, at Moment) { s.SessionBegun = at }),
	ask("the token is due", func(s State) bool { return s.asks() && s.Token == TokenDue }, RenewToken, Renewing),
	ask("the bundle is not current, and no read is delayed",
		func(s State) bool { return s.asks() && s.Bundle != BundleCurrent && s.Timers[TimerRead] == Never }, ReadBundle, Reading),
	ask("the lease is due, and there is no verdict",
		func(s State) bool { return s.serves() && s.Lease == LeaseDue && s.Verdict == NoVerdict }, ExtendLease, Extending),
	ask("a report or the lease is due, and there is a verdict",
		func(s State) bool {
			return s.serves() && (s.Report == ReportDue || s.Lease == LeaseDue) && s.Verdict != NoVerdict
		},
		SendReport, Reporting, func(s *State, _ Moment) { s.Report = NoReport }), // what happens meanwhile is another one
	{
		name: "work is due, and there is a verdict", silent: true,
		when: func(s State) bool { return s.serves() && s.Work == WorkDue && s.Verdict != NoVerdict },
		do:   effects(StartWork), then: func(s *State, _ Moment) { s.Work = WorkGiven },
	},
	{
		name: "no watch is open, and none is delayed", silent: true,
		when: func(s State) bool { return s.serves() && s.Watch == WatchClosed && s.Timers[TimerWatch] == Never },
		do:   effects(StartWatch), then: func(s *State, _ Moment) { s.Watch = WatchOpen },
	},
}

// running reports whether what is due for the workload is done. It is also while the bundle of another instance is read.
func (s State) running(due bool) bool { return (s.Life == Running || s.Life == Moving) && due }

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
	reasonEvery = 15 * time.Second       // the least time between two reports of which only the reason differs
)

var (
	another     = cond{"of another instance", func(s State, _ Event) bool { return s.Life == Arriving }}
	holdsOnStop = cond{"`on_stop` is hold", func(s State, _ Event) bool { return s.Settings.OnStop == HoldOnStop }}
	hasLease    = cond{"a bundle was read", func(s State, _ Event) bool { return s.Holds() }}
	notProved   = cond{"it never proved itself", func(s State, _ Event) bool { return s.Loaded == "" || s.Verdict != Healthy }}
	hasContent  = cond{"there is a bundle or a copy", func(s State, _ Event) bool { return s.HasContent() }}

	fixed      = cond{"it cannot be renewed", func(s State, _ Event) bool { return s.Renewal == Fixed }}
	tooShort   = cond{"for less than half its time", func(s State, e Event) bool { return e.TTL < s.TTL/2 }}
	renewing   = cond{"of the token's renewal", func(_ State, e Event) bool { return e.Of == RenewToken }}
	littleLeft = cond{"little of it is left", func(s State, e Event) bool { return s.Ends-e.At < s.TTL/6 }}
	noSession  = cond{"of a login", func(_ State, e Event) bool { return e.Of == Login }}

	reporting = cond{"a report is under way", func(s State, _ Event) bool { return s.Request == Reporting }}

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
	noNews = cond{"for the same reason, or another one soon", func(s State, e Event) bool {
		return s.Verdict == Unhealthy && (s.Reason == e.Reason || e.At < s.ReasonUntil)
	}}
	timeToCheck = cond{"there is time for another check", func(s State, e Event) bool { return e.At+pauseAfter(s, e) <= s.SettleBy }}
	pressing    = cond{"that is a verdict", func(s State, e Event) bool {
		return !timeLeft.holds(s, e) && !tolerant.holds(s, e)
	}}
	otherVerdict = cond{"that is another verdict", func(s State, e Event) bool { return pressing.holds(s, e) && !noNews.holds(s, e) }}
	otherReason  = cond{"that is another reason", func(s State, e Event) bool { return !noNews.holds(s, e) }}
)

// pauseAfter is the pause between two checks of a workload that settles: a check that has passed is not alone in its interval.
func pauseAfter(s State, e Event) time.Duration {
	if e.Kind == CheckPassed {
		return s.Settings.Interval
	}
	return settlePause
}
