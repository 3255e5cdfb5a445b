// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
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
		if _, ok := l.Keys[name]; !ok {
			return catalog.UnknownKey(name)
		}
		old, had := l.Workloads[w.Name]
		if r, ok := l.active[l.rotating[name]]; ok && (!had || old.Keys[name] != w.Keys[name]) {
			return rotation.Refusef("key %s is being rotated by %s, so that its roles cannot change now; %s", name, r.ID, l.endHint(r))
		}
	}
	if old, had := l.Workloads[w.Name]; had {
		for name := range old.Keys {
			if r, ok := l.active[l.rotating[name]]; ok && !w.Uses(name) {
				return rotation.Refusef("key %s is being rotated by %s, so that workload %s cannot drop it now; %s", name, r.ID, w.Name, l.endHint(r))
			}
		}
	}
	if err := l.CheckAfter(w); err != nil {
		return err
	}
	if err := l.checkCarries(w); err != nil {
		return err
	}
	changes := catalog.WorkloadChanges(l.Workloads[w.Name], w)
	if err := e.journal.Add(ctx, journal.Entry{What: "workload written", By: by.Name, Entity: by.Entity, Workload: w.Name, Changes: changes}); err != nil {
		return err
	}
	if err := e.put(ctx, pathWorkloads+w.Name, w); err != nil {
		return err
	}
	e.lock(func(m *memory) {
		m.Workloads[w.Name] = w
		if m.fleets[w.Name] == nil {
			m.fleets[w.Name] = fleet.New(l.secrets(), l.Uptime)
		}
	})
	l.markDirty()
	return nil
}

// DeleteWorkload removes a workload and its instances. Refused while a rotation asks it for anything.
func (e *Engine) DeleteWorkload(ctx context.Context, name string, by rotation.Actor) error {
	l, release := e.acquire()
	defer release()
	w, ok := l.Workloads[name]
	if !ok {
		return nil
	}
	for _, k := range w.KeyNames() {
		if r, ok := l.active[l.rotating[k]]; ok {
			return rotation.Refusef("workload %s takes part in rotation %s; wait until it has ended, or revert it with hyvve/rotations/%s/revert", name, r.ID, r.ID)
		}
	}
	for _, other := range l.Workloads {
		if slices.Contains(other.After, name) {
			return rotation.Refusef("workload %s comes after %s; change hyvve/workloads/%s first", other.Name, name, other.Name)
		}
	}
	if err := e.journal.Add(ctx, journal.Entry{What: "workload deleted", By: by.Name, Entity: by.Entity, Workload: name, Changes: catalog.WorkloadChanges(w, workload.Workload{})}); err != nil {
		return err
	}
	if err := e.removeInstances(ctx, name); err != nil {
		return err
	}
	if err := e.remove(ctx, pathWorkloads+name); err != nil {
		return err
	}
	e.lock(func(m *memory) { delete(m.Workloads, name) })
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

// RemoveInstance removes an instance at an operator's word: rotations no longer wait for it. One that lives reads its bundle
// again, and is a new instance then.
func (e *Engine) RemoveInstance(ctx context.Context, workloadName, id string, by rotation.Actor) error {
	l, release := e.acquire()
	defer release()
	if _, ok := l.Workloads[workloadName]; !ok {
		return catalog.UnknownWorkload(workloadName)
	}
	i, ok := e.Instance(workloadName, id)
	if !ok {
		return nil
	}
	changes := catalog.Fields{"instance": id, "login": i.Login.Name, "etag_issued": i.Issued.Etag}.Changes(nil)
	if err := e.journal.Add(ctx, journal.Entry{What: "instance removed", By: by.Name, Entity: by.Entity, Workload: workloadName, Changes: changes}); err != nil {
		return err
	}
	return e.drop(ctx, workloadName, id, func(*fleet.Fleet, workload.Instance) bool { return true })
}
