// SPDX-License-Identifier: Apache-2.0

// Package engine runs rotations: it keeps keys, workloads, connections, instances and the journal, and moves rotations
// on as package rotation says. It persists, acts and persists, so that a crash anywhere is survived by running the current
// place again.
package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/guard"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
)

// Open reads all records and is ready to be looked at; Begin lets it serve instances and move rotations on. A mount's
// first Open makes its secret.
func Open(ctx context.Context, o Options) (*Engine, error) {
	e := &Engine{}
	run := o.Background
	if run == nil {
		run = e.running.Go
	}
	if o.Uptime == nil {
		begun := time.Now() //nolint:forbidigo // the default clock, which is the system's
		o.Uptime = func() time.Duration { return time.Since(begun) }
	}
	records := newRecords(catalog.New(&catalog.Base{Kinds: o.Kinds, Random: o.Random, Now: o.Now, Uptime: o.Uptime}))
	e.state = newState(o, records)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.background = func(do func(*Engine)) { run(func() { do(e) }) }
	e.writer = guard.New(newPending(records))
	e.journal = journal.New(journalStore{e.storage}, e.base.SumEntry, o.Now, func() (unlock func()) {
		_, release := e.acquire()
		return release
	})
	if err := e.update(func(l *locked) error { return l.load(ctx) }); err != nil {
		e.cancel()
		return nil, err
	}
	return e, nil
}

// Begin makes the engine the one that writes: only the active node's may. It counts the mount's lives, so that whatever
// instances were given in this one is told from what they were given before.
func (e *Engine) Begin(ctx context.Context) error {
	l, release := e.acquire()
	defer release()
	lives, err := l.loadGeneration(ctx)
	if err != nil {
		return err
	}
	if err := e.write(ctx, pathLives, fmt.Appendf(nil, "%d", lives+1)); err != nil {
		return err
	}
	e.generation.Store(lives + 1)
	if err := l.journalDamage(ctx); err != nil {
		return err
	}
	return l.catchUp(ctx)
}

// Start moves rotations on in the background until the engine is closed or stale, and ends requests that wait once Vault
// lets no others in.
func (e *Engine) Start() {
	e.running.Go(e.run)
	e.running.Go(func() { e.waiters.KeepPace(e.ctx, e.Uptime) })
}

// longestPause is how long run rests at most.
const longestPause = 200 * time.Millisecond

// run does what can be done now, again and again. One failure stops nothing. It rests for a while after it was busy, so
// that those who wait for answers are served first, and what they say is looked at together.
func (e *Engine) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-e.kick:
		case <-timer.C:
		}
		begun := e.Uptime()
		wait := e.Tick(e.ctx)
		if took := e.Uptime() - begun; took > time.Millisecond {
			pause := time.NewTimer(min(4*took, longestPause))
			select {
			case <-e.ctx.Done():
			case <-pause.C:
			}
			pause.Stop()
		}
		timer.Reset(wait)
	}
}

// Tick does all that can be done now, and returns the time until there may be more.
func (e *Engine) Tick(ctx context.Context) time.Duration {
	l, release := e.acquire()
	defer release()
	if e.failing() || e.generation.Load() == 0 {
		return tickEvery
	}
	now := e.Now()
	e.expireInstances(ctx)
	wait := l.startDue(ctx, now)
	wait = min(wait, l.lapseDue(ctx, now))
	l.checkDue(now)
	for _, id := range slices.Sorted(maps.Keys(l.active)) {
		if e.failing() {
			return tickEvery
		}
		e.wrote = false // what was done so far is stored as a whole
		if err := l.advance(ctx, id); err != nil {
			e.Observer.Fault("rotation "+id+" could not be moved on", err)
		}
		if r, ok := l.active[id]; ok && !l.busy[id] {
			if left := r.WakeAt().Sub(now); left > 0 {
				wait = min(wait, left)
			}
		}
	}
	if e.Uptime() >= l.announceAt {
		l.announceHead()
	}
	if err := l.retain(ctx, now); err != nil {
		e.Observer.Fault("old records could not be taken away", err)
	}
	return max(wait, time.Millisecond)
}

// Close wakes all who wait and ends the background work. When it returns, nothing of this engine is written any more, so
// that another may read the records.
func (e *Engine) Close() {
	e.waiters.EndAll()
	e.lock(func(m *memory) {
		if m.closed {
			return
		}
		m.closed = true
		for id := range m.ends {
			m.ended(id)
		}
		for _, f := range m.fleets {
			f.End()
		}
	})
	e.cancel() // no write begins from here on
	_, release := e.acquire()
	e.instances.Await()
	release()
	e.running.Wait()
}
