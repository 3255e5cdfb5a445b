// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// PutKey creates or changes a definition; versions stay as they are.
func (e *Engine) PutKey(ctx context.Context, d catalog.Definition, by rotation.Actor) (key.Key, error) {
	l, release := e.acquire()
	defer release()
	k, what, changes, err := l.checkKey(d, by)
	if err != nil {
		return key.Key{}, err
	}
	if err := e.journal.Add(ctx, journal.Entry{What: what, By: by.Name, Entity: by.Entity, Keys: []journal.Key{{Key: k.Name}}, Changes: changes}); err != nil {
		return key.Key{}, err
	}
	if r, ok := l.active[l.rotating[k.Name]]; ok && k.Witness != l.Keys[k.Name].Witness { // the look by the old witness has failed, not by this
		if c, ok := r.Change(k.Name); ok {
			e.lock(func(m *memory) {
				if id := r.WorkID(c); !m.looks[id].Running {
					delete(m.looks, id)
				}
			})
		}
		defer e.nudge()
	}
	return k, l.swapKey(ctx, k)
}

// checkKey returns the key of a definition that may be stored, what that is called, and what it changes.
func (l *locked) checkKey(d catalog.Definition, by rotation.Actor) (k key.Key, what string, changes []rotation.EntryChange, err error) {
	if old, known := l.Keys[d.Name]; known && d.Kind != old.Kind { // before its options, which the other kind may not know
		return k, "", nil, rotation.Refusef("key %s is of kind %s; a kind cannot be changed: make a new key", old.Name, old.Kind)
	}
	if k, err = l.base.Check(d); err != nil {
		return k, "", nil, err
	}
	what = "key created"
	old, known := l.Keys[k.Name]
	if k.Name == key.All && !known {
		return k, "", nil, rotation.Refusef("key name %q stands for all keys in hyvve/rotate keys=%[1]s; use another name; nothing was stored", key.All)
	}
	if k.Name == Latest && !known {
		return k, "", nil, rotation.Refusef("key name %q stands for the newest rotation in hyvve/rotations/%[1]s; use another name; nothing was stored", Latest)
	}
	if known {
		what = "key changed"
		if err := l.mayChange(old, k); err != nil {
			return k, "", nil, err
		}
		k.Versions, k.Created, k.Kept, k.Above = old.Versions, old.Created, old.Kept, old.Above
		k.PolicyBy = old.PolicyBy
	}
	before := l.Keys[k.Name]
	before.Name, before.Versions = k.Name, k.Versions
	k.CountsFrom = schedule.CountsFrom(before, k, l.Now().UTC(), l.Share)
	if what == "key created" || k.Policy != l.Keys[k.Name].Policy {
		k.PolicyBy = by.Entity
		if err := l.Defaults.CheckPolicyBy(k); err != nil {
			return k, "", nil, rotation.Refusef("%w; nothing was stored", err)
		}
	}
	if k.PolicyBy == "" { // as it was written by an earlier release, or while nobody had to confirm
		k.PolicyBy = by.Entity
	}
	if err := l.CheckNames(k); err != nil {
		return k, "", nil, err
	}
	if _, err := l.ConnectionOf(k); err != nil {
		return k, "", nil, rotation.Refusef("%w", err)
	}
	if err := l.CheckWitness(k); err != nil {
		return k, "", nil, err
	}
	if err := l.CheckHosts(k, key.Value{}); err != nil {
		return k, "", nil, rotation.Refusef("key %s: %w; nothing was stored", k.Name, err)
	}
	if current, ok := k.Current(); ok { // bundles are not to fail
		if _, err := (source{l.Catalog}).Render(k, current); err != nil {
			return k, "", nil, rotation.Refusef("key %s: %w; nothing was stored", k.Name, err)
		}
	}
	d.Env, d.Options, d.IgnoreColumns = k.Env, k.Options, k.IgnoreColumns // as they are stored
	changes = l.base.DefinitionChanges(l.Keys[k.Name], d)
	return k, what, changes, nil
}

// mayChange refuses what versions or a running rotation rely on.
func (l *locked) mayChange(old, changed key.Key) error {
	if changed.Env != old.Env {
		return rotation.Refusef("key %s is known to workloads as %s; env cannot be changed: make a new key", old.Name, old.Env)
	}
	if undeleted := old.Undeleted(); len(undeleted) > 0 && len(old.Protects) == 0 && len(changed.Protects) > 0 {
		return rotation.Refusef("key %s: protects: version %d is undeleted for a time, and a version that rows may need has no end of its own; end it first: vault write hyvve/keys/%s/retire version=%d; then write the change, and undelete it again if rows need it", old.Name, undeleted[0], old.Name, undeleted[0])
	}
	if err := l.EndsUndeleted(changed, old); err != nil {
		return err
	}
	if r, ok := l.active[l.rotating[old.Name]]; ok && (!slices.EqualFunc(changed.Protects, old.Protects, key.Column.Equal) || !maps.Equal(changed.Options, old.Options)) {
		if !r.Revertible() {
			return rotation.Refusef("key %s is being rotated by %s, and nothing else of it can change meanwhile; %s", old.Name, r.ID, l.endHint(r))
		}
		return rotation.Refusef("key %s is being rotated by %s, and nothing else of it can change meanwhile; wait until it has ended; or, if it waits for this change: vault write -f hyvve/rotations/%s/revert, write the change, and rotate again", old.Name, r.ID, r.ID)
	}
	return nil
}

// DeleteKey erases a key and all its values. Refused while anything relies on it.
func (e *Engine) DeleteKey(ctx context.Context, name string, by rotation.Actor) error {
	l, release := e.acquire()
	defer release()
	k, ok := l.Keys[name]
	if !ok {
		return nil
	}
	if r, ok := l.active[l.rotating[name]]; ok {
		return l.underWay(name, r)
	}
	for _, w := range l.Workloads {
		if w.Uses(name) {
			return rotation.Refusef("key %s is used by workload %s; take it out of hyvve/workloads/%s first", name, w.Name, w.Name)
		}
	}
	deleted := journal.Entry{What: "key deleted", By: by.Name, Entity: by.Entity, Keys: []journal.Key{{Key: name}}, Changes: e.base.DefinitionChanges(k, catalog.Definition{})}
	if err := e.journal.Add(ctx, deleted); err != nil {
		return err
	}
	if err := e.remove(ctx, pathTripwires+name); err != nil { // before the key: killed in between, the key can be deleted again
		return err
	}
	if err := e.remove(ctx, pathKeys+name); err != nil {
		return err
	}
	if err := l.forgetUnissued(ctx, name); err != nil {
		return err
	}
	e.lock(func(m *memory) {
		delete(m.Keys, name)
		delete(m.tripwires, name)
		delete(m.tripped, name)
		delete(m.health, checksKey+name)
		maps.DeleteFunc(m.intended, func(of versionID, _ string) bool { return of.key == name })
	})
	l.plan(name, e.Now())
	return nil
}

// PutWorkload creates or changes a workload. Its live instances follow a change of its keys in waves. Unless drop is set, it is
// refused to take a key away that an instance holds.
func (e *Engine) PutWorkload(ctx context.Context, w workload.Workload, drop bool, by rotation.Actor) error {
	l, release := e.acquire()
	defer release()
	w, waiting, err := l.checkWorkload(w, drop)
	if err != nil {
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
		m.waiting[w.Name] = waiting
		if m.fleets[w.Name] == nil {
			m.fleets[w.Name] = fleet.New(l.secrets(), l.Uptime)
		}
	})
	l.markDirty()
	l.followChanges(ctx)
	return nil
}

// checkWorkload returns a workload that may be stored, and the instances that wait for their turn to follow its change.
func (l *locked) checkWorkload(w workload.Workload, drop bool) (workload.Workload, waits, error) {
	if err := w.Validate(); err != nil {
		return w, nil, rotation.Refusef("%w", err)
	}
	w.Before = nil
	for _, name := range w.KeyNames() {
		if _, ok := l.Keys[name]; !ok {
			return w, nil, l.UnknownKey(name)
		}
		old, had := l.Workloads[w.Name]
		if r, ok := l.active[l.rotating[name]]; ok && (!had || old.Keys[name] != w.Keys[name]) {
			return w, nil, rotation.Refusef("key %s is being rotated by %s, so that its roles cannot change now; %s", name, r.ID, l.endHint(r))
		}
	}
	if old, had := l.Workloads[w.Name]; had {
		for name := range old.Keys {
			if r, ok := l.active[l.rotating[name]]; ok && !w.Uses(name) {
				return w, nil, rotation.Refusef("key %s is being rotated by %s, so that workload %s cannot drop it now; %s", name, r.ID, w.Name, l.endHint(r))
			}
		}
	}
	if err := l.CheckAfter(w); err != nil {
		return w, nil, err
	}
	if err := l.checkCarries(w); err != nil {
		return w, nil, err
	}
	return l.changeOf(w, drop)
}

// DeleteWorkload removes a workload and its instances. Refused while a rotation asks it for anything, and without drop while live
// instances hold its keys: no rotation waits for their processes any more.
func (e *Engine) DeleteWorkload(ctx context.Context, name string, drop bool, by rotation.Actor) error {
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
	if holders := l.holdersOf(name); len(holders) > 0 && !drop {
		return rotation.Refusef("workload %s has live instances that hold its keys: %s; nothing was changed. Stop their processes first. Or, so that rotations retire what they hold without waiting for them: vault delete hyvve/workloads/%s drop=true", name, someOf(holders), name)
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
	e.lock(func(m *memory) {
		delete(m.Workloads, name)
		delete(m.waiting, name)
	})
	if err := e.removeInstances(ctx, name); err != nil { // those that read meanwhile; now they no longer can
		return err
	}
	lapsed := get(e.state, func(m *memory) []fleet.Lapsed { return m.fleets[name].AllLapsed() })
	for _, i := range lapsed {
		if err := e.settleLapsed(ctx, name, i.ID); err != nil {
			return err
		}
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
	if err := e.settleLapsed(ctx, workloadName, id); err != nil {
		return err
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

// PutConfig replaces them.
func (e *Engine) PutConfig(ctx context.Context, c catalog.Config, by rotation.Actor) error {
	c.Confirm, c.ConfirmBy = cmp.Or(c.Confirm, rotation.ConfirmAuto), cmp.Or(c.ConfirmBy, rotation.ConfirmByAny)
	if err := c.Check(); err != nil {
		return err
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	l, release := e.acquire()
	defer release()
	if err := l.JournalFloor.Admits(l.Defaults, c); err != nil {
		return err
	}
	if err := e.journal.Add(ctx, journal.Entry{What: "config written", By: by.Name, Entity: by.Entity, Changes: l.Defaults.Fields().Changes(c.Fields())}); err != nil {
		return err
	}
	if err := e.write(ctx, pathConfig, data); err != nil {
		return err
	}
	again := c.LookEvery != l.Defaults.LookEvery
	e.lock(func(m *memory) { m.Defaults = c })
	if again {
		l.planChecks(e.Now())
	}
	l.needsRetention = true
	l.markDirty()
	return nil
}

// PutFloor replaces it. The entry of one that is lower in any way is never taken away.
func (e *Engine) PutFloor(ctx context.Context, f catalog.Floor, by rotation.Actor) error {
	if err := f.Check(); err != nil {
		return err
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	l, release := e.acquire()
	defer release()
	entry := journal.Entry{What: "journal's floor written", By: by.Name, Entity: by.Entity, Changes: l.JournalFloor.Fields().Changes(f.Fields())}
	if f.Entries < l.JournalFloor.Entries || f.Age < l.JournalFloor.Age {
		entry.What, entry.Keep = "journal's floor lowered", &journal.Link{}
	}
	if err := e.journal.Add(ctx, entry); err != nil {
		return err
	}
	if err := e.write(ctx, pathFloor, data); err != nil {
		return err
	}
	e.lock(func(m *memory) { m.JournalFloor = f })
	l.needsRetention = true
	return nil
}
