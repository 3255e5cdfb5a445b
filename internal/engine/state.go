// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/guard"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
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
