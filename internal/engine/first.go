// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// First returns a key without versions its version 1: the value if there is one, otherwise one that its kind makes. A value
// that a server verifies is tried there; one that is made is stored as staged before the server hears of it, so that a
// repetition continues with the same one after a crash.
func (e *Engine) First(ctx context.Context, name string, value key.Value, by rotation.Actor) (key.Key, []string, error) {
	k, err := e.knownKey(name)
	if err != nil {
		return key.Key{}, nil, err
	}
	if value.Empty() {
		return e.makeFirst(ctx, k, by)
	}
	return e.importValue(ctx, name, value, by, func(l *locked, v key.Version) (key.Key, error) {
		return l.newFirst(ctx, name, "value imported as version 1", by, v)
	})
}

// newFirst stores a first version of which no server needs to hear. Until somebody is given it, another value may replace it.
func (l *locked) newFirst(ctx context.Context, name, what string, by rotation.Actor, v key.Version) (key.Key, error) {
	if k, known := l.Keys[name]; known && len(k.Versions) == 0 {
		if err := l.noteUnissued(ctx, name); err != nil {
			return key.Key{}, err
		}
	}
	return l.storeFirst(ctx, name, what, by, func(k key.Key) (key.Key, error) { return k.WithFirst(v) })
}

// Replace imports a value in the place of a first one that nobody was ever given, whether that was imported, too, or made. The one
// before is aborted.
func (e *Engine) Replace(ctx context.Context, name string, value key.Value, by rotation.Actor) (key.Key, []string, error) {
	return e.importValue(ctx, name, value, by, func(l *locked, v key.Version) (key.Key, error) {
		old := l.Keys[name]
		var err error
		l.lock(func(m *memory) { // from here on nobody is given the old value
			if err = m.checkReplace(name); err == nil {
				m.Keys[name] = old.Bare()
			}
		})
		if err != nil {
			return key.Key{}, err
		}
		k, err := l.storeFirst(ctx, name, "first value replaced by an import; nobody was given it", by, func(key.Key) (key.Key, error) { return old.WithReplaced(v) })
		if err != nil {
			l.lock(func(m *memory) { m.Keys[name] = old })
		}
		return k, err
	})
}

// CheckReplace returns why the value of a key that has versions cannot be replaced; nil: it can.
func (s *state) CheckReplace(name string) error {
	m, unlock := s.memory.Lock()
	defer unlock()
	return m.checkReplace(name)
}

func (m *memory) checkReplace(name string) error {
	k, ok := m.Keys[name]
	if !ok {
		return m.UnknownKey(name)
	}
	current, _ := k.Current()
	why := ""
	switch _, follows := m.followsKey(name); {
	case m.rotating[name] != "" || follows:
		why = "it is being rotated"
	case current.Rotation != "" || slices.ContainsFunc(k.Versions, func(v key.Version) bool { return v.State != key.Current && v.State != key.Aborted }):
		why = "it was rotated"
	case m.unissued[name] != notIssued || m.anyHolds(name):
		why = fmt.Sprintf("an instance may have version %d", current.Number)
	default:
		return nil
	}
	value := "" // of the command that rotates
	if _, makes := m.KindOf(k).(kind.Generator); !makes {
		value = " value=-"
	}
	return rotation.Refusef("key %s has version %d, which an import cannot replace, since %s; nothing was changed; rotate it with: vault write hyvve/rotate key=%s%s; "+
		"if a wrong value was imported and nobody uses it, take the key out of its workloads, delete it with: vault delete hyvve/keys/%s, and import again", name, current.Number, why, name, value, name)
}

// anyHolds reports whether a live instance was given a version of a key, or runs with one.
func (m *memory) anyHolds(name string) bool {
	for _, f := range m.fleets {
		for _, i := range f.All() {
			for _, held := range []workload.Held{i.Issued.Keys[name], i.Running().Keys[name]} {
				if held.Value > 0 || len(held.Accepts) > 0 {
					return true
				}
			}
		}
	}
	return false
}

// importValue tries a value, and has it stored as a version of a key under the writer lock. Whether the key has a version already is
// for store to say.
func (e *Engine) importValue(ctx context.Context, name string, value key.Value, by rotation.Actor, store func(*locked, key.Version) (key.Key, error)) (key.Key, []string, error) {
	k, err := e.knownKey(name)
	if err != nil {
		return key.Key{}, nil, err
	}
	warnings, err := e.CheckValue(name, value)
	if err != nil {
		return key.Key{}, nil, err
	}
	v := e.base.FirstVersion(name, value, by)
	v.Number = k.NextNumber()
	k = k.Bare() // what is there is replaced, or this is refused
	if err := e.tryImport(ctx, k, v); err != nil {
		return key.Key{}, nil, err
	}
	warnings = append(warnings, e.foresee(ctx, k, v)...)
	l, release := e.acquire()
	defer release()
	shared, err := l.shared(k, value)
	if err != nil {
		return key.Key{}, nil, err
	}
	e.lock(func(m *memory) { err = m.checkCarried(k, value) }) // somebody may have come meanwhile
	if err != nil {
		return key.Key{}, nil, err
	}
	warnings = append(warnings, shared...)
	k, err = store(l, v)
	return k, warnings, err
}

// TryFirst reports whether a value could be the first version of a key that is defined so, or, where it is empty, whether one
// can be made: before anything is stored.
func (s *state) TryFirst(ctx context.Context, d catalog.Definition, value key.Value) error {
	k, err := s.base.Check(d)
	if err != nil {
		return err
	}
	if value.Empty() {
		_, err := s.base.Generate(k, key.Value{})
		return err
	}
	return s.tryImport(ctx, k, key.Version{Number: 1, Value: value})
}

// tryImport refuses a value that could not be rotated, and one that is not taken where it is used. What can be checked without
// a server is looked at first.
func (s *state) tryImport(ctx context.Context, k key.Key, v key.Version) error {
	var err error
	s.lock(func(m *memory) {
		if _, err = m.shared(k, v.Value); err != nil {
			return
		}
		if err = m.CheckHosts(k, v.Value); err != nil {
			err = rotation.Refusef("key %s: value: %w; nothing was stored", k.Name, err)
			return
		}
		if err = m.CheckNext(k, v); err == nil {
			err = m.checkCarried(k, v.Value)
		}
	})
	if err != nil {
		return err
	}
	if err := s.tryAtServer(ctx, k, v); err != nil {
		return rotation.Refusef("key %s: the value is not taken where it is used: %w; nothing was stored", k.Name, err)
	}
	return nil
}

// foresee warns of what a plan of the first rotation after an import would say of the key's server: an operator should know
// it when he hands the value over. The import is good without that, so that a server which cannot be asked is a warning, too.
func (s *state) foresee(ctx context.Context, k key.Key, v key.Version) (warnings []string) {
	preflighter, checks := s.base.KindOf(k).(kind.Preflighter)
	if _, makes := s.base.KindOf(k).(kind.Generator); !checks || !makes {
		return nil
	}
	var change kind.Change
	var err error
	s.lock(func(m *memory) { change, err = m.NextChange(k, v) })
	if err != nil {
		return []string{err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, planDeadline)
	defer cancel()
	blockers, notes, err := untrusted.Preflight(ctx, preflighter, change)
	for _, text := range blockers {
		warnings = append(warnings, fmt.Sprintf("key %s: its rotation would be blocked: %s", k.Name, text))
	}
	for _, text := range notes {
		warnings = append(warnings, fmt.Sprintf("key %s: %s", k.Name, text))
	}
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("key %s: whether it can be rotated was not checked at its server: %s; ask for a plan later, with: vault write hyvve/rotate key=%s dry_run=true", k.Name, err, k.Name))
	}
	return warnings
}

// makeFirst makes version 1.
func (e *Engine) makeFirst(ctx context.Context, k key.Key, by rotation.Actor) (key.Key, []string, error) {
	name := k.Name
	v, staged := k.FirstStaged()
	if !staged {
		value, err := e.base.Generate(k, key.Value{})
		if err != nil {
			return key.Key{}, nil, err
		}
		v = e.base.FirstVersion(name, value, by)
		if _, ok := e.base.KindOf(k).(kind.Server); !ok {
			l, release := e.acquire()
			defer release()
			k, err = l.newFirst(ctx, name, "version 1 made", by, v)
			return k, nil, err
		}
		err = e.update(func(l *locked) (err error) {
			k, err = l.stageFirst(ctx, name, v, by)
			return err
		})
		if err != nil {
			return key.Key{}, nil, err
		}
		v, _ = k.FirstStaged()
	}
	made, err := servers{e}.firstAtServer(ctx, k, v)
	if err != nil {
		return key.Key{}, nil, rotation.Refusef("key %s: version 1 is stored but not valid at its server yet: %w; when that is mended go on with: vault write hyvve/keys/%s generate=true", name, err, name)
	}
	l, release := e.acquire()
	defer release()
	k, err = l.storeFirst(ctx, name, "version 1 made", by, func(k key.Key) (key.Key, error) {
		if now, ok := k.FirstStaged(); !ok || !now.Value.Equal(made.Value) {
			return k, rotation.Refusef("key %s was given a version by somebody else meanwhile; look at it with: vault read hyvve/keys/%s", name, name)
		}
		return k.FirstPromoted(), nil
	})
	return k, nil, err
}

func (l *locked) stageFirst(ctx context.Context, name string, v key.Version, by rotation.Actor) (key.Key, error) {
	return l.storeFirst(ctx, name, "version 1 drawn", by, func(k key.Key) (key.Key, error) {
		if with := l.Sharers(k, v.Value); len(with) > 0 {
			return k, fmt.Errorf("%s is the login of %s; give key %s one of its own, with username= of hyvve/keys/%s", with[0].Login, catalog.KeysOf(with), k.Name, k.Name)
		}
		if err := l.CheckHosts(k, v.Value); err != nil {
			return k, fmt.Errorf("key %s: %w", k.Name, err)
		}
		return k.WithFirstStaged(v)
	})
}

// storeFirst changes a key, with an entry in the journal.
func (l *locked) storeFirst(ctx context.Context, name, what string, by rotation.Actor, change func(key.Key) (key.Key, error)) (key.Key, error) {
	k, ok := l.Keys[name]
	if !ok {
		return key.Key{}, catalog.UnknownKey(name)
	}
	k, err := change(k)
	if err != nil {
		return key.Key{}, rotation.Refusef("%w; rotate it with: vault write hyvve/rotate key=%s", err, name)
	}
	about := journal.Key{Key: name}
	for _, v := range k.Versions { // those before the last were replaced
		about.From, about.To, about.Fingerprint = about.To, v.Number, v.Fingerprint
	}
	entry := journal.Entry{What: what, By: by.Name, Entity: by.Entity, Keys: []journal.Key{about}}
	if err := l.journal.Add(ctx, entry); err != nil {
		return key.Key{}, err
	}
	if _, has := k.Current(); has {
		if err := l.followFirst(ctx, name); err != nil {
			return key.Key{}, err
		}
	}
	if err := l.swapKey(ctx, k); err != nil {
		return k, err
	}
	l.followChanges(ctx)
	return k, nil
}

// tryAtServer tries a value where its kind can.
func (s *state) tryAtServer(ctx context.Context, k key.Key, v key.Version) error {
	verifier, ok := s.base.KindOf(k).(kind.Verifier)
	if !ok {
		return nil
	}
	c, err := s.firstChange(k, v)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, actionDeadline)
	defer cancel()
	return untrusted.Verify(ctx, verifier, c)
}

// firstAtServer makes a first version valid where its kind has a server, and returns it: the server may have made its value.
func (e servers) firstAtServer(ctx context.Context, k key.Key, v key.Version) (key.Version, error) {
	server, ok := e.base.KindOf(k).(kind.Server)
	if !ok {
		return v, e.tryAtServer(ctx, k, v)
	}
	c, err := e.firstChange(k, v)
	if err != nil {
		return v, err
	}
	ctx, cancel := context.WithTimeout(ctx, actionDeadline)
	defer cancel()
	if preflighter, ok := server.(kind.Preflighter); ok {
		if err := (preflightCall{preflighter, c}).refuse(ctx); err != nil {
			return v, err
		}
	}
	return e.stageAt(ctx, server, c)
}

// firstChange is what a server is asked about a first version.
func (s *state) firstChange(k key.Key, v key.Version) (c kind.Change, err error) {
	c = kind.Change{Key: k, To: v}
	s.lock(func(m *memory) { c.Connection, err = m.ConnectionOf(k) })
	return c, err
}
