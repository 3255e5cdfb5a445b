// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// get returns what is in memory.
func get[T any](s *state, of func(*memory) T) T {
	m, unlock := s.memory.Lock()
	defer unlock()
	return of(m)
}

// find returns what has that name; false: nothing.
func find[T any](s *state, name string, of func(*memory) map[string]T) (T, bool) {
	m, unlock := s.memory.Lock()
	defer unlock()
	found, ok := of(m)[name]
	return found, ok
}

// Journal returns the journal.
func (s *state) Journal() *journal.Journal { return s.journal }

// Config returns the mount-wide defaults.
func (s *state) Config() catalog.Config {
	return get(s, func(m *memory) catalog.Config { return m.Defaults })
}

// Floor returns what retention never goes below.
func (s *state) Floor() catalog.Floor {
	return get(s, func(m *memory) catalog.Floor { return m.JournalFloor })
}

// Key returns a key; false where there is none.
func (s *state) Key(name string) (key.Key, bool) {
	return find(s, name, func(m *memory) map[string]key.Key { return m.Keys })
}

// KeyNames lists the keys, sorted.
func (s *state) KeyNames() []string {
	return get(s, func(m *memory) []string { return slices.Sorted(maps.Keys(m.Keys)) })
}

func (s *state) knownKey(name string) (key.Key, error) {
	k, ok := s.Key(name)
	if !ok {
		return key.Key{}, catalog.UnknownKey(name)
	}
	return k, nil
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
	warnings, err := catalog.CheckValue(kd, k.Options, value)
	if err != nil {
		return nil, rotation.Refusef("key %s: %w", name, err)
	}
	return warnings, nil
}

// ReservedNames are warnings of names that this release would refuse: the key was made by an earlier one.
func (s *state) ReservedNames(k key.Key) []string {
	var all []string
	for _, name := range s.base.Names(k) {
		if err := key.CheckReserved(name, nil); err != nil {
			all = append(all, fmt.Sprintf("key %s: %v. Sidecars refuse it unless their own configuration has it in allow_names. Make a key with another name, and move workloads to it", k.Name, err))
		}
	}
	return all
}

// Logins are those with which live versions of a key log in at its server, in words.
func (s *state) Logins(name string) []string {
	m, unlock := s.memory.Lock()
	defer unlock()
	k := m.Keys[name]
	var all []string
	for _, v := range k.Versions {
		if l, ok := m.LoginOf(k, v.Value); ok && v.State.Live() {
			all = append(all, fmt.Sprintf("%s (version %d)", l.Name, v.Number))
		}
	}
	return all
}

// RetainOf returns for how long the values of retired versions of a key are retained.
func (s *state) RetainOf(k key.Key) time.Duration { return s.Config().RetainOf(k) }

// Connectors lists the kinds that have connections.
func (s *state) Connectors() []string { return s.base.Connectors() }

// Connection returns a connection; false where there is none.
func (s *state) Connection(name string) (kind.Connection, bool) {
	return find(s, name, func(m *memory) map[string]kind.Connection { return m.Connections })
}

// ConnectionNames lists the connections, sorted.
func (s *state) ConnectionNames() []string {
	return get(s, func(m *memory) []string { return slices.Sorted(maps.Keys(m.Connections)) })
}

// Workload returns a workload; false where there is none.
func (s *state) Workload(name string) (workload.Workload, bool) {
	return find(s, name, func(m *memory) map[string]workload.Workload { return m.Workloads })
}

// WorkloadNames lists the workloads, sorted.
func (s *state) WorkloadNames() []string {
	return get(s, func(m *memory) []string { return slices.Sorted(maps.Keys(m.Workloads)) })
}

// Instances returns the live instances of a workload, sorted by id.
func (s *state) Instances(name string) []workload.Instance {
	return get(s, func(m *memory) []workload.Instance { return m.fleets[name].All() })
}

// Health returns that of a key, or of a connection.
func (s *state) Health(of string) Health {
	return get(s, func(m *memory) Health { return m.health[of] })
}

// KeyHealth returns what is known of a key's current version at its server.
func (s *state) KeyHealth(name string) Health { return s.Health(checksKey + name) }

// ConnectionHealth returns what is known of a connection.
func (s *state) ConnectionHealth(name string) Health { return s.Health(checksConnection + name) }

// beingChecked reports whether an inspection of the key is under way.
func (s *state) beingChecked(name string) bool {
	return get(s, func(m *memory) bool { return m.restoring[name] })
}

// PublicValue says of a value that it was given, and where it is a URL that logs in at a connection's server, where it
// leads to and as whom.
func (s *state) PublicValue(k key.Key, value key.Value) string { return s.base.PublicValue(k, value) }

// ConfigChanges returns what writing c changes.
func (s *state) ConfigChanges(c catalog.Config) []rotation.EntryChange {
	return s.Config().Fields().Changes(c.Fields())
}

// FloorChanges returns what writing f changes.
func (s *state) FloorChanges(f catalog.Floor) []rotation.EntryChange {
	return s.Floor().Fields().Changes(f.Fields())
}

// KeyChanges says what a definition, with a value where there is one, changes of a key. Nothing of the value is in it but,
// where it is a URL that logs in at a connection's server, where it leads to and as whom.
func (s *state) KeyChanges(d catalog.Definition, value key.Value) []rotation.EntryChange {
	old, _ := s.Key(d.Name)
	changes := s.base.DefinitionChanges(old, d)
	if !value.Empty() {
		changes = append(changes, rotation.EntryChange{Field: "value", To: s.PublicValue(key.Key{Kind: d.Kind, Options: d.Options}, value)})
	}
	return changes
}

// ConnectionChanges returns what writing a connection changes.
func (s *state) ConnectionChanges(written kind.Connection) []rotation.EntryChange {
	old, _ := s.Connection(written.Name)
	return s.base.ConnectionChanges(old, catalog.Overwritten(old, written), written)
}

// WorkloadChanges returns what writing w changes.
func (s *state) WorkloadChanges(w workload.Workload) []rotation.EntryChange {
	old, _ := s.Workload(w.Name)
	return catalog.WorkloadChanges(old, w)
}

// RotationIDs lists all rotations, oldest first.
func (s *state) RotationIDs(ctx context.Context) ([]string, error) {
	ids, err := s.Store.List(ctx, pathRotations)
	if err != nil {
		return nil, fmt.Errorf("listing rotations: %w", err)
	}
	s.lock(func(m *memory) { ids = slices.AppendSeq(ids, maps.Keys(m.active)) })
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Latest names the newest rotation of a mount.
const Latest = "latest"

// maxCandidates is how many rotations a refusal names.
const maxCandidates = 5

// rotationID returns the id of the rotation that a name means: an id, [Latest], a key, whose running or newest rotation it is, or
// what one id alone begins with.
func (s *state) rotationID(ctx context.Context, name string) (string, error) {
	running := ""
	s.lock(func(m *memory) {
		if _, ok := m.active[name]; ok {
			running = name
		} else if name != Latest {
			running = m.rotating[name]
		}
	})
	if running != "" {
		return running, nil
	}
	data, err := s.Store.Get(ctx, pathRotations+name)
	if err != nil {
		return "", fmt.Errorf("reading rotation %s: %w", name, err)
	}
	if data != nil {
		return name, nil
	}
	ids, err := s.RotationIDs(ctx)
	if err != nil {
		return "", err
	}
	if name == Latest {
		if len(ids) == 0 {
			return "", rotation.Refusef("there was no rotation yet; start one with: vault write hyvve/rotate key=… (list the keys with: vault list hyvve/keys)")
		}
		return ids[len(ids)-1], nil
	}
	if k, ok := s.Key(name); ok {
		for _, id := range slices.Backward(ids) {
			for _, v := range k.Versions {
				if v.Rotation == id {
					return id, nil
				}
			}
		}
		return "", rotation.Refusef("key %s has no rotation yet, or none that is kept; start one with: vault write hyvve/rotate key=%s", name, name)
	}
	var unstarted string
	s.lock(func(m *memory) { unstarted = m.unstarted(name) })
	if unstarted != "" {
		return "", rotation.Refusef("%s", unstarted)
	}
	return beginning(ids, name)
}

// beginning returns the one of sorted ids that begins with a prefix.
func beginning(ids []string, prefix string) (string, error) {
	begin := slices.DeleteFunc(ids, func(id string) bool { return !strings.HasPrefix(id, prefix) })
	switch len(begin) {
	case 1:
		return begin[0], nil
	case 0:
		return "", rotation.Refusef("rotation %q is not known; name one by its id, what the id begins with, its key, or %q: vault list hyvve/rotations", prefix, Latest)
	}
	candidates := strings.Join(begin[max(0, len(begin)-maxCandidates):], ", ")
	if more := len(begin) - maxCandidates; more > 0 {
		candidates += fmt.Sprintf(" and %d older ones", more)
	}
	return "", rotation.Refusef("rotation %q is ambiguous: it may be %s; write more of the id", prefix, candidates)
}
