// SPDX-License-Identifier: Apache-2.0

// Package engine runs rotations: it keeps keys, workloads, connections, instances and the journal, and moves rotations
// on as package rotation says. It persists, acts and persists, so that a crash anywhere is survived by running the current
// place again.
package engine

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/issued"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/guard"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
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
// instances were given in this one is distinguished from what they were given before.
func (e *Engine) Begin(ctx context.Context) error {
	l, release := e.acquire()
	defer release()
	lives, err := l.loadGeneration(ctx)
	if err != nil {
		return err
	}
	if err := l.dropUnvouched(ctx, lives); err != nil {
		return err
	}
	if err := e.write(ctx, pathLives, fmt.Appendf(nil, "%d", lives+1)); err != nil {
		return err
	}
	if err := l.vouch(ctx, lives+1); err != nil {
		return err
	}
	e.generation.Store(lives + 1)
	e.lock(func(m *memory) { m.firstShown = int64(lives+1) * revisionsOfLife }) //nolint:gosec // nobody begins a mount so often
	if err := l.journalDamage(ctx); err != nil {
		return err
	}
	if err := l.rememberIssued(ctx); err != nil {
		return err
	}
	if err := l.tidyLapsed(ctx); err != nil {
		return err
	}
	return l.catchUp(ctx)
}

// rememberIssued remembers, once, the values that were issued before this release.
func (l *locked) rememberIssued(ctx context.Context) error {
	done, err := l.Store.Get(ctx, pathIssued)
	if err != nil || done != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(l.Keys)) {
		if err := l.issued.Add(ctx, l.WithoutOrders(l.Keys[name])); err != nil {
			return err
		}
	}
	return l.write(ctx, pathIssued, []byte("1"))
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
	wait := l.startFollowing(ctx, now) // before automatic rotations of the same keys, which would take its place
	wait = min(wait, l.startDue(ctx, now))
	wait = min(wait, l.lapseDue(ctx, now))
	l.followChanges(ctx)
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
	wait = min(wait, l.startFollowing(ctx, now)) // of rotations that have ended just now
	if err := l.storeTrips(ctx, now); err != nil {
		e.Observer.Fault("what was seen of retired versions could not be stored", err)
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
		for id := range m.shown {
			m.endShown(id)
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

// load reads all records.
func (l *locked) load(ctx context.Context) error {
	for _, load := range []func(context.Context) error{
		l.loadSecret, l.loadConfig, l.loadFloor, l.loadConnections, l.loadKeys, l.loadWorkloads, l.loadInstances, l.loadLapsed, l.loadWaiting, l.journal.Load, l.loadRotations, l.loadCuts, l.loadFollowing, l.loadUnissued, l.loadTripwires,
	} {
		if err := load(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (l *locked) loadSecret(ctx context.Context) error {
	secret, err := l.Store.Get(ctx, pathSecret)
	if err != nil {
		return fmt.Errorf("reading the mount's secret: %w", err)
	}
	if secret == nil {
		secret = make([]byte, secretBytes)
		if _, err := io.ReadFull(l.Random, secret); err != nil {
			return fmt.Errorf("making the mount's secret: %w", err)
		}
		if err := l.Store.Put(ctx, pathSecret, []byte(hex.EncodeToString(secret))); err != nil {
			return fmt.Errorf("storing the mount's secret: %w", err)
		}
	} else if secret, err = hex.DecodeString(string(secret)); err != nil || len(secret) != secretBytes {
		return errors.New("the mount's stored secret is damaged: not 32 hexadecimal bytes")
	}
	l.Fingerprints = key.NewFingerprinter(secret)
	l.issued = issued.New(journalStore{l.storage}, l.Fingerprints.Sum)
	return nil
}

func (l *locked) loadConfig(ctx context.Context) error {
	return l.loadInto(ctx, pathConfig, "config", &l.Defaults)
}

func (l *locked) loadFloor(ctx context.Context) error {
	return l.loadInto(ctx, pathFloor, "floor of the journal", &l.JournalFloor)
}

// loadInto reads a record of the mount, where there is one, over its default.
func (l *locked) loadInto(ctx context.Context, path, what string, into any) error {
	data, err := l.Store.Get(ctx, path)
	if err != nil || data == nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("stored %s: %w", what, err)
	}
	return nil
}

func (l *locked) loadKeys(ctx context.Context) error {
	if err := l.each(ctx, pathKeys, func(data []byte) error {
		k, err := key.Decode(data)
		k.Mount = l.Fingerprints.MountID()
		l.Keys[k.Name] = k
		return err
	}); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(l.Keys)) {
		l.plan(name, l.opened)
	}
	return nil
}

func (l *locked) loadWorkloads(ctx context.Context) error {
	return l.each(ctx, pathWorkloads, func(data []byte) error {
		w, err := workload.Decode(data)
		l.Workloads[w.Name] = w
		l.lock(func(m *memory) { m.fleets[w.Name] = fleet.New(l.secrets(), l.Uptime) })
		return err
	})
}

func (l *locked) loadInstances(ctx context.Context) error {
	workloads, err := l.Store.List(ctx, pathInstances)
	if err != nil {
		return fmt.Errorf("listing instances: %w", err)
	}
	for _, w := range workloads {
		w = strings.TrimSuffix(w, "/")
		err := l.each(ctx, pathInstances+w+"/", func(data []byte) error {
			i, err := workload.DecodeInstance(data)
			l.lock(func(m *memory) {
				if f := m.fleets[i.Workload]; err == nil && f != nil {
					if !i.Leaving.IsZero() {
						i.Leaving.Until = m.Now().Add(max(i.TTL, m.Defaults.LeaseTTL, fleet.ReturnTime)).UTC()
					}
					f.Load(i, m.Defaults.LeaseTTL, m.Defaults.TakeoverAfter)
					m.graceUntil = m.Uptime() + fleet.ReturnTime
				}
			})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// loadRotations loads every unfinished rotation. A key of two is in the one that was part of the other: see part.
func (l *locked) loadRotations(ctx context.Context) error {
	return l.each(ctx, pathActive, func(data []byte) error {
		r, err := rotation.Decode(data)
		l.active[r.ID] = r
		for _, c := range r.Changes {
			if other, ok := l.active[l.rotating[c.Key]]; !ok || other.PartOf != r.ID {
				l.rotating[c.Key] = r.ID
			}
			l.agenda.Set(c.Key, never)
		}
		return err
	})
}

// catchUp finishes what a crash has interrupted: between a rotation's record and the journal, between its end and its leaving
// active/, or while keys left it.
func (l *locked) catchUp(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(l.active)) {
		r := l.active[id]
		data, err := l.Store.Get(ctx, pathRotations+id)
		if err != nil {
			return fmt.Errorf("reading rotation %s: %w", id, err)
		}
		if data != nil {
			if r, err = rotation.Decode(data); err != nil {
				return err
			}
		}
		known, err := l.journaled(ctx, r)
		if err != nil {
			return err
		}
		if err := l.journalEvents(ctx, r, known); err != nil {
			return err
		}
		r.Journaled, r.JournalSeq = r.EventCount(), l.journal.End().Count
		l.lock(func(m *memory) { m.active[id] = r })
		if r.Finished() {
			if err := l.leave(ctx, r); err != nil {
				return err
			}
		}
	}
	return l.takeOvers(ctx)
}

func (l *locked) loadConnections(ctx context.Context) error {
	return l.each(ctx, pathConnections, func(data []byte) error {
		c, err := kind.DecodeConnection(data)
		l.Connections[c.Name] = c
		l.planCheck(checksConnection+c.Name, l.opened)
		return err
	})
}

// retainEvery is how often old records are looked for.
const retainEvery = time.Minute

// retain takes away the oldest journal entries and ended rotations beyond what the configuration keeps.
func (l *locked) retain(ctx context.Context, now time.Time) error {
	if !l.needsRetention || l.Uptime() < l.retainAt {
		return nil
	}
	l.retainAt, l.needsRetention = l.Uptime()+retainEvery, false
	if err := l.journal.Retain(ctx, now, uint64(l.JournalFloor.Entries), l.Expired); err != nil { //nolint:gosec // no floor is negative
		return err
	}
	return l.retainRotations(ctx, now)
}

// retainRotations goes by the same bounds.
func (l *locked) retainRotations(ctx context.Context, now time.Time) error {
	ids, err := l.Store.List(ctx, pathRotations)
	if err != nil {
		return fmt.Errorf("listing rotations: %w", err)
	}
	for n, id := range ids {
		born, err := time.Parse(catalog.IdTime, id[:min(len(id), len(catalog.IdTime))])
		if err != nil || !l.Expired(uint64(len(ids)-n-1), now.Sub(born)) { //nolint:gosec // n is an index of ids
			return nil //nolint:nilerr // what has no time of its own is kept, and so is all that is newer
		}
		if _, running := l.active[id]; running {
			continue
		}
		if err := l.remove(ctx, pathRotations+id); err != nil {
			return err
		}
	}
	return nil
}
