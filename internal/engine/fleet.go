// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// markDirty says that the bundles of workloads that use one of the keys, or of all where none is named, may have changed: what
// instances should hold is found out anew, and those who watch are woken when the writer lock is released.
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
	if i.Anonymous {
		far.WriteByte('-')
	} else {
		for _, name := range f.Moving(func() []string { return m.moving(w) }) {
			far.WriteByte(byte('0' + m.active[m.rotating[name]].StageOf(i.Name()))) //nolint:gosec // a stage, 0 to 3
		}
	}
	return f.Target(far.String(), func() fleet.Target { return m.findTarget(w, i) })
}

// moving returns the keys of a workload that are being rotated.
func (m *memory) moving(w workload.Workload) (names []string) {
	for name := range w.Keys {
		if m.rotating[name] != "" {
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
		err := s.drop(ctx, i.Workload, i.ID, func(f *fleet.Fleet, _ workload.Instance) bool { return f.IsGone(i.ID) })
		if err != nil {
			s.Observer.Fault("instance "+i.Name()+" could not be removed", err)
			return
		}
	}
}

// drop removes an instance if it still should be, when nobody else stores it.
func (s *state) drop(ctx context.Context, workloadName, id string, should func(*fleet.Fleet, workload.Instance) bool) error {
	defer s.instances.Lock(workloadName + "/" + id)()
	ok := false
	var f *fleet.Fleet
	s.lock(func(m *memory) {
		f = m.fleets[workloadName]
		i, known := f.Get(id)
		ok = known && should(f, i)
	})
	if !ok {
		return nil
	}
	if err := s.remove(ctx, pathInstances+workloadName+"/"+id); err != nil {
		return err
	}
	s.lock(func(m *memory) {
		f.Remove(id)
		if !m.closed {
			f.Wake()
		}
	})
	s.nudge()
	return nil
}
