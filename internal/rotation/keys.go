// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// MinPeriod is the shortest rotation_period: below it a rotation would begin before the last one can have ended.
const MinPeriod = 10 * time.Second

// Definition is what an operator writes of a key.
type Definition struct {
	Name     string
	Env      string // empty: made from the name
	Kind     string
	Options  kind.Options
	Protects []key.Column
	Policy   key.Policy
}

// InheritSoak as Policy.Soak stands for the mount's default.
const InheritSoak = -1

// check gives the key of a definition, without versions.
func (e *Engine) check(d Definition) (key.Key, error) {
	if err := key.ValidateName("key", d.Name); err != nil {
		return key.Key{}, Refusef("%w", err)
	}
	if d.Env == "" {
		d.Env = key.EnvFor(d.Name)
	}
	if err := key.ValidateEnv(d.Env); err != nil {
		return key.Key{}, Refusef("%w", err)
	}
	kd, err := e.Kinds.Get(d.Kind)
	if err != nil {
		return key.Key{}, Refusef("%w", err)
	}
	options, err := kd.Normalize(d.Options)
	if err != nil {
		return key.Key{}, Refusef("key %s: %w", d.Name, err)
	}
	for _, c := range d.Protects {
		if err := c.Validate(); err != nil {
			return key.Key{}, Refusef("key %s: %w", d.Name, err)
		}
	}
	if p := d.Policy.Period; p != 0 && p < MinPeriod {
		return key.Key{}, Refusef("rotation_period %s is too short; use at least %s, or 0 to rotate only when asked", p, MinPeriod)
	}
	if d.Policy.Soak < 0 && d.Policy.Soak != InheritSoak {
		return key.Key{}, Refusef("soak %s is negative; use 0s for no soak time", d.Policy.Soak)
	}
	return key.Key{
		Name: d.Name, Env: d.Env, Kind: d.Kind, Options: options, Protects: d.Protects, Policy: d.Policy,
		Created: e.Now().UTC(),
	}, nil
}

// PutKey creates or changes a definition; versions stay as they are.
func (e *Engine) PutKey(ctx context.Context, d Definition, by string) (key.Key, error) {
	k, err := e.check(d)
	if err != nil {
		return key.Key{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	what := "key created"
	if old, ok := e.keys[k.Name]; ok {
		what = "key changed"
		if err := e.mayChange(old, k); err != nil {
			return key.Key{}, err
		}
		k.Versions, k.Created = old.Versions, old.Created
	}
	for _, other := range e.keys {
		if other.Env == k.Env && other.Name != k.Name {
			return key.Key{}, Refusef("env %s is that of key %s already; give key %s another one", k.Env, other.Name, k.Name)
		}
	}
	if err := e.journal(ctx, Entry{What: what, By: by, Keys: []EntryKey{{Key: k.Name}}}); err != nil {
		return key.Key{}, err
	}
	return k, e.swapKey(ctx, k)
}

// mayChange refuses what versions or a running rotation rely on. mu is held.
func (e *Engine) mayChange(old, changed key.Key) error {
	if changed.Kind != old.Kind {
		return Refusef("key %s is of kind %s; a kind cannot be changed: make a new key", old.Name, old.Kind)
	}
	if changed.Env != old.Env {
		return Refusef("key %s is known to workloads as %s; env cannot be changed: make a new key", old.Name, old.Env)
	}
	if r := e.rotationOf(old.Name); r != nil && (!slices.Equal(changed.Protects, old.Protects) || !maps.Equal(changed.Options, old.Options)) {
		return Refusef("key %s is being rotated by %s; wait until it has ended, or revert it with hyvve/rotations/%s/revert", old.Name, r.ID, r.ID)
	}
	return nil
}

// swapKey persists a key and swaps it in. mu is held.
func (e *Engine) swapKey(ctx context.Context, k key.Key) error {
	if err := e.put(ctx, pathKeys+k.Name, k); err != nil {
		return err
	}
	e.keys[k.Name] = k
	delete(e.starts, k.Name)
	e.broadcast()
	return nil
}

// Key gives a key; false where there is none.
func (e *Engine) Key(name string) (key.Key, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	k, ok := e.keys[name]
	return k, ok
}

// KeyNames lists the keys, sorted.
func (e *Engine) KeyNames() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.keys))
}

// DeleteKey erases a key and all its values. Refused while anything relies on it.
func (e *Engine) DeleteKey(ctx context.Context, name, by string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.keys[name]; !ok {
		return nil
	}
	if r := e.rotationOf(name); r != nil {
		return Refusef("key %s is being rotated by %s; wait until it has ended, or revert it with hyvve/rotations/%s/revert", name, r.ID, r.ID)
	}
	for _, w := range e.workloads {
		if w.Uses(name) {
			return Refusef("key %s is used by workload %s; take it out of hyvve/workloads/%s first", name, w.Name, w.Name)
		}
	}
	if err := e.journal(ctx, Entry{What: "key deleted", By: by, Keys: []EntryKey{{Key: name}}}); err != nil {
		return err
	}
	if err := e.Store.Delete(ctx, pathKeys+name); err != nil {
		return fmt.Errorf("deleting key %s: %w", name, err)
	}
	delete(e.keys, name)
	e.broadcast()
	return nil
}

// CheckValue tells whether a value may become a version of the key, and what the platform would complain of.
func (e *Engine) CheckValue(name string, value key.Value) ([]string, error) {
	k, err := e.knownKey(name)
	if err != nil {
		return nil, err
	}
	kd, err := e.Kinds.Get(k.Kind)
	if err != nil {
		return nil, err
	}
	warnings, err := kd.Check(k.Options, value)
	if err != nil {
		return nil, Refusef("key %s: %w", name, err)
	}
	return warnings, nil
}

func (e *Engine) knownKey(name string) (key.Key, error) {
	k, ok := e.Key(name)
	if !ok {
		return key.Key{}, e.unknownKey(name)
	}
	return k, nil
}

func (e *Engine) unknownKey(name string) error {
	return Refusef("key %q is not known; list the keys with: vault list hyvve/keys", name)
}

// First gives a key without versions its version 1: the value if there is one, otherwise one that its kind makes.
func (e *Engine) First(ctx context.Context, name string, value key.Value, by string) (key.Key, []string, error) {
	k, err := e.knownKey(name)
	if err != nil {
		return key.Key{}, nil, err
	}
	what := "value imported as version 1"
	if value.Empty() {
		what = "version 1 made"
		if value, err = e.generate(k); err != nil {
			return key.Key{}, nil, err
		}
	}
	warnings, err := e.CheckValue(name, value)
	if err != nil {
		return key.Key{}, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	k, ok := e.keys[name]
	if !ok {
		return key.Key{}, nil, e.unknownKey(name)
	}
	first := key.Version{
		Value: value, Created: e.Now().UTC(), CreatedBy: by, Fingerprint: e.fingerprints.Of(name, value),
	}
	k, err = k.WithFirst(first)
	if err != nil {
		return key.Key{}, nil, Refusef("%w; rotate it with: vault write hyvve/rotate key=%s", err, name)
	}
	entry := Entry{What: what, By: by, Keys: []EntryKey{{Key: name, To: 1, Fingerprint: first.Fingerprint}}}
	if err := e.journal(ctx, entry); err != nil {
		return key.Key{}, nil, err
	}
	return k, warnings, e.swapKey(ctx, k)
}

func (e *Engine) generate(k key.Key) (key.Value, error) {
	kd, err := e.Kinds.Get(k.Kind)
	if err != nil {
		return key.Value{}, err
	}
	value, err := kd.Generate(e.Random, k.Options)
	if err != nil {
		return key.Value{}, Refusef("key %s: %w", k.Name, err)
	}
	return value, nil
}
