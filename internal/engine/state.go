// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/guard"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// state is what an engine is made of. Its methods need no lock, or take that of the memory for moments.
type state struct {
	*storage
	timing
	base       *catalog.Base
	Observer   Observer
	background func(func(*Engine)) // runs a function beside the caller
	memory     *guard.Guarded[memory]
	journal    *journal.Journal
	waiters    *fleet.Waiters
	instances  guard.Names
	generation atomic.Uint64 // number of this life of the mount, 0 before Begin
	reads      atomic.Uint64
	kick       chan struct{} // there is something to do
}

func newState(o Options, r *records) *state {
	return &state{
		storage:  &storage{Store: o.Store},
		timing:   timing{Now: o.Now, Uptime: o.Uptime, opened: o.Now(), openedUp: o.Uptime()},
		base:     r.Base,
		Observer: o.Observer,
		memory:   guard.New(newMemory(r)),
		waiters:  fleet.NewWaiters(),
		kick:     make(chan struct{}, 1),
	}
}

// timing is the time, and when the engine was opened.
type timing struct {
	Now      func() time.Time
	Uptime   func() time.Duration
	opened   time.Time
	openedUp time.Duration // the same moment by Uptime
}

// secrets returns what is derived from the mount's secret for instances.
func (s *state) secrets() fleet.Secrets { return fleet.Secrets{Fingerprinter: s.base.Fingerprints} }

// lock calls do with what is in memory.
func (s *state) lock(do func(m *memory)) { s.memory.Do(do) }

// nudge makes run look again soon.
func (s *state) nudge() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Observer hears what happens, for logs and events; nothing it hears holds a value. It must not block.
type Observer interface {
	Moved(r rotation.Rotation, e rotation.Event)
	Fault(what string, err error)
	Journal(h journal.Head) // where the journal ends, now and then
}

// Options make an Engine.
type Options struct {
	Store    Store
	Kinds    kind.List
	Observer Observer
	Now      func() time.Time
	Random   io.Reader

	// Uptime is a clock that nobody can set; it counts from any moment. Nil: the system's.
	Uptime func() time.Duration
	// Background runs a function beside the caller; Close waits for it. Nil: a goroutine.
	Background func(func())
}

const (
	secretBytes    = 32
	tickEvery      = time.Second // the longest that a due time is overslept
	actionDeadline = time.Minute // for one call to a server
)

// Engine keeps keys, workloads, instances and rotations, and moves rotations on. What it has in memory is what storage
// has: every change is persisted before it is swapped in. A write that fails may have taken effect or not, so that the
// engine is Stale from then on and has to be opened again, as after a crash. Its methods may be called from any
// goroutine.
//
// Two locks, taken in this order: the writer lock, of which [locked] is what may be done with it; and that of [memory], for
// moments. What both protect is written under both, and may be read under either. An instance has a lock of its own while
// it is stored.
type Engine struct {
	*state
	writer   *guard.Guarded[pending]
	refusals refusals
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// steady is now by a clock that cannot jump ahead: since the engine was opened, no more time has passed than by Uptime. A
// value that is erased by mistake is lost.
func (c timing) steady(now time.Time) time.Time {
	most := c.opened.Round(0).Add(c.Uptime() - c.openedUp) // times of the wall are compared
	if now = now.Round(0); now.After(most) {
		return most
	}
	return now
}

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

// notify wakes those for whom markDirty was called.
func (s *state) notify() {
	s.lock(func(m *memory) {
		if m.closed {
			return
		}
		if len(m.dirty) > 0 {
			s.nudge()
		}
		for name := range m.dirty {
			if f := m.fleets[name]; f != nil {
				f.Wake()
			}
		}
		clear(m.dirty)
	})
}

// Writes reports whether it has begun.
func (s *state) Writes() bool { return s.generation.Load() > 0 }
