// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/issued"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/tripwire"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/guard"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
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
	issued     *issued.Index
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
	writer     *guard.Guarded[pending]
	refusals   refusals
	identifies quota
	cancel     context.CancelFunc
	running    sync.WaitGroup
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

// locked is what can be done under the writer lock: [Engine.acquire] returns it. A caller that changes keys, workloads, rotations or
// configuration holds that lock, also while storage is written. None of its methods takes it again: what they do in the
// background gets the Engine from [state.background].
type locked struct {
	*state
	*pending
}

// pending is what only the holder of the writer lock knows.
type pending struct {
	*records
	busy           map[string]bool          // rotations with a call to a server under way
	lapses         schedule.Agenda          // of what keys retain, and of versions that are undeleted for a time
	checks         schedule.Agenda          // of keys and connections at their servers
	checking       map[string]chan struct{} // of those, under way: closed when one has ended
	trying         map[string]bool          // keys that rotate by themselves, whose witness is tried before that
	announced      uint64                   // count of the head that the observer has heard of
	announceAt     time.Duration            // by Uptime
	needsRetention bool                     // there are new records since retention has looked
	retainAt       time.Duration            // by Uptime
}

func newPending(r *records) *pending {
	return &pending{
		records: r, busy: map[string]bool{}, checking: map[string]chan struct{}{}, trying: map[string]bool{},
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

// records is what the engine has stored of keys, workloads, connections and rotations. A change of it is stored under the
// writer lock, and swapped in under the memory's lock as well. So [locked] reads it, and so does [memory].
type records struct {
	*catalog.Catalog
	active   map[string]rotation.Rotation // by id
	rotating map[string]string            // ids, by key name
	starts   map[string]schedule.Fault    // of automatic rotations, by key name
	lapsing  map[versionID]schedule.Fault // ends of undeleted versions that have failed
	agenda   schedule.Agenda              // of automatic rotations

	following map[string]following // rotations that follow and have not started yet, by id
}

// waits are the keys of a workload whose change its instances wait to follow, by id. No slice in it is changed.
type waits map[string][]string

// memory is what the engine has in memory. It is reached under its own lock alone, for moments: [state.lock] calls a function with it.
type memory struct {
	*records
	progress   map[string]workload.WorkReport  // by Work.ID
	counted    map[string]counted              // rows, by key name
	looks      map[string]rotation.Look        // at rows, by Work.ID
	observed   map[string]rotation.Observation // by rotation
	notes      map[string]rotation.Notes       // by rotation
	cuts       map[string]cutNote              // by key name, of its newest rotation
	tripwires  map[string]tripwire.Record      // by key name; counts may be newer than those stored
	tripped    map[string]time.Duration        // by key name, where counts are to be stored: when, by Uptime
	health     map[string]Health               // by what was checked
	intended   map[versionID]string            // what a check has journaled that it restores, until that is valid
	restoring  map[string]bool                 // keys that an inspection is about
	fleets     map[string]*fleet.Fleet         // by workload
	shown      map[string]*shown               // what those see who follow a rotation, by id
	firstShown int64                           // revisions of this life of the mount are above it
	waiting    map[string]waits                // by workload: what instances have not followed of the last change of its keys
	unissued   map[string]issuing              // by key name
	dirty      map[string]bool                 // workloads whose watchers are woken when the writer lock is released
	graceUntil time.Duration                   // by Uptime: until then instances may come back to this engine; see Facts.Grace
	closed     bool
}

func newMemory(r *records) *memory {
	return &memory{
		records:   r,
		progress:  map[string]workload.WorkReport{},
		counted:   map[string]counted{},
		looks:     map[string]rotation.Look{},
		observed:  map[string]rotation.Observation{},
		notes:     map[string]rotation.Notes{},
		cuts:      map[string]cutNote{},
		tripwires: map[string]tripwire.Record{},
		tripped:   map[string]time.Duration{},
		health:    map[string]Health{},
		intended:  map[versionID]string{},
		restoring: map[string]bool{},
		fleets:    map[string]*fleet.Fleet{},
		shown:     map[string]*shown{},
		dirty:     map[string]bool{},
		unissued:  map[string]issuing{},
		waiting:   map[string]waits{},
	}
}

func newRecords(c *catalog.Catalog) *records {
	return &records{
		Catalog:  c,
		active:   map[string]rotation.Rotation{},
		rotating: map[string]string{},
		starts:   map[string]schedule.Fault{},
		lapsing:  map[versionID]schedule.Fault{},
		agenda:   schedule.NewAgenda(),

		following: map[string]following{},
	}
}

// versionID names a version of a key.
type versionID struct {
	key    string
	number int
}

// issuing is what is known of who was given versions of a key.
type issuing int

const (
	mayBeIssued issuing = iota
	notIssued
	beingIssued // a read answers with it as soon as the record is removed
)

// cutNote is what the newest rotation of a key has cut.
type cutNote struct {
	at   time.Time
	text string
}

// counted is what an instance has last counted of a key's rows.
type counted struct {
	report   workload.WorkReport
	at       time.Time
	instance string
}

// Health is what the last check of a key or of a connection found. It is not stored: after a restart all are checked soon.
type Health struct {
	At       time.Time // of the check; zero: there was none yet
	Problems []kind.Problem
	Fault    string   // why the check itself failed, such as a server that does not answer
	Notes    []string // what an operator should know although nothing is wrong
	Mended   []string // what has been restored without being asked for
	Refused  string   // who still tries a version that is retired; empty: nobody, as far as the server tells
}

// Texts returns what is wrong, each problem with its remedy.
func (h Health) Texts() []string {
	var all []string
	told := false // by the fault, which says of a problem that it could not be mended
	for _, p := range h.Problems {
		all = append(all, p.String())
		told = told || strings.Contains(h.Fault, p.Text)
	}
	if h.Fault != "" && !told {
		all = append([]string{h.Fault}, all...)
	}
	return all
}

// blocks reports whether a rotation would not go through with what was found.
func (h Health) blocks() bool {
	return h.Fault != "" || slices.ContainsFunc(h.Problems, func(p kind.Problem) bool { return !p.Rotates })
}

// never is the time of what is not planned.
var never time.Time

// erased reports whether a value that the rotation erases is gone, so that it cannot go back any more. Reports that come
// then are late: the value went on evidence that is stored.
func (rs *records) erased(r rotation.Rotation) bool {
	return r.Action() == rotation.ActErase && slices.ContainsFunc(r.Changes, func(c rotation.Change) bool {
		v, ok := rs.Keys[c.Key].Version(r.Leaving(c))
		return ok && !v.State.Live()
	})
}

// remaining is how long a lease on a key's current version may last: to its end, and without limit where it has none. A
// version that is overdue has no life left to go by: its rotation will refuse the renewal.
func (rs *records) remaining(k key.Key, now time.Time) (time.Duration, bool) {
	end := rs.agenda.At(k.Name)
	if period := schedule.PeriodEnd(k); !period.IsZero() {
		end = period
	}
	if left := end.Sub(now); !end.IsZero() && left > 0 {
		return left, true
	}
	return 0, false
}

// lapseFaults says why undeleted versions of a key could not be retired.
func (rs *records) lapseFaults(k key.Key) string {
	var all []string
	for _, number := range k.Undeleted() {
		if reason := rs.lapsing[versionID{k.Name, number}].Reason; reason != "" {
			all = append(all, fmt.Sprintf("version %d: %s", number, reason))
		}
	}
	return strings.Join(all, "; ")
}

// leakedBy returns the rotation of a compromised key that ends the undeleted logins of the key and cannot be reverted any more.
func (rs *records) leakedBy(k key.Key) (r rotation.Rotation, ok bool) {
	r, ok = rs.active[rs.rotating[k.Name]]
	return r, ok && r.State == rotation.Retiring && len(rs.Leaked(r, k)) > 0
}

// shown is what those see who follow a rotation. It is made where the rotation is moved on anyhow, so that a follower costs
// no look at the instances.
type shown struct {
	number  int64         // of the revision within this life of the mount
	changed chan struct{} // closed when the revision is another one
	stored  uint64        // how often the rotation was stored

	// Of the revision:
	looked bool // the rest is set
	at     time.Duration
	gates  []rotation.GateResult
	events int
	paused bool
	of     uint64 // stored
}

// revisionsOfLife is how many revisions a rotation may have in one life of the mount, so that those of another are others.
const revisionsOfLife = 1_000_000

// closedEnd is what is closed when the revision changes that changes no more.
var closedEnd = func() chan struct{} {
	end := make(chan struct{})
	close(end)
	return end
}()

// showing returns what is shown of a running rotation.
func (m *memory) showing(id string) *shown {
	if m.shown[id] == nil {
		m.shown[id] = &shown{changed: make(chan struct{})}
	}
	return m.shown[id]
}

// endShown wakes those who follow a rotation that has ended.
func (m *memory) endShown(id string) {
	if s := m.shown[id]; s != nil {
		close(s.changed)
		delete(m.shown, id)
	}
}

// revision returns that of a running rotation, and what is closed when it is another one. A request that waits is woken by its
// own rotation alone.
func (m *memory) revision(id string) (int64, <-chan struct{}) {
	if m.closed {
		return 0, closedEnd
	}
	s := m.showing(id)
	return m.firstShown + s.number, s.changed
}

const (
	// maxChecks is how many servers are checked at the same time.
	maxChecks = 4
	// maxAbove bounds how far a mark at a server may raise the numbers of a key's versions.
	maxAbove = 10_000
	// The names of checks begin with what they check.
	checksKey        = "keys/"
	checksConnection = "connections/"
)
