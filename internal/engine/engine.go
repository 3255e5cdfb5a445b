// SPDX-License-Identifier: Apache-2.0

// Package engine runs rotations: it keeps keys, workloads, connections, instances and the journal, and moves rotations
// on as package rotation says. It persists, acts and persists, so that a crash anywhere is survived by running the current
// place again.
package engine

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Store keeps records by path. Get gives nil, nil for what is not there; List gives names below a prefix, sorted.
type Store interface {
	Get(ctx context.Context, path string) ([]byte, error)
	Put(ctx context.Context, path string, data []byte) error
	Delete(ctx context.Context, path string) error
	List(ctx context.Context, prefix string) ([]string, error)
}

// Observer hears what happens, for logs and events; nothing it hears holds a value. It must not block.
type Observer interface {
	Moved(r rotation.Rotation, e rotation.Event)
	Fault(what string, err error)
	Journal(h journal.Head) // where the journal ends, now and then
}

// Where records are. A rotation is under active/ until it ends and under rotations/ from then on.
const (
	pathSecret      = "mount/secret"
	pathConfig      = "mount/config"
	pathLives       = "mount/lives"
	pathFloor       = "mount/floor"
	pathKeys        = "keys/"
	pathWorkloads   = "workloads/"
	pathConnections = "connections/"
	pathInstances   = "instances/"
	pathActive      = "active/"
	pathRotations   = "rotations/"
	secretBytes     = 32
	tickEvery       = time.Second // the longest that a due time is overslept
	actionDeadline  = time.Minute // for one call to a server
	returnTime      = time.Minute // for instances to come back to an engine that has just started: their back-off is at most 15 s
)

// SealWrapped are the prefixes whose records hold values, or secrets that protect evidence.
func SealWrapped() []string { return []string{"mount/", pathKeys, pathInstances, pathConnections} }

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

// Engine keeps keys, workloads, instances and rotations, and moves rotations on. What it has in memory is what storage
// has: every change is persisted before it is swapped in. A write that fails may have taken effect or not, so that the
// engine is Stale from then on and has to be opened again, as after a crash. Its methods may be called from any
// goroutine.
//
// Two locks, taken in this order: turn by whoever changes keys, workloads, rotations or configuration, while storage is
// written, too; mu by whoever reads or swaps what is in memory, for moments. What turn protects is written under both
// and may be read under either. Instances are protected by mu, and by a lock of their own while one is stored.
type Engine struct {
	Options
	fingerprints key.Fingerprinter

	turn        sync.Mutex
	mu          sync.Mutex
	config      Config
	keys        map[string]key.Key
	workloads   map[string]workload.Workload
	connections map[string]kind.Connection
	active      map[string]rotation.Rotation // by id
	rotating    map[string]string            // ids, by key name
	starts      map[string]schedule.Fault
	lapsing     map[versionID]schedule.Fault    // ends of undeleted versions that have failed
	agenda      schedule.Agenda                 // of automatic rotations
	progress    map[string]workload.WorkReport  // by Work.ID; mu alone
	counted     map[string]counted              // rows, by key name; mu alone
	looks       map[string]rotation.Look        // at rows, by Work.ID; mu alone
	observed    map[string]rotation.Observation // by rotation; mu alone
	health      map[string]Health               // by what was checked; mu alone
	intended    map[versionID]string            // what a check has journaled that it restores, until that is valid
	restoring   map[string]bool                 // keys that an inspection is about
	fleets      map[string]*fleet               // by workload; mu alone
	ends        map[string]chan struct{}        // of rotations that somebody waits for, by id; mu alone
	closed      bool

	rung map[string]bool // workloads whose watchers are woken when turn ends; mu alone

	// turn alone
	busy     map[string]bool // rotations with a call to a server under way
	lapses   schedule.Agenda // of what keys retain, and of versions that are undeleted for a time
	checks   schedule.Agenda // of keys and connections at their servers
	checking map[string]bool // of those, under way
	trying   map[string]bool // keys that rotate by themselves, whose witness is tried before that
	wrote    bool            // something of what is being done is stored
	told     uint64          // count of the head that was told last
	tellAt   time.Duration   // by Uptime
	floor    Floor
	grown    bool          // there are new records since retention has looked
	retainAt time.Duration // by Uptime

	journal   *journal.Journal
	refusals  refusals
	waiters   *waiters
	instances locks
	stale     atomic.Bool
	born      atomic.Uint64 // number of this life of the mount, 0 before Begin
	reads     atomic.Uint64
	opened    time.Time
	openedUp  time.Duration // the same moment by Uptime

	graceUntil time.Duration // by Uptime: until then instances may come back to this engine; see Facts.Grace

	kick    chan struct{} // there is something to do
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// Open reads all records and is ready to be looked at; Begin lets it serve instances and move rotations on. A mount's
// first Open makes its secret.
func Open(ctx context.Context, o Options) (*Engine, error) {
	e := &Engine{
		Options:     o,
		config:      DefaultConfig(),
		floor:       DefaultFloor(),
		keys:        map[string]key.Key{},
		workloads:   map[string]workload.Workload{},
		connections: map[string]kind.Connection{},
		active:      map[string]rotation.Rotation{},
		rotating:    map[string]string{},
		starts:      map[string]schedule.Fault{},
		agenda:      schedule.NewAgenda(),
		progress:    map[string]workload.WorkReport{},
		counted:     map[string]counted{},
		looks:       map[string]rotation.Look{},
		observed:    map[string]rotation.Observation{},
		health:      map[string]Health{},
		restoring:   map[string]bool{},
		intended:    map[versionID]string{},
		checks:      schedule.NewAgenda(),
		lapses:      schedule.NewAgenda(),
		lapsing:     map[versionID]schedule.Fault{},
		checking:    map[string]bool{},
		trying:      map[string]bool{},
		fleets:      map[string]*fleet{},
		ends:        map[string]chan struct{}{},
		rung:        map[string]bool{},
		busy:        map[string]bool{},
		grown:       true,
		waiters:     newWaiters(),
		kick:        make(chan struct{}, 1),
		opened:      o.Now(),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	if e.Background == nil {
		e.Background = e.running.Go
	}
	if e.Uptime == nil {
		begun := time.Now() //nolint:forbidigo // the default clock, which is the system's
		e.Uptime = func() time.Duration { return time.Since(begun) }
	}
	e.openedUp = e.Uptime()
	e.journal = journal.New(journalStore{e}, e.sumEntry, o.Now, e.takeTurn)
	if err := e.load(ctx); err != nil {
		e.cancel()
		return nil, err
	}
	return e, nil
}

// Begin makes the engine the one that writes: only the active node's may. It counts the mount's lives, so that whatever
// instances were given in this one is told from what they were given before.
func (e *Engine) Begin(ctx context.Context) error {
	defer e.takeTurn()()
	lives, err := e.lives(ctx)
	if err != nil {
		return err
	}
	if err := e.write(ctx, pathLives, fmt.Appendf(nil, "%d", lives+1)); err != nil {
		return err
	}
	e.born.Store(lives + 1)
	if err := e.journalDamage(ctx); err != nil {
		return err
	}
	return e.catchUp(ctx)
}

// Writes tells whether it has begun.
func (e *Engine) Writes() bool { return e.born.Load() > 0 }

// Start moves rotations on in the background until the engine is closed or stale, and ends requests that wait once Vault
// lets no others in.
func (e *Engine) Start() {
	e.running.Go(e.run)
	e.running.Go(e.keepPace)
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

// Tick does all that can be done now, and gives the time until there may be more.
func (e *Engine) Tick(ctx context.Context) time.Duration {
	defer e.takeTurn()()
	if e.failing() || e.born.Load() == 0 {
		return tickEvery
	}
	now := e.Now()
	e.dismiss(ctx)
	wait := e.startDue(ctx, now)
	wait = min(wait, e.lapseDue(ctx, now))
	e.checkDue(now)
	for _, id := range slices.Sorted(maps.Keys(e.active)) {
		if e.failing() {
			return tickEvery
		}
		e.wrote = false // what was done so far is stored as a whole
		if err := e.advance(ctx, id); err != nil {
			e.Observer.Fault("rotation "+id+" could not be moved on", err)
		}
		if r, ok := e.active[id]; ok && !e.busy[id] {
			if left := r.WakeAt().Sub(now); left > 0 {
				wait = min(wait, left)
			}
		}
	}
	if e.Uptime() >= e.tellAt {
		e.tellHead()
	}
	if err := e.retain(ctx, now); err != nil {
		e.Observer.Fault("old records could not be taken away", err)
	}
	return max(wait, time.Millisecond)
}

// Close wakes all who wait and ends the background work. When it returns, nothing of this engine is written any more, so
// that another may read the records.
func (e *Engine) Close() {
	e.waiters.endAll()
	e.lock(func() {
		if e.closed {
			return
		}
		e.closed = true
		for id := range e.ends {
			e.ended(id)
		}
		for _, f := range e.fleets {
			close(f.changed)
		}
	})
	e.cancel() // no write begins from here on
	e.turn.Lock()
	e.instances.await()
	e.turn.Unlock()
	e.running.Wait()
}

// Stale tells that a write has failed, so that memory and storage may differ: the engine refuses to go on, and whoever
// has it should close it and open another.
func (e *Engine) Stale() bool { return e.stale.Load() }

var errStale = errors.New("an earlier write to storage failed, and whether it took effect is not known; the engine is reading its records again, try once more")

var errClosed = errors.New("the engine is being closed; try once more")

// failing tells whether nothing can be done any more.
func (e *Engine) failing() bool { return e.down() != nil }

// down says why nothing can be done any more; nil: it can.
func (e *Engine) down() error {
	switch {
	case e.ctx.Err() != nil:
		return errClosed
	case e.stale.Load():
		return errStale
	}
	return nil
}

// takeTurn takes turn, and gives what ends it: whoever was concerned is woken then, once for all that was done.
func (e *Engine) takeTurn() func() {
	e.turn.Lock()
	e.wrote = false
	return func() {
		e.wake()
		e.turn.Unlock()
	}
}

// lock does something with mu held.
func (e *Engine) lock(do func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	do()
}

// nudge makes run look again soon.
func (e *Engine) nudge() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// tooLarge is physical.ErrValueTooLarge of Vault's sdk, of which storage backends tell before they write anything. It comes
// through two processes as text.
const tooLarge = "put failed due to value being too large"

// write stores a record. The caller's patience must not decide whether a write is known to have taken effect.
func (e *Engine) write(ctx context.Context, path string, data []byte) error {
	if err := e.down(); err != nil {
		return err
	}
	if err := e.Store.Put(context.WithoutCancel(ctx), path, data); err != nil {
		if strings.Contains(err.Error(), tooLarge) { // known to have stored nothing
			if !strings.HasPrefix(path, pathInstances) && e.wrote { // it may be the second record of several that belong together
				e.stale.Store(true)
			}
			return rotation.Refusef("storing %s: %d bytes are more than Vault's storage takes in one entry (max_entry_size)", path, len(data))
		}
		e.stale.Store(true)
		return fmt.Errorf("storing %s: %w", path, err)
	}
	e.noteWrite(path)
	return nil
}

// noteWrite notes that storage has changed. Instances are records of their own, and stored without the writer lock.
func (e *Engine) noteWrite(path string) {
	if !strings.HasPrefix(path, pathInstances) {
		e.wrote = true
	}
}

// remove deletes a record.
func (e *Engine) remove(ctx context.Context, path string) error {
	if err := e.down(); err != nil {
		return err
	}
	if err := e.Store.Delete(context.WithoutCancel(ctx), path); err != nil {
		e.stale.Store(true)
		return fmt.Errorf("removing %s: %w", path, err)
	}
	e.noteWrite(path)
	return nil
}

// encoder is a record that has a stored form.
type encoder interface{ Encode() ([]byte, error) }

func (e *Engine) put(ctx context.Context, path string, record encoder) error {
	data, err := record.Encode()
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	return e.write(ctx, path, data)
}

// random gives n random bytes in hexadecimal.
func (e *Engine) random(n int) (string, error) {
	buffer := make([]byte, n)
	if _, err := io.ReadFull(e.Random, buffer); err != nil {
		return "", fmt.Errorf("drawing random bytes: %w", err)
	}
	return hex.EncodeToString(buffer), nil
}

// idTime begins the ids of rotations: UTC to the millisecond.
const idTime = "20060102t150405.000"

// newID gives an id that sorts by time: UTC to the millisecond, and six random hexadecimal characters.
func (e *Engine) newID() (string, error) {
	tail, err := e.random(3)
	if err != nil {
		return "", err
	}
	return e.Now().UTC().Format(idTime) + "-" + tail, nil
}
