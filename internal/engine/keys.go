// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Definition is what an operator writes of a key.
type Definition struct {
	Name     string
	Env      string // empty: made from the name
	Kind     string
	Options  kind.Options
	Protects []key.Column
	Waives   []string // columns, as key.Column.String writes them
	Witness  string   // of rows: a connection, or WitnessNone
	Policy   key.Policy
}

// check returns the key of a definition, without versions.
func (b *base) check(d Definition) (key.Key, error) {
	if err := key.ValidateName("key", d.Name); err != nil {
		return key.Key{}, rotation.Refusef("%w", err)
	}
	if d.Env == "" {
		d.Env = key.EnvFor(d.Name)
	}
	if err := key.ValidateEnv(d.Env); err != nil {
		return key.Key{}, rotation.Refusef("%w", err)
	}
	kd, err := b.Kinds.Get(d.Kind)
	if err != nil {
		return key.Key{}, rotation.Refusef("%w", err)
	}
	options, err := kd.Normalize(d.Options)
	if err != nil {
		return key.Key{}, rotation.Refusef("key %s: %w", d.Name, err)
	}
	for _, c := range d.Protects {
		if err := c.Validate(); err != nil {
			return key.Key{}, rotation.Refusef("key %s: %w", d.Name, err)
		}
	}
	var waives []string // the definition's may be those of the stored key, which others read
	for _, text := range d.Waives {
		c, err := key.ParseColumn(text)
		if err != nil {
			return key.Key{}, rotation.Refusef("key %s: waives: %w", d.Name, err)
		}
		waives = append(waives, c.String())
	}
	if err := checkPolicy(d.Policy, b.Now()); err != nil {
		return key.Key{}, rotation.Refusef("key %s: %w", d.Name, err)
	}
	if _, ok := kd.(kind.Generator); !ok && (d.Policy.Period > 0 || d.Policy.Schedule != "") {
		return key.Key{}, rotation.Refusef("key %s: values of kind %s come from elsewhere, so that it cannot rotate by itself; leave out rotation_period and rotation_schedule", d.Name, d.Kind)
	}
	return key.Key{
		Name: d.Name, Env: d.Env, Kind: d.Kind, Options: options, Protects: d.Protects, Waives: waives, Witness: d.Witness, Policy: d.Policy,
		Created: b.Now().UTC(), Mount: b.fingerprints.MountID(),
	}, nil
}

func checkPolicy(p key.Policy, now time.Time) error {
	switch {
	case p.Soak < 0 && p.Soak != key.Inherit:
		return fmt.Errorf("soak %s is negative; use 0s for no soak time", p.Soak)
	case p.Observe < 0 && p.Observe != key.Inherit:
		return fmt.Errorf("observe %s is negative; use 0s to look at servers for the soak time only", p.Observe)
	case p.Retain < 0 && p.Retain != key.Inherit:
		return fmt.Errorf("retain %s is negative; use 0s to erase the values of retired versions at once", p.Retain)
	case p.Deadline < 0 && p.Deadline != key.Inherit:
		return fmt.Errorf("deadline %s is negative; use 0s for none", p.Deadline)
	case p.OnFailure != "" && p.OnFailure != rotation.FailurePause && p.OnFailure != rotation.FailureRevert:
		return fmt.Errorf("on_failure %s is not known; use pause or revert", kind.Quote(p.OnFailure))
	case p.Confirm != "" && p.Confirm != rotation.ConfirmAuto && p.Confirm != rotation.ConfirmManual:
		return fmt.Errorf("confirm %s is not known; use auto or manual", kind.Quote(p.Confirm))
	case p.ConfirmBy != "" && p.ConfirmBy != rotation.ConfirmByAny && p.ConfirmBy != rotation.ConfirmByOther:
		return fmt.Errorf("confirm_by %s is not known; use any or other, or \"\" for that of hyvve/config", kind.Quote(p.ConfirmBy))
	case p.ConfirmBy == rotation.ConfirmByOther && p.Confirm == rotation.ConfirmAuto:
		return errors.New("confirm_by=other asks for another user's confirmation, and confirm=auto for none; write confirm=manual, or confirm_by=any")
	}
	return schedule.Check(p, now)
}

// PutKey creates or changes a definition; versions stay as they are.
func (e *Engine) PutKey(ctx context.Context, d Definition, by rotation.Actor) (key.Key, error) {
	k, err := e.base.check(d)
	if err != nil {
		return key.Key{}, err
	}
	l, release := e.acquire()
	defer release()
	what := "key created"
	if old, ok := l.keys[k.Name]; ok {
		what = "key changed"
		if err := l.mayChange(old, k); err != nil {
			return key.Key{}, err
		}
		k.Versions, k.Created, k.Kept, k.Above = old.Versions, old.Created, old.Kept, old.Above
		k.PolicyBy = old.PolicyBy
	}
	if what == "key created" || k.Policy != l.keys[k.Name].Policy {
		k.PolicyBy = by.Entity
		if err := l.config.checkPolicyBy(k); err != nil {
			return key.Key{}, rotation.Refusef("%w; nothing was stored", err)
		}
	}
	if k.PolicyBy == "" { // as it was written by an earlier release, or while nobody had to confirm
		k.PolicyBy = by.Entity
	}
	if err := l.checkNames(k); err != nil {
		return key.Key{}, err
	}
	if _, err := l.connectionOf(k); err != nil {
		return key.Key{}, rotation.Refusef("%w", err)
	}
	if err := l.checkWitness(k); err != nil {
		return key.Key{}, err
	}
	if err := l.checkHosts(k, key.Value{}); err != nil {
		return key.Key{}, rotation.Refusef("key %s: %w; nothing was stored", k.Name, err)
	}
	d.Env, d.Options, d.Waives = k.Env, k.Options, k.Waives // as they are stored
	changes := e.base.definitionChanges(l.keys[k.Name], d)
	if err := e.journal.Add(ctx, journal.Entry{What: what, By: by.Name, Entity: by.Entity, Keys: []journal.Key{{Key: k.Name}}, Changes: changes}); err != nil {
		return key.Key{}, err
	}
	if r, ok := l.active[l.rotating[k.Name]]; ok && k.Witness != l.keys[k.Name].Witness { // the look by the old witness has failed, not by this
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

// checkNames refuses names that another key has, and those that are none.
func (cat *catalog) checkNames(k key.Key) error {
	own := cat.names(k)
	var before []string // a key of an earlier release keeps its names: nobody could pause it or change its schedule otherwise
	if old, ok := cat.keys[k.Name]; ok {
		before = cat.names(old)
	}
	for n, name := range own {
		if err := key.ValidateEnv(name); err != nil {
			return rotation.Refusef("key %s: %w", k.Name, err)
		}
		if err := key.CheckReserved(name, before); err != nil {
			return rotation.Refusef("key %s: %w; give it another one, such as env=APP_%s, and let the workload's own configuration say what it is used for", k.Name, err, name)
		}
		if slices.Contains(own[:n], name) {
			return rotation.Refusef("key %s has the name %s twice", k.Name, name)
		}
		for _, other := range cat.keys {
			if other.Name != k.Name && slices.Contains(cat.names(other), name) {
				return rotation.Refusef("env %s is that of key %s already; give key %s another one", name, other.Name, k.Name)
			}
		}
	}
	return nil
}

// ReservedNames are warnings of names that this release would refuse: the key was made by an earlier one.
func (s *state) ReservedNames(k key.Key) []string {
	var all []string
	for _, name := range s.base.names(k) {
		if err := key.CheckReserved(name, nil); err != nil {
			all = append(all, fmt.Sprintf("key %s: %v. Sidecars refuse it unless their own configuration has it in allow_names. Make a key with another name, and move workloads to it", k.Name, err))
		}
	}
	return all
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
	if err := l.endsUndeleted(changed, old); err != nil {
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

// swapKey persists a key and swaps it in.
func (l *locked) swapKey(ctx context.Context, k key.Key) error {
	if err := l.put(ctx, pathKeys+k.Name, k); err != nil {
		return err
	}
	l.lock(func(m *memory) {
		m.keys[k.Name] = k
		delete(m.starts, k.Name)
	})
	l.plan(k.Name, l.Now())
	l.checkSoon(k.Name, l.Now())
	l.markDirty(k.Name)
	return nil
}

// Key returns a key; false where there is none.
func (s *state) Key(name string) (key.Key, bool) {
	m, unlock := s.memory.Lock()
	defer unlock()
	k, ok := m.keys[name]
	return k, ok
}

// KeyNames lists the keys, sorted.
func (s *state) KeyNames() []string {
	m, unlock := s.memory.Lock()
	defer unlock()
	return slices.Sorted(maps.Keys(m.keys))
}

// DeleteKey erases a key and all its values. Refused while anything relies on it.
func (e *Engine) DeleteKey(ctx context.Context, name string, by rotation.Actor) error {
	l, release := e.acquire()
	defer release()
	k, ok := l.keys[name]
	if !ok {
		return nil
	}
	if r, ok := l.active[l.rotating[name]]; ok {
		return l.underWay(name, r)
	}
	for _, w := range l.workloads {
		if w.Uses(name) {
			return rotation.Refusef("key %s is used by workload %s; take it out of hyvve/workloads/%s first", name, w.Name, w.Name)
		}
	}
	deleted := journal.Entry{What: "key deleted", By: by.Name, Entity: by.Entity, Keys: []journal.Key{{Key: name}}, Changes: e.base.definitionChanges(k, Definition{})}
	if err := e.journal.Add(ctx, deleted); err != nil {
		return err
	}
	if err := e.remove(ctx, pathKeys+name); err != nil {
		return err
	}
	e.lock(func(m *memory) {
		delete(m.keys, name)
		delete(m.health, checksKey+name)
		maps.DeleteFunc(m.intended, func(of versionID, _ string) bool { return of.key == name })
	})
	l.plan(name, e.Now())
	return nil
}

// CheckValue reports whether a value may become a version of the key, and what the platform would complain of.
func (s *state) CheckValue(name string, value key.Value) ([]string, error) {
	k, err := s.knownKey(name)
	if err != nil {
		return nil, err
	}
	kd, err := s.base.Kinds.Get(k.Kind)
	if err != nil {
		return nil, err
	}
	warnings, err := kd.Check(k.Options, value)
	if err != nil {
		return nil, rotation.Refusef("key %s: %w", name, NameNewline(value, err))
	}
	return warnings, nil
}

// NameNewline puts the newline at the end of a value before what a kind says of the value: it is the likely cause. Where a
// value has several lines it is not: a PEM ends with one.
func NameNewline(value key.Value, err error) error {
	line := strings.TrimRight(value.Reveal(), "\r\n")
	if !strings.HasSuffix(value.Reveal(), "\n") || strings.Contains(line, "\n") {
		return err
	}
	return fmt.Errorf("value ends with a newline, as echo, openssl and files add one; take it off, as in: … | tr -d '\\n' | vault write … value=- (%w)", err)
}

func (s *state) knownKey(name string) (key.Key, error) {
	k, ok := s.Key(name)
	if !ok {
		return key.Key{}, unknownKey(name)
	}
	return k, nil
}

func unknownKey(name string) error {
	return rotation.Refusef("key %q is not known; list the keys with: vault list hyvve/keys", name)
}

// checkWitness refuses a witness that is no connection by which the engine can look at rows.
func (cat *catalog) checkWitness(k key.Key) error {
	if k.Witness == "" || k.Witness == rotation.WitnessNone {
		return nil
	}
	if len(k.Protects) == 0 {
		return rotation.Refusef("key %s: witness: the key protects no rows; give witness=\"\" with that", k.Name)
	}
	if _, _, err := cat.looker(k.Witness); err != nil {
		return rotation.Refusef("key %s: witness: %w", k.Name, err)
	}
	return nil
}
