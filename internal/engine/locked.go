// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
)

// locked is what can be done under the writer lock: [Engine.acquire] returns it. Whoever changes keys, workloads, rotations or
// configuration holds that lock, also while storage is written. None of its methods takes it again: what they do in the
// background gets the Engine from [state.background].
type locked struct {
	*state
	*pending
}

// pending is what only the holder of the writer lock knows.
type pending struct {
	*records
	busy           map[string]bool // rotations with a call to a server under way
	lapses         schedule.Agenda // of what keys retain, and of versions that are undeleted for a time
	checks         schedule.Agenda // of keys and connections at their servers
	checking       map[string]bool // of those, under way
	trying         map[string]bool // keys that rotate by themselves, whose witness is tried before that
	announced      uint64          // count of the head that the observer has heard of
	announceAt     time.Duration   // by Uptime
	needsRetention bool            // there are new records since retention has looked
	retainAt       time.Duration   // by Uptime
}

func newPending(r *records) *pending {
	return &pending{
		records: r, busy: map[string]bool{}, checking: map[string]bool{}, trying: map[string]bool{},
		lapses: schedule.NewAgenda(), checks: schedule.NewAgenda(),
		needsRetention: true,
	}
}

// acquire takes the writer lock. release wakes those who are concerned, once for all that was done.
func (e *Engine) acquire() (l *locked, release func()) {
	p, unlock := e.writer.Lock()
	e.wrote = false
	l = &locked{e.state, p}
	return l, func() {
		e.notify()
		*l = locked{} // to use it from here on panics
		unlock()
	}
}

// update calls do under the writer lock.
func (e *Engine) update(do func(*locked) error) error {
	l, release := e.acquire()
	defer release()
	return do(l)
}
