// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// ConfigChanges returns what writing c changes.
func (s *state) ConfigChanges(c catalog.Config) []rotation.EntryChange {
	return s.Config().Fields().Changes(c.Fields())
}

// WorkloadChanges returns what writing w changes.
func (s *state) WorkloadChanges(w workload.Workload) []rotation.EntryChange {
	old, _ := s.Workload(w.Name)
	return catalog.WorkloadChanges(old, w)
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

// PublicValue says of a value that it was given, and where it is a URL that logs in at a connection's server, where it
// leads to and as whom.
func (s *state) PublicValue(k key.Key, value key.Value) string { return s.base.PublicValue(k, value) }

// ConnectionChanges returns what writing a connection changes.
func (s *state) ConnectionChanges(written kind.Connection) []rotation.EntryChange {
	old, _ := s.Connection(written.Name)
	return s.base.ConnectionChanges(old, catalog.Overwritten(old, written), written)
}
