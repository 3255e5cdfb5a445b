// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// PutWorkload creates or changes a workload.
func (e *Engine) PutWorkload(ctx context.Context, w workload.Workload, by rotation.Actor) error {
	if err := w.Validate(); err != nil {
		return rotation.Refusef("%w", err)
	}
	defer e.takeTurn()()
	for _, name := range w.KeyNames() {
		if _, ok := e.keys[name]; !ok {
			return unknownKey(name)
		}
		old, had := e.workloads[w.Name]
		if r, ok := e.active[e.rotating[name]]; ok && (!had || old.Keys[name] != w.Keys[name]) {
			return rotation.Refusef("key %s is being rotated by %s, so that its roles cannot change now; %s", name, r.ID, e.endHint(r))
		}
	}
	if old, had := e.workloads[w.Name]; had {
		for name := range old.Keys {
			if r, ok := e.active[e.rotating[name]]; ok && !w.Uses(name) {
				return rotation.Refusef("key %s is being rotated by %s, so that workload %s cannot drop it now; %s", name, r.ID, w.Name, e.endHint(r))
			}
		}
	}
	if err := e.checkAfter(w); err != nil {
		return err
	}
	if err := e.checkCarries(w); err != nil {
		return err
	}
	changes := workloadChanges(e.workloads[w.Name], w)
	if err := e.journal.Add(ctx, journal.Entry{What: "workload written", By: by.Name, Entity: by.Entity, Workload: w.Name, Changes: changes}); err != nil {
		return err
	}
	if err := e.put(ctx, pathWorkloads+w.Name, w); err != nil {
		return err
	}
	e.lock(func() {
		e.workloads[w.Name] = w
		if e.fleets[w.Name] == nil {
			e.fleets[w.Name] = newFleet()
		}
	})
	e.ring()
	return nil
}

// checkAfter refuses unknown names and circles. turn is held.
func (e *Engine) checkAfter(w workload.Workload) error {
	var walk func(name string, path []string) error
	walk = func(name string, path []string) error {
		after := e.workloads[name].After
		if name == w.Name {
			after = w.After
		}
		for _, next := range after {
			if next == w.Name {
				return rotation.Refusef("after: workloads wait for each other in a circle: %s", strings.Join(append(path, next), " after "))
			}
			if _, ok := e.workloads[next]; !ok {
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

// Workload gives a workload; false where there is none.
func (e *Engine) Workload(name string) (workload.Workload, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w, ok := e.workloads[name]
	return w, ok
}

// WorkloadNames lists the workloads, sorted.
func (e *Engine) WorkloadNames() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.workloads))
}

// Instances gives the live instances of a workload, sorted by id.
func (e *Engine) Instances(name string) []workload.Instance {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fleets[name].all()
}

// DeleteWorkload removes a workload and its instances. Refused while a rotation asks it for anything.
func (e *Engine) DeleteWorkload(ctx context.Context, name string, by rotation.Actor) error {
	defer e.takeTurn()()
	w, ok := e.workloads[name]
	if !ok {
		return nil
	}
	for _, k := range w.KeyNames() {
		if r, ok := e.active[e.rotating[k]]; ok {
			return rotation.Refusef("workload %s takes part in rotation %s; wait until it has ended, or revert it with hyvve/rotations/%s/revert", name, r.ID, r.ID)
		}
	}
	for _, other := range e.workloads {
		if slices.Contains(other.After, name) {
			return rotation.Refusef("workload %s comes after %s; change hyvve/workloads/%s first", other.Name, name, other.Name)
		}
	}
	if err := e.journal.Add(ctx, journal.Entry{What: "workload deleted", By: by.Name, Entity: by.Entity, Workload: name, Changes: workloadChanges(w, workload.Workload{})}); err != nil {
		return err
	}
	if err := e.dismissAll(ctx, name); err != nil {
		return err
	}
	if err := e.remove(ctx, pathWorkloads+name); err != nil {
		return err
	}
	e.lock(func() { delete(e.workloads, name) })
	if err := e.dismissAll(ctx, name); err != nil { // those that read meanwhile; now they no longer can
		return err
	}
	e.lock(func() {
		if f := e.fleets[name]; f != nil && !e.closed {
			f.wake()
		}
		delete(e.fleets, name)
	})
	return nil
}

func (e *Engine) dismissAll(ctx context.Context, name string) error {
	for _, i := range e.Instances(name) {
		if err := e.drop(ctx, name, i.ID, func(*fleet, workload.Instance) bool { return true }); err != nil {
			return err
		}
	}
	return nil
}
