// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
)

// retries are the pauses after failures.
var retries = backoff.Backoff{First: BackoffFirst, Limit: BackoffLimit}

// The bounds of pauses after failures.
const (
	BackoffFirst = 200 * time.Millisecond // the longest pause after a first failure
	BackoffLimit = 15 * time.Second       // the longest pause after any number of failures
)

// Backoff returns the pause after a number of failures in a row. draw, which is in [0, 1), spreads it, so that sidecars do
// not come back all at once.
func Backoff(failures int, draw float64) time.Duration {
	return backoff.Spread(retries.After(failures), draw)
}

// share returns when to renew what lasts so long: with a third left for trouble.
func share(ttl time.Duration) time.Duration { return ttl * 2 / 3 }

// action is what a transition does besides. It changes fields of the state that are no region, and returns effects. Its name
// stands in docs/agent.md.
type action struct {
	name string
	do   func(s *State, e Event) []Effect
}

// perform returns the action that performs an effect.
func perform(do Do) action {
	return action{string(do), func(*State, Event) []Effect { return []Effect{{Do: do}} }}
}

// change returns the action that changes fields of the state.
func change(name string, do func(s *State, e Event)) action {
	return action{name, func(s *State, e Event) []Effect {
		do(s, e)
		return nil
	}}
}

// set sets a timer; it is not set where there is nothing to wait for.
func (s *State) set(t Timer, e Event, in time.Duration) {
	s.Timers[t] = Never
	if in > 0 {
		s.Timers[t] = e.At + in
	}
}

func (s *State) off(timers ...Timer) {
	for _, t := range timers {
		s.Timers[t] = Never
	}
}

var (
	keepToken = change("keep the token", func(s *State, e Event) {
		s.TTL, s.Renewal, s.Ends, s.Requests = e.TTL, e.Renewal, Never, 0
		if e.TTL > 0 {
			s.Ends = e.At + e.TTL
		}
		s.set(TimerToken, e, share(e.TTL))
	})
	// extendToken keeps what the token had once, which tells when it is near its end.
	extendToken = change("keep the token", func(s *State, e Event) {
		s.Ends = e.At + e.TTL
		s.TTL = max(s.TTL, e.TTL)
		s.set(TimerToken, e, share(e.TTL))
	})
	renewLater = change("renew it soon", func(s *State, e Event) { s.set(TimerToken, e, min(BackoffLimit, (s.Ends-e.At)/4)) })

	endSession    = action{"pause", func(s *State, e Event) []Effect { return s.endSession(SaySessionEnded, e) }}
	endToken      = action{"pause", func(s *State, e Event) []Effect { return s.endSession(SayTokenEnds, e) }}
	pauseRequests = action{"pause", func(s *State, e Event) []Effect {
		s.Requests++
		return s.pause(SayRequest, s.Requests, e)
	}}
	endPause = change("ask at once", func(s *State, _ Event) {
		s.Sessions = 0
		s.off(TimerPause, TimerRead, TimerToken)
	})

	hold = change("hold it", func(s *State, e Event) {
		if s.Futile++; !s.Holds() || e.Held.Etag != s.Held.Etag {
			s.Futile = 0
		}
		s.Held = e.Held
		s.off(TimerRead)
	})
	holdCopy  = change("hold it", func(s *State, e Event) { s.Held = e.Held })
	readLater = change("slow futile reads down", func(s *State, e Event) {
		if s.Futile > 1 {
			s.set(TimerRead, e, Backoff(s.Futile-1, e.Draw))
		}
	})
	forget = change("forget it", func(s *State, e Event) { s.Begun, s.Held = e.At, Held{} })

	leaseTimer = change("set the lease timer", func(s *State, e Event) { s.set(TimerLease, e, share(e.Lease)) })
	notFutile  = change("no read was futile", func(s *State, _ Event) { s.Futile = 0 })
	leaseOff   = change("stop the lease timer", func(s *State, _ Event) { s.off(TimerLease) })

	settle = change("note what is written", func(s *State, e Event) {
		s.Filed, s.Loaded, s.Proof, s.Good, s.Faults, s.ReasonUntil = s.Held.Content, "", "", 0, 0, 0
		s.startDeadline(e)
		s.startSettling(e)
		s.off(TimerRetry)
	})
	settleAgain = change("start the short while", func(s *State, e Event) { s.startSettling(e) })
	unload      = change("nothing is loaded", func(s *State, _ Event) { s.Loaded, s.Proof = "", "" })
	proveAgain  = change("nothing is loaded; start the deadline", func(s *State, e Event) {
		s.Loaded, s.Proof = "", ""
		s.startDeadline(e)
		s.startSettling(e)
	})
	noteLoaded = change("note what is loaded", func(s *State, _ Event) { s.Loaded = s.Held.Etag })
	noteProved = change("note what is loaded, and its proof", func(s *State, e Event) { s.Loaded, s.Proof = s.Held.Etag, e.Proof })
	countFault = change("retry later", func(s *State, e Event) {
		s.Faults++
		s.set(TimerRetry, e, max(Backoff(s.Faults, e.Draw), e.RetryAfter))
	})
	noFault = change("start the deadline", func(s *State, e Event) {
		s.Faults = 0
		s.startDeadline(e)
	})
	startOver = change("retry nothing", func(s *State, _ Event) {
		s.Faults = 0
		s.off(TimerRetry)
	})

	countGood  = change("count it", func(s *State, _ Event) { s.Bad, s.Good = 0, s.Good+1 })
	countBad   = change("count it", func(s *State, _ Event) { s.Bad, s.Good = s.Bad+1, 0 })
	noteReason = change("note the reason", func(s *State, e Event) { s.Reason, s.ReasonUntil = e.Reason, 0 })
	// noteCheck keeps the reason for a while: that of a check may be another one each time.
	noteCheck = change("note the reason for a while", func(s *State, e Event) { s.Reason, s.ReasonUntil = e.Reason, e.At+reasonEvery })
	noteWhile = change("note the reason unless healthy", func(s *State, e Event) {
		if s.Verdict != Healthy {
			s.Reason = e.Reason
		}
	})
	noReason     = change("forget the reason", func(s *State, _ Event) { s.Reason = "" })
	sayUnhealthy = action{string(SayUnhealthy), func(_ *State, e Event) []Effect { return []Effect{{Do: SayUnhealthy, Reason: e.Reason}} }}
	sayCheck     = action{string(SayCheck), func(_ *State, e Event) []Effect { return []Effect{{Do: SayCheck, Reason: e.Reason}} }}

	nextCheck = change("set the check timer", func(s *State, e Event) { s.set(TimerCheck, e, s.untilCheck(e)) })
	checkOff  = change("stop the check timer", func(s *State, _ Event) { s.off(TimerCheck) })
	nextLook  = change("set the look timer", func(s *State, e Event) { s.set(TimerLook, e, s.Settings.LookEvery) })

	watchLater = change("wait as long as the engine asks", func(s *State, e Event) { s.watchIn(e, 0) })
	noRivals   = change("nobody else watches", func(s *State, _ Event) { s.Rivals, s.Futile = 0, 0 })
	served     = change("requests are served", func(s *State, _ Event) { s.Requests = 0 })
	countRival = action{"slow watches down", func(s *State, e Event) []Effect {
		s.Rivals++
		s.watchIn(e, Backoff(s.Rivals, e.Draw))
		if s.Rivals == 2 { // once happens after a connection was lost
			return []Effect{{Do: SayRivals}}
		}
		return nil
	}}
	useSettings = change("use its settings", func(s *State, e Event) {
		s.Settings, s.Moves = e.Settings, 0
		s.off(TimerMove)
	})
	moveLater = action{"try it later", func(s *State, e Event) []Effect {
		s.Moves++
		wait := max(Backoff(s.Moves, e.Draw), e.RetryAfter)
		s.set(TimerMove, e, wait)
		return []Effect{{Do: SayNewLater, Wait: wait}}
	}}
	moveNever = change("try it no more", func(s *State, _ Event) {
		s.Moves = 0
		s.off(TimerMove)
	})
)

// endSession pauses before the next login. A session that has lasted is no failure of the ones before.
func (s *State) endSession(say Do, e Event) []Effect {
	if e.At-s.SessionBegun > BackoffLimit {
		s.Sessions = 0
	}
	s.Sessions++
	s.off(TimerToken)
	return s.pause(say, s.Sessions, e)
}

// pause keeps Vault alone after failures in a row.
func (s *State) pause(say Do, failures int, e Event) []Effect {
	wait := max(Backoff(failures, e.Draw), e.RetryAfter)
	s.set(TimerPause, e, wait)
	return []Effect{{Do: say, Wait: wait}}
}

func (s *State) startDeadline(e Event) { s.ProveBy = e.At + s.Settings.Deadline }

func (s *State) startSettling(e Event) { s.SettleBy = e.At + min(settleFor, s.Settings.Deadline) }

// untilCheck is how long to wait for the next check.
func (s *State) untilCheck(e Event) time.Duration {
	switch {
	case s.Load == Settling:
		return pauseAfter(*s, e)
	case s.Load != Loaded && s.Good == 0 && e.At < s.ProveBy:
		return min(provePause, s.Settings.Interval)
	}
	return s.Settings.Interval
}

// watchIn lets the next watch begin no earlier than the engine asks for.
func (s *State) watchIn(e Event, least time.Duration) {
	if e.RetryAfter > 0 {
		least = max(least, backoff.Spread(min(e.RetryAfter, BackoffLimit), e.Draw))
	}
	s.set(TimerWatch, e, least)
}
