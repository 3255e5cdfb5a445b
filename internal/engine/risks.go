// SPDX-License-Identifier: Apache-2.0

package engine

import "time"

// NextRotation returns when a key rotates by itself. The zero time: it does not, or it is rotating.
func (s *state) NextRotation(name string) time.Time {
	m, unlock := s.memory.Lock()
	defer unlock()
	return m.agenda.At(name)
}

// KeyRisks are warnings about fields of a key that were written: what is allowed and rarely meant.
func (s *state) KeyRisks(name string, written func(field string) bool) []string {
	m, unlock := s.memory.Lock()
	defer unlock()
	k, ok := m.Keys[name]
	if !ok {
		return nil
	}
	return m.KeyRisks(k, m.agenda.At(name), written)
}

// ConfigRisks are warnings about fields of the configuration that were written.
func (s *state) ConfigRisks(written func(field string) bool) []string {
	m, unlock := s.memory.Lock()
	defer unlock()
	return m.ConfigRisks(written)
}
