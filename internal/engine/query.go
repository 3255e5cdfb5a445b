// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"maps"
	"slices"
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
	warnings, err := kd.Check(k.Options, value)
	if err != nil {
		return nil, rotation.Refusef("key %s: %w", name, catalog.NameNewline(value, err))
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
