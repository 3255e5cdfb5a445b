// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"maps"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// PutKey creates or changes a definition; versions stay as they are.
func (e *Engine) PutKey(ctx context.Context, d catalog.Definition, by rotation.Actor) (key.Key, error) {
	k, err := e.base.Check(d)
	if err != nil {
		return key.Key{}, err
	}
	l, release := e.acquire()
	defer release()
	what := "key created"
	if old, ok := l.Keys[k.Name]; ok {
		what = "key changed"
		if err := l.mayChange(old, k); err != nil {
			return key.Key{}, err
		}
		k.Versions, k.Created, k.Kept, k.Above = old.Versions, old.Created, old.Kept, old.Above
		k.PolicyBy = old.PolicyBy
	}
	if what == "key created" || k.Policy != l.Keys[k.Name].Policy {
		k.PolicyBy = by.Entity
		if err := l.Defaults.CheckPolicyBy(k); err != nil {
			return key.Key{}, rotation.Refusef("%w; nothing was stored", err)
		}
	}
	if k.PolicyBy == "" { // as it was written by an earlier release, or while nobody had to confirm
		k.PolicyBy = by.Entity
	}
	if err := l.CheckNames(k); err != nil {
		return key.Key{}, err
	}
	if _, err := l.ConnectionOf(k); err != nil {
		return key.Key{}, rotation.Refusef("%w", err)
	}
	if err := l.CheckWitness(k); err != nil {
		return key.Key{}, err
	}
	if err := l.CheckHosts(k, key.Value{}); err != nil {
		return key.Key{}, rotation.Refusef("key %s: %w; nothing was stored", k.Name, err)
	}
	d.Env, d.Options, d.IgnoreColumns = k.Env, k.Options, k.IgnoreColumns // as they are stored
	changes := e.base.DefinitionChanges(l.Keys[k.Name], d)
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

// mayChange refuses what versions or a running rotation rely on.
func (l *locked) mayChange(old, changed key.Key) error {
	if changed.Kind != old.Kind {
		return rotation.Refusef("key %s is of kind %s; a kind cannot be changed: make a new key", old.Name, old.Kind)
	}
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
	if err := e.remove(ctx, pathKeys+name); err != nil {
		return err
	}
	e.lock(func(m *memory) {
		delete(m.Keys, name)
		delete(m.health, checksKey+name)
		maps.DeleteFunc(m.intended, func(of versionID, _ string) bool { return of.key == name })
	})
	l.plan(name, e.Now())
	return nil
}
