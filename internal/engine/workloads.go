// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// PutWorkload creates or changes a workload.
func (e *Engine) PutWorkload(ctx context.Context, w workload.Workload, by rotation.Actor) error {
	if err := w.Validate(); err != nil {
		return rotation.Refusef("%w", err)
	}
	l, release := e.acquire()
	defer release()
	for _, name := range w.KeyNames() {
		if _, ok := l.keys[name]; !ok {
			return unknownKey(name)
		}
		old, had := l.workloads[w.Name]
		if r, ok := l.active[l.rotating[name]]; ok && (!had || old.Keys[name] != w.Keys[name]) {
			return rotation.Refusef("key %s is being rotated by %s, so that its roles cannot change now; %s", name, r.ID, l.endHint(r))
		}
	}
	if old, had := l.workloads[w.Name]; had {
		for name := range old.Keys {
			if r, ok := l.active[l.rotating[name]]; ok && !w.Uses(name) {
				return rotation.Refusef("key %s is being rotated by %s, so that workload %s cannot drop it now; %s", name, r.ID, w.Name, l.endHint(r))
			}
		}
	}
	if err := l.checkAfter(w); err != nil {
		return err
	}
	if err := l.checkCarries(w); err != nil {
		return err
	}
	changes := workloadChanges(l.workloads[w.Name], w)
	if err := e.journal.Add(ctx, journal.Entry{What: "workload written", By: by.Name, Entity: by.Entity, Workload: w.Name, Changes: changes}); err != nil {
		return err
	}
	if err := e.put(ctx, pathWorkloads+w.Name, w); err != nil {
		return err
	}
	e.lock(func(m *memory) {
		m.workloads[w.Name] = w
		if m.fleets[w.Name] == nil {
			m.fleets[w.Name] = fleet.New(l.secrets(), l.Uptime)
		}
	})
	l.markDirty()
	return nil
}

// checkAfter refuses unknown names and circles.
func (cat *catalog) checkAfter(w workload.Workload) error {
	var walk func(name string, path []string) error
	walk = func(name string, path []string) error {
		after := cat.workloads[name].After
		if name == w.Name {
			after = w.After
		}
		for _, next := range after {
			if next == w.Name {
				return rotation.Refusef("after: workloads wait for each other in a circle: %s", strings.Join(append(path, next), " after "))
			}
			if _, ok := cat.workloads[next]; !ok {
				return rotation.Refusef("after: workload %q is not known; write hyvve/workloads/%s first", next, next)
			}
			if err := walk(next, append(path, next)); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(w.Name, []string{w.Name})
}

// Workload returns a workload; false where there is none.
func (s *state) Workload(name string) (workload.Workload, bool) {
	m, unlock := s.memory.Lock()
	defer unlock()
	w, ok := m.workloads[name]
	return w, ok
}

// WorkloadNames lists the workloads, sorted.
func (s *state) WorkloadNames() []string {
	m, unlock := s.memory.Lock()
	defer unlock()
	return slices.Sorted(maps.Keys(m.workloads))
}

// Instances returns the live instances of a workload, sorted by id.
func (s *state) Instances(name string) []workload.Instance {
	m, unlock := s.memory.Lock()
	defer unlock()
	return m.fleets[name].All()
}

// DeleteWorkload removes a workload and its instances. Refused while a rotation asks it for anything.
func (e *Engine) DeleteWorkload(ctx context.Context, name string, by rotation.Actor) error {
	l, release := e.acquire()
	defer release()
	w, ok := l.workloads[name]
	if !ok {
		return nil
	}
	for _, k := range w.KeyNames() {
		if r, ok := l.active[l.rotating[k]]; ok {
			return rotation.Refusef("workload %s takes part in rotation %s; wait until it has ended, or revert it with hyvve/rotations/%s/revert", name, r.ID, r.ID)
		}
	}
	for _, other := range l.workloads {
		if slices.Contains(other.After, name) {
			return rotation.Refusef("workload %s comes after %s; change hyvve/workloads/%s first", other.Name, name, other.Name)
		}
	}
	if err := e.journal.Add(ctx, journal.Entry{What: "workload deleted", By: by.Name, Entity: by.Entity, Workload: name, Changes: workloadChanges(w, workload.Workload{})}); err != nil {
		return err
	}
	if err := e.removeInstances(ctx, name); err != nil {
		return err
	}
	if err := e.remove(ctx, pathWorkloads+name); err != nil {
		return err
	}
	e.lock(func(m *memory) { delete(m.workloads, name) })
	if err := e.removeInstances(ctx, name); err != nil { // those that read meanwhile; now they no longer can
		return err
	}
	e.lock(func(m *memory) {
		if f := m.fleets[name]; f != nil && !m.closed {
			f.Wake()
		}
		delete(m.fleets, name)
	})
	return nil
}

func (s *state) removeInstances(ctx context.Context, name string) error {
	for _, i := range s.Instances(name) {
		if err := s.drop(ctx, name, i.ID, func(*fleet.Fleet, workload.Instance) bool { return true }); err != nil {
			return err
		}
	}
	return nil
}
