// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// markDirty says that the bundles of workloads that use one of the keys, or of all where none is named, may have changed: what
// instances should hold is found out again, and those who watch are woken when the writer lock is released.
func (l *locked) markDirty(keys ...string) {
	l.lock(func(m *memory) {
		for name, f := range m.fleets {
			if w := m.Workloads[name]; len(keys) == 0 || w.Uses(keys...) {
				f.Forget()
				m.dirty[name] = true
			}
		}
	})
}

// freeze keeps instances from reading bundles until thaw is called, while a rotation that moves on from these facts is stored.
// The rotation may pass several steps at once, and an instance that joins in between would hold what is right in none of them.
// ok is false if one has joined since: gather the facts again.
func (s *state) freeze(f rotation.Facts) (thaw func(), ok bool) {
	m, unlock := s.memory.Lock()
	defer unlock()
	var concerned []*fleet.Fleet
	for _, w := range f.Workloads {
		l := m.fleets[w.Name]
		if l == nil || l.Given() != w.Given {
			return nil, false
		}
		concerned = append(concerned, l)
	}
	var thaws []func()
	for _, l := range concerned {
		thaws = append(thaws, l.Freeze())
	}
	return func() {
		s.lock(func(*memory) {
			for _, thaw := range thaws {
				thaw()
			}
		})
	}, true
}

// enter waits until instances of a workload may be given something, and returns the memory.
func (s *state) enter(workloadName string) (m *memory, unlock func()) {
	m, unlock = s.memory.Lock()
	for frozen := m.fleets[workloadName].Frozen(); frozen != nil; frozen = m.fleets[workloadName].Frozen() {
		unlock()
		<-frozen
		m, unlock = s.memory.Lock()
	}
	return m, unlock
}

// target is what an instance should hold now. It follows from how far the rotations of its workload's keys let it go, so
// that it is found out once for all that have gone as far.
func (m *memory) target(w workload.Workload, i workload.Instance) fleet.Target {
	f := m.fleets[w.Name]
	var far strings.Builder
	var waits []string
	if w.Before != nil {
		waits = m.waiting[w.Name][i.ID]
	}
	if len(waits) > 0 {
		far.WriteString(strings.Join(waits, ",") + "<")
	}
	if i.Anonymous {
		far.WriteByte('-')
	} else {
		for _, name := range f.Moving(func() []string { return m.moving(w) }) {
			far.WriteByte(byte('0' + m.active[m.rotating[name]].StageOf(i.Name()))) //nolint:gosec // a stage, 0 to 3
		}
	}
	return f.Target(far.String(), func() fleet.Target { return m.findTarget(w.Waiting(waits), i) })
}

// moving returns the keys that are being rotated of a workload, or of its instances that have not followed its last change.
func (m *memory) moving(w workload.Workload) (names []string) {
	for name, id := range m.rotating {
		if id != "" && w.Uses(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (m *memory) findTarget(w workload.Workload, i workload.Instance) fleet.Target {
	t := fleet.Target{Held: map[string]workload.Held{}}
	var idle []workload.Work // to be done any time
	for name, role := range w.Keys {
		if r, ok := m.active[m.rotating[name]]; ok {
			t.Held[name] = r.Held(w, i)[name]
			if task, ok := m.WorkOf(r, name, w, role, i); ok {
				t.Work = append(t.Work, task)
			}
			continue
		}
		current, ok := m.Keys[name].Current()
		if !ok {
			continue // no version yet: not part of any bundle
		}
		t.Held[name] = rotation.HeldAtRest(role, current.Number, m.AlsoAccepted(m.Keys[name]))
		if k := m.Keys[name]; w.Reencrypts && role.AcceptsBoth() && !i.Anonymous && len(k.Protects) > 0 {
			idle = append(idle, workload.Work{
				ID: catalog.CountID(k, current.Number), Key: name, Env: k.Env, Phase: workload.PhaseCount, Columns: k.Protects,
			})
		}
	}
	slices.SortFunc(t.Work, func(a, b workload.Work) int { return strings.Compare(a.ID, b.ID) })
	identity := func(name string) string { return m.Keys[name].Created.Format(time.RFC3339Nano) }
	t.Etag = workload.EtagOf(m.Fingerprints, w.Name, t.Held, t.Work, identity)
	if len(t.Work) == 0 { // what fails there must not slow down what a rotation waits for
		slices.SortFunc(idle, func(a, b workload.Work) int { return strings.Compare(a.ID, b.ID) })
		t.Work = idle
	}
	return t
}

// ttl is how long a lease on these versions lasts: the configured time, within limit, and never beyond the life of a
// version; and how long without the latter.
func (m *memory) ttl(held map[string]workload.Held, now time.Time, limit time.Duration) (given, full time.Duration) {
	full = max(min(m.Defaults.LeaseTTL, limit), time.Second)
	given = full
	for name := range held {
		if m.rotating[name] != "" {
			continue
		}
		if left, limited := m.remaining(m.Keys[name], now); limited {
			given = min(given, max(left, time.Second))
		}
	}
	return given, full
}

// source is the catalog as the source of bundles.
type source struct{ *catalog.Catalog }

var _ workload.Source = source{}

// Key implements workload.Source. A version that its server has yet to make has no value there.
func (s source) Key(name string) (key.Key, bool) {
	k, ok := s.Keys[name]
	return s.WithoutOrders(k), ok
}

// Render implements workload.Source.
func (s source) Render(k key.Key, v key.Version) (map[string]key.Value, error) {
	names := map[string]key.Value{}
	if r, ok := s.KindOf(k).(kind.Renderer); ok {
		var err error
		if names, err = r.Render(k.Options, v); err != nil {
			return nil, err
		}
	}
	if names == nil {
		names = map[string]key.Value{}
	}
	names[k.Env] = v.Value
	return names, nil
}

// checkCarried refuses a value, to be imported, that a live instance of a workload cannot carry.
func (m *memory) checkCarried(k key.Key, v key.Value) error {
	if !v.MultiLine() {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(m.Workloads)) {
		if !m.Workloads[name].Uses(k.Name) {
			continue
		}
		if why := rotation.CannotCarry(k.Name, k.Env, name, m.fleets[name].All()); why != "" {
			return rotation.Refusef("%s; nothing was stored", why)
		}
	}
	return nil
}

// checkCarries refuses a workload whose live instances cannot carry what its keys hold.
func (l *locked) checkCarries(w workload.Workload) error {
	instances := l.Instances(w.Name)
	for _, name := range w.KeyNames() {
		k := l.Keys[name]
		if !slices.ContainsFunc(k.Versions, func(v key.Version) bool { return v.Value.MultiLine() }) {
			continue
		}
		if why := rotation.CannotCarry(name, k.Env, w.Name, instances); why != "" {
			return rotation.Refusef("%s; nothing was changed", why)
		}
	}
	return nil
}

// checkHolds refuses to hand an instance a value that it cannot carry.
func (m *memory) checkHolds(i workload.Instance, held map[string]workload.Held) error {
	for _, name := range slices.Sorted(maps.Keys(held)) {
		k := m.Keys[name]
		if i.Carries(k.Env) || !slices.ContainsFunc(k.Versions, func(v key.Version) bool { return held[name].Uses(v.Number) && v.Value.MultiLine() }) {
			continue
		}
		return rotation.Refusef("key %s: the value of %s has several lines, which this reader of workload %s cannot carry: %s", name, k.Env, i.Workload, rotation.CarryRemedy)
	}
	return nil
}

// expireInstances removes the instances whose leases must have ended although nobody said so: those of reads that Vault never
// made a lease of, since it was killed in between.
func (s *state) expireInstances(ctx context.Context) {
	var gone []workload.Instance
	s.lock(func(m *memory) {
		for _, f := range m.fleets {
			gone = append(gone, f.Gone()...)
		}
	})
	slices.SortFunc(gone, func(a, b workload.Instance) int { return strings.Compare(a.Name(), b.Name()) })
	for _, i := range gone {
		err := s.lapse(ctx, i.Workload, i.ID, func(f *fleet.Fleet, _ workload.Instance) bool { return f.IsGone(i.ID) })
		if err != nil {
			s.Observer.Fault("instance "+i.Name()+" could not be removed", err)
			return
		}
	}
}

// lapse removes an instance if its lease has ended, and notes that if its process may run on.
func (s *state) lapse(ctx context.Context, workloadName, id string, ended func(*fleet.Fleet, workload.Instance) bool) error {
	return s.end(ctx, workloadName, id, true, ended)
}

// drop removes an instance if it still should be.
func (s *state) drop(ctx context.Context, workloadName, id string, should func(*fleet.Fleet, workload.Instance) bool) error {
	return s.end(ctx, workloadName, id, false, should)
}

// end removes an instance if it still should be, when nobody else stores it. lapses: its process may run on.
func (s *state) end(ctx context.Context, workloadName, id string, lapses bool, should func(*fleet.Fleet, workload.Instance) bool) error {
	defer s.instances.Lock(workloadName + "/" + id)()
	ok := false
	var f *fleet.Fleet
	var i workload.Instance
	s.lock(func(m *memory) {
		f = m.fleets[workloadName]
		i, ok = f.Get(id)
		ok = ok && should(f, i)
	})
	if !ok {
		return nil
	}
	if lapses {
		if err := s.noteLapsed(ctx, i); err != nil {
			return err
		}
	}
	if err := s.remove(ctx, pathInstances+workloadName+"/"+id); err != nil {
		return err
	}
	var over []string
	s.lock(func(m *memory) {
		f.Remove(id)
		if lapses {
			over = f.Lapse(i, s.Now())
		}
		if !m.closed {
			f.Wake()
		}
	})
	s.nudge()
	return s.forgetLapsed(ctx, workloadName, over...)
}

func (s *state) removeInstances(ctx context.Context, name string) error {
	for _, i := range s.Instances(name) {
		if err := s.drop(ctx, name, i.ID, func(*fleet.Fleet, workload.Instance) bool { return true }); err != nil {
			return err
		}
	}
	return nil
}
