// SPDX-License-Identifier: Apache-2.0

// Package fleet keeps the live instances of workloads: their leases, logins and limits, and the requests that wait for
// changes. It knows no rotation and no storage, and takes no lock of its own for a [Fleet]: its caller has one.
package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Fleet is the live instances of a workload.
type Fleet struct {
	secrets Secrets
	uptime  func() time.Duration

	ids       []string // sorted
	by        map[string]workload.Instance
	leases    map[string]lease     // by id
	logins    map[string]int       // instances, by their login's accessor
	conflicts map[string]*conflict // by id: two processes that use its name
	lapsed    map[string]Lapsed    // by id
	crowd     Crowd                // reads that were refused because there are too many instances
	changed   chan struct{}        // closed when some bundle may have changed, then replaced
	targets   map[string]Target    // what instances should hold, by their stages; until it may have changed
	given     uint64               // how often an instance was given something else than before
	frozen    chan struct{}        // not nil while nobody may be given anything; closed then
	moving    []string             // keys of the workload that are being rotated, sorted; nil until somebody asks
}

// lease is what is known of an instance's newest lease. Times are by uptime.
type lease struct {
	sure  bool          // Epoch is known to be that of its newest read
	given time.Duration // when it ends
	full  time.Duration // when it would end if no version's life had cut it short
	gone  time.Duration // when the instance is taken for gone although nobody revoked it

	heard     time.Duration // its last sign of life
	heartbeat bool          // it sends them every few seconds
	released  bool          // its last report said that it, or its sidecar, ends
	claimed   time.Duration // until when another login that was refused may come for its name

	used bool // the newest read was answered: its secret has come back

	reported time.Duration // until when its reports have extended it; 0: they have not
}

// conflict is what is known of other processes that use an instance's name. Times are by uptime.
type conflict struct {
	refused time.Duration // when another login was last refused the name; 0: never
	heard   bool          // of the instance itself since then
	reports signs
	watches signs

	at   time.Duration // of the last sign that there are two; 0: there was none
	last time.Time
	text string
}

// signs counts what may happen once to a single process.
type signs struct {
	n     int
	first time.Duration
}

// Crowd is that reads of a workload were refused, because it or a login had as many instances as it may have. It is kept in
// memory alone.
type Crowd struct {
	Limit   string    // by the name of the option
	Most    int       // its value
	Refused int       // reads, since the engine was opened
	Last    time.Time // of them
	Login   string    // display name of the last one
}

// String says it in a line.
func (c Crowd) String() string {
	return fmt.Sprintf("%d reads were refused since the engine was opened, the last at %s of login %s, because %s was %d",
		c.Refused, c.Last.UTC().Format(time.RFC3339), c.Login, c.Limit, c.Most)
}

// Lapsed is an instance whose sidecar stopped beside its process and did not come back before its lease ended. The process may still
// run.
type Lapsed struct {
	workload.Instance
	At time.Time // when its lease ended
}

// Target is what an instance should hold.
type Target struct {
	Held map[string]workload.Held
	Work []workload.Work
	Etag string
}

// New returns a fleet without instances. Uptime is a clock that nobody can set.
func New(secrets Secrets, uptime func() time.Duration) *Fleet {
	return &Fleet{
		secrets: secrets, uptime: uptime,
		by: map[string]workload.Instance{}, leases: map[string]lease{}, logins: map[string]int{}, lapsed: map[string]Lapsed{}, conflicts: map[string]*conflict{},
		changed: make(chan struct{}), targets: map[string]Target{},
	}
}

// Get returns an instance; false: there is none.
func (f *Fleet) Get(id string) (workload.Instance, bool) {
	if f == nil {
		return workload.Instance{}, false
	}
	i, ok := f.by[id]
	return i, ok
}

// All returns the instances, sorted by id.
func (f *Fleet) All() []workload.Instance {
	if f == nil {
		return nil
	}
	all := make([]workload.Instance, 0, len(f.ids))
	for _, id := range f.ids {
		all = append(all, f.by[id])
	}
	return all
}

// Put adds an instance, or replaces it.
func (f *Fleet) Put(i workload.Instance) {
	if old, ok := f.by[i.ID]; ok {
		f.uncount(old)
	} else {
		at, _ := slices.BinarySearch(f.ids, i.ID)
		f.ids = slices.Insert(f.ids, at, i.ID)
	}
	f.by[i.ID] = i
	f.logins[i.Login.Accessor]++
	delete(f.lapsed, i.ID)
}

// uncount takes an instance from those of its login.
func (f *Fleet) uncount(i workload.Instance) {
	if f.logins[i.Login.Accessor]--; f.logins[i.Login.Accessor] <= 0 {
		delete(f.logins, i.Login.Accessor)
	}
}

// Remove removes an instance.
func (f *Fleet) Remove(id string) {
	if at, ok := slices.BinarySearch(f.ids, id); ok {
		f.ids = slices.Delete(f.ids, at, at+1)
		f.uncount(f.by[id])
	}
	delete(f.by, id)
	delete(f.leases, id)
	delete(f.conflicts, id)
}

// Given counts how often an instance was given something else than before.
func (f *Fleet) Given() uint64 { return f.given }

// Give counts that an instance is given something else than before.
func (f *Fleet) Give() { f.given++ }

// Freeze keeps instances from being given anything until thaw is called.
func (f *Fleet) Freeze() (thaw func()) {
	f.frozen = make(chan struct{})
	return func() {
		close(f.frozen)
		f.frozen = nil
	}
}

// Frozen is closed when instances may be given something again; nil: they may.
func (f *Fleet) Frozen() <-chan struct{} {
	if f == nil {
		return nil
	}
	return f.frozen
}

// Changed is closed when the bundle of an instance may have changed, or the fleet has ended.
func (f *Fleet) Changed() <-chan struct{} { return f.changed }

// Forget makes what instances should hold be found out again.
func (f *Fleet) Forget() {
	clear(f.targets)
	f.moving = nil
}

// Wake wakes those who watch, after what instances should hold has changed.
func (f *Fleet) Wake() {
	f.Forget()
	close(f.changed)
	f.changed = make(chan struct{})
}

// End wakes those who watch for the last time.
func (f *Fleet) End() { close(f.changed) }

// Target returns what instances should hold whose rotations have gone as far. find finds it out, once until [Fleet.Forget].
func (f *Fleet) Target(far string, find func() Target) Target {
	t, ok := f.targets[far]
	if !ok {
		t = find()
		f.targets[far] = t
	}
	return t
}

// Moving returns the keys that are being rotated. find finds them out, once until [Fleet.Forget].
func (f *Fleet) Moving(find func() []string) []string {
	if f.moving == nil {
		f.moving = append([]string{}, find()...)
	}
	return f.moving
}
