// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"hash/fnv"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// leaseSlack is for how long beyond its lease an instance is kept that Vault has not revoked: it is Vault that ends
// leases, and this is for those of which it never knew.
const leaseSlack = 30 * time.Second

// rereadTime is what a reader without a name has for reading again after its lease was cut short by a version's life.
const rereadTime = 10 * time.Second

// claimTime is what a login that was refused a name has for coming back once it is free: its back-off is at most 15 s.
const claimTime = 30 * time.Second

// fleet is the live instances of a workload.
type fleet struct {
	ids     []string // sorted
	by      map[string]workload.Instance
	leases  map[string]lease  // by id
	logins  map[string]int    // instances, by their login's accessor
	crowd   Crowd             // reads that were refused because there are too many instances
	changed chan struct{}     // closed when some bundle may have changed, then replaced
	targets map[string]target // what instances should hold, by their positions; until it may have changed
	given   uint64            // how often an instance was given something else than before
	barred  chan struct{}     // not nil while nobody may be given anything; closed then
	moving  []string          // keys of the workload that are being rotated, sorted; nil until somebody asks
}

// lease is what is known of an instance's newest lease. Times are by Uptime.
type lease struct {
	sure  bool          // Epoch is known to be that of its newest read
	given time.Duration // when it ends
	full  time.Duration // when it would end if no version's life had cut it short
	gone  time.Duration // when the instance is taken for gone although nobody revoked it

	heard     time.Duration // its last sign of life
	heartbeat bool          // it sends them every few seconds
	released  bool          // its last report said that it ends
	claimed   time.Duration // until when another login that was refused may come for its name

	reported time.Duration // until when its reports have extended it; 0: they have not
}

// newLease is one that begins now.
func (b *base) newLease(given, full time.Duration) lease {
	now := b.Uptime()
	return lease{sure: true, given: now + given, full: now + full, gone: now + full + leaseSlack, heard: now}
}

// renew puts a lease in the place of an instance's last one. What reports have extended stays extended.
func (f *fleet) renew(id string, l lease) {
	l.reported, l.heartbeat = f.leases[id].reported, l.heartbeat || f.leases[id].heartbeat
	l.gone = max(l.gone, l.reported)
	f.leases[id] = l
}

// claim notes that another login was refused an instance's name until a time. That login may well be the instance itself,
// which has logged in again and lives: it counts until it had the time to come back.
func (f *fleet) claim(id string, until time.Duration) {
	l := f.leases[id]
	l.claimed = max(l.claimed, until+claimTime)
	l.gone = max(l.gone, l.claimed)
	f.leases[id] = l
}

// target is what an instance should hold.
type target struct {
	held map[string]workload.Held
	work []workload.Work
	etag string
}

// oldLease is one of an earlier life, of which is known only how long it may last at most. It may end at any moment, and
// that says nothing of its instance, which has returnTime to be heard of.
func (m *memory) oldLease(i workload.Instance) lease {
	now, full := m.Uptime(), max(i.TTL, m.config.LeaseTTL)
	return lease{
		full: now + full, gone: now + full + leaseSlack,
		heard: now + max(returnTime-m.config.TakeoverAfter, 0), heartbeat: i.Heartbeat || i.Loaded != nil || !i.Judged.IsZero(),
	}
}

func newFleet() *fleet {
	return &fleet{
		by: map[string]workload.Instance{}, leases: map[string]lease{}, logins: map[string]int{},
		changed: make(chan struct{}), targets: map[string]target{},
	}
}

func (f *fleet) put(i workload.Instance) {
	if old, ok := f.by[i.ID]; ok {
		f.uncount(old)
	} else {
		at, _ := slices.BinarySearch(f.ids, i.ID)
		f.ids = slices.Insert(f.ids, at, i.ID)
	}
	f.by[i.ID] = i
	f.logins[i.Login.Accessor]++
}

// uncount takes an instance from those of its login.
func (f *fleet) uncount(i workload.Instance) {
	if f.logins[i.Login.Accessor]--; f.logins[i.Login.Accessor] <= 0 {
		delete(f.logins, i.Login.Accessor)
	}
}

func (f *fleet) remove(id string) {
	if at, ok := slices.BinarySearch(f.ids, id); ok {
		f.ids = slices.Delete(f.ids, at, at+1)
		f.uncount(f.by[id])
	}
	delete(f.by, id)
	delete(f.leases, id)
}

// all returns the instances, sorted by id.
func (f *fleet) all() []workload.Instance {
	if f == nil {
		return nil
	}
	all := make([]workload.Instance, 0, len(f.ids))
	for _, id := range f.ids {
		all = append(all, f.by[id])
	}
	return all
}

// markDirty says that the bundles of workloads that use one of the keys, or of all where none is named, may have changed: what
// instances should hold is found out anew, and those who watch are woken when the writer lock is released.
func (l *locked) markDirty(keys ...string) {
	l.lock(func(m *memory) {
		for name, f := range m.fleets {
			if w := m.workloads[name]; len(keys) == 0 || w.Uses(keys...) {
				f.forget()
				m.dirty[name] = true
			}
		}
	})
}

// notify wakes those for whom ring was called.
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
				f.wake()
			}
		}
		clear(m.dirty)
	})
}

// freeze keeps instances from being given anything until lift is called: while a rotation is stored that
// moves on from these facts. It moves over several places at once where nobody is in the way, and an instance that came
// meanwhile would hold what is right at none of them. False: one has come since, and the facts have to be gathered anew.
func (s *state) freeze(f rotation.Facts) (lift func(), ok bool) {
	m, unlock := s.memory.Lock()
	defer unlock()
	var barred []*fleet
	for _, w := range f.Workloads {
		l := m.fleets[w.Name]
		if l == nil || l.given != w.Given {
			return nil, false
		}
		barred = append(barred, l)
	}
	for _, l := range barred {
		l.barred = make(chan struct{})
	}
	return func() {
		s.lock(func(m *memory) {
			for _, l := range barred {
				close(l.barred)
				l.barred = nil
			}
		})
	}, true
}

// enter waits until instances of a workload may be given something, and returns the memory.
func (s *state) enter(workloadName string) (m *memory, unlock func()) {
	m, unlock = s.memory.Lock()
	for f := m.fleets[workloadName]; f != nil && f.barred != nil; f = m.fleets[workloadName] {
		barred := f.barred
		unlock()
		<-barred
		m, unlock = s.memory.Lock()
	}
	return m, unlock
}

// forget makes what instances should hold be found out anew.
func (f *fleet) forget() {
	clear(f.targets)
	f.moving = nil
}

func (f *fleet) wake() {
	f.forget()
	close(f.changed)
	f.changed = make(chan struct{})
}

// target is what an instance should hold now. It follows from how far the rotations of its workload's keys let it go, so
// that it is found out once for all that have gone as far.
func (m *memory) target(w workload.Workload, i workload.Instance) target {
	f := m.fleets[w.Name]
	var far strings.Builder
	if i.Anonymous {
		far.WriteByte('-')
	} else {
		for _, name := range m.moving(f, w) {
			far.WriteByte(byte('0' + m.active[m.rotating[name]].Position(i.Name()))) //nolint:gosec // a position, 0 to 3
		}
	}
	t, ok := f.targets[far.String()]
	if !ok {
		t = m.findTarget(w, i)
		f.targets[far.String()] = t
	}
	return t
}

// moving returns the keys of a workload that are being rotated.
func (m *memory) moving(f *fleet, w workload.Workload) []string {
	if f.moving == nil {
		f.moving = []string{}
		for name := range w.Keys {
			if m.rotating[name] != "" {
				f.moving = append(f.moving, name)
			}
		}
		slices.Sort(f.moving)
	}
	return f.moving
}

func (m *memory) findTarget(w workload.Workload, i workload.Instance) target {
	t := target{held: map[string]workload.Held{}}
	var idle []workload.Work // to be done any time
	for name, role := range w.Keys {
		if r, ok := m.active[m.rotating[name]]; ok {
			t.held[name] = r.Held(w, i)[name]
			if task, ok := m.workOf(r, name, w, role, i); ok {
				t.work = append(t.work, task)
			}
			continue
		}
		current, ok := m.keys[name].Current()
		if !ok {
			continue // no version yet: not part of any bundle
		}
		t.held[name] = rotation.HeldAtRest(role, current.Number, m.alsoAccepted(m.keys[name]))
		if k := m.keys[name]; w.Reencrypts && role.AcceptsBoth() && !i.Anonymous && len(k.Protects) > 0 {
			idle = append(idle, workload.Work{
				ID: countID(k, current.Number), Key: name, Env: k.Env, Phase: workload.PhaseCount, Columns: k.Protects,
			})
		}
	}
	slices.SortFunc(t.work, func(a, b workload.Work) int { return strings.Compare(a.ID, b.ID) })
	identity := func(name string) string { return m.keys[name].Created.Format(time.RFC3339Nano) }
	t.etag = workload.EtagOf(m.fingerprints, w.Name, t.held, t.work, identity)
	if len(t.work) == 0 { // what fails there must not slow down what a rotation waits for
		slices.SortFunc(idle, func(a, b workload.Work) int { return strings.Compare(a.ID, b.ID) })
		t.work = idle
	}
	return t
}

// countID names the count of a key's rows: another version, other columns or other rows of them are to be counted anew.
func countID(k key.Key, version int) string {
	columns := fnv.New64a()
	for _, c := range k.Protects {
		columns.Write([]byte(c.Protected() + "\n"))
	}
	return fmt.Sprintf("%s%s/%d/%x", workload.CountPrefix, k.Name, version, columns.Sum64())
}

// workOf is what the rotation of a key asks of an instance.
func (cat *catalog) workOf(r rotation.Rotation, keyName string, w workload.Workload, role workload.Role, i workload.Instance) (workload.Work, bool) {
	change, ok := r.Change(keyName)
	if !ok || !w.Reencrypts || !role.AcceptsBoth() || i.Anonymous {
		return workload.Work{}, false
	}
	task, ok := r.WorkFor(change)
	if !ok {
		return workload.Work{}, false
	}
	for _, other := range cat.keys {
		if other.Name == keyName {
			continue
		}
		for _, c := range other.Protects {
			if o := (workload.Other{Env: other.Env, Layout: c.Layout}); sharesColumn(c, change.Protects) && !slices.Contains(task.Others, o) {
				task.Others = append(task.Others, o)
			}
		}
	}
	slices.SortFunc(task.Others, func(a, b workload.Other) int { return strings.Compare(a.Env, b.Env) })
	return task, true
}

func sharesColumn(c key.Column, columns []key.Column) bool {
	return slices.ContainsFunc(columns, func(o key.Column) bool { return o.String() == c.String() })
}

// expireInstances removes the instances whose leases must have ended although nobody said so: those of reads that Vault never
// made a lease of, since it was killed in between.
func (s *state) expireInstances(ctx context.Context) {
	now := s.Uptime()
	var gone []workload.Instance
	s.lock(func(m *memory) {
		for _, f := range m.fleets {
			for _, id := range f.ids {
				if f.leases[id].gone < now {
					gone = append(gone, f.by[id])
				}
			}
		}
	})
	slices.SortFunc(gone, func(a, b workload.Instance) int { return strings.Compare(a.Name(), b.Name()) })
	for _, i := range gone {
		err := s.drop(ctx, i.Workload, i.ID, func(f *fleet, _ workload.Instance) bool { return f.leases[i.ID].gone < s.Uptime() })
		if err != nil {
			s.Observer.Fault("instance "+i.Name()+" could not be removed", err)
			return
		}
	}
}

// drop removes an instance if it still should be, when nobody else stores it.
func (s *state) drop(ctx context.Context, workloadName, id string, should func(*fleet, workload.Instance) bool) error {
	defer s.instances.lock(workloadName + "/" + id)()
	ok := false
	var f *fleet
	s.lock(func(m *memory) {
		if f = m.fleets[workloadName]; f == nil {
			return
		}
		i, known := f.by[id]
		ok = known && should(f, i)
	})
	if !ok {
		return nil
	}
	if err := s.remove(ctx, pathInstances+workloadName+"/"+id); err != nil {
		return err
	}
	s.lock(func(m *memory) {
		f.remove(id)
		if !m.closed {
			f.wake()
		}
	})
	s.nudge()
	return nil
}

// locks are one lock a name, more or less: names may share one.
type locks struct{ of [64]sync.Mutex }

var lockSeed = maphash.MakeSeed()

// lock takes a name's lock, and returns what releases it.
func (l *locks) lock(name string) func() {
	m := &l.of[maphash.String(lockSeed, name)%uint64(len(l.of))]
	m.Lock()
	return m.Unlock
}

// await waits for whoever has a lock now.
func (l *locks) await() {
	for n := range l.of {
		l.of[n].Lock()
		l.of[n].Unlock() //nolint:staticcheck // to have waited is all
	}
}
