// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"maps"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// checkCarried refuses a value, to be imported, that a live instance of a workload cannot carry.
func (m *memory) checkCarried(k key.Key, v key.Value) error {
	if !v.MultiLine() {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(m.Workloads)) {
		if !m.Workloads[name].Uses(k.Name) {
			continue
		}
		if why := rotation.CannotCarry(k.Name, k.Env, name, m.fleets[name].All()); why != "" {
			return rotation.Refusef("%s; nothing was stored", why)
		}
	}
	return nil
}

// checkCarries refuses a workload whose live instances cannot carry what its keys hold.
func (l *locked) checkCarries(w workload.Workload) error {
	instances := l.Instances(w.Name)
	for _, name := range w.KeyNames() {
		k := l.Keys[name]
		if !slices.ContainsFunc(k.Versions, func(v key.Version) bool { return v.Value.MultiLine() }) {
			continue
		}
		if why := rotation.CannotCarry(name, k.Env, w.Name, instances); why != "" {
			return rotation.Refusef("%s; nothing was changed", why)
		}
	}
	return nil
}

// checkHolds refuses to hand an instance a value that it cannot carry.
func (m *memory) checkHolds(i workload.Instance, held map[string]workload.Held) error {
	for _, name := range slices.Sorted(maps.Keys(held)) {
		k := m.Keys[name]
		if i.Carries(k.Env) || !slices.ContainsFunc(k.Versions, func(v key.Version) bool { return held[name].Uses(v.Number) && v.Value.MultiLine() }) {
			continue
		}
		return rotation.Refusef("key %s: the value of %s has several lines, which this reader of workload %s cannot carry: %s", name, k.Env, i.Workload, rotation.CarryRemedy)
	}
	return nil
}
