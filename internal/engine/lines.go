// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"maps"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Reader is who reads a bundle.
type Reader struct {
	Workload string
	Instance string // empty: one without a name

	Token     Token     // that it reads with
	Secret    key.Value // of its newest read, where it has it: another token may read with it
	Heartbeat bool      // it sends signs of life every few seconds from now on
	Pod, Node string    // of Kubernetes, as it says

	// Multiline says that the reader can carry values of several lines, but for those named OneLine.
	Multiline bool
	OneLine   []string // environment names
}

// mostOneLine bounds what an instance may have us store.
const mostOneLine = 200

func (r Reader) check() error {
	if r.Instance != "" {
		if err := checkInstance(r.Instance); err != nil {
			return err
		}
	}
	for _, says := range []struct{ field, name string }{{"pod", r.Pod}, {"node", r.Node}} {
		if err := key.ValidateDNSName(says.name); says.name != "" && err != nil {
			return rotation.Refusef("%s: %w; leave it out where it is not known", says.field, err)
		}
	}
	if len(r.OneLine) > mostOneLine {
		return rotation.Refusef("one_line names %d keys, of at most %d; leave it out if no value may have several lines", len(r.OneLine), mostOneLine)
	}
	for _, env := range r.OneLine {
		if err := key.ValidateEnv(env); err != nil {
			return rotation.Refusef("one_line: %w", err)
		}
	}
	return nil
}

// checkCarried refuses a value, to be imported, that a live instance of a workload cannot carry.
func (m *memory) checkCarried(k key.Key, v key.Value) error {
	if !v.MultiLine() {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(m.workloads)) {
		if !m.workloads[name].Uses(k.Name) {
			continue
		}
		if why := rotation.CannotCarry(k.Name, k.Env, name, m.fleets[name].all()); why != "" {
			return rotation.Refusef("%s; nothing was stored", why)
		}
	}
	return nil
}

// checkCarries refuses a workload whose live instances cannot carry what its keys hold.
func (l *locked) checkCarries(w workload.Workload) error {
	instances := l.Instances(w.Name)
	for _, name := range w.KeyNames() {
		k := l.keys[name]
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
		k := m.keys[name]
		if i.Carries(k.Env) || !slices.ContainsFunc(k.Versions, func(v key.Version) bool { return held[name].Uses(v.Number) && v.Value.MultiLine() }) {
			continue
		}
		return rotation.Refusef("key %s: the value of %s has several lines, which this reader of workload %s cannot carry: %s", name, k.Env, i.Workload, rotation.CarryRemedy)
	}
	return nil
}
