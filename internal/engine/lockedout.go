// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// LockedOut is an instance that runs with a version of a key which is retired, as far as is known.
type LockedOut struct {
	Workload, Instance string
	Text               string // what it runs with
}

// Remedy says what to do about it.
func (o LockedOut) Remedy() string {
	return fmt.Sprintf("see that its sidecar runs and reaches Vault: it then loads the current version by itself; if the process has ended: vault delete hyvve/workloads/%s/instances/%s", o.Workload, o.Instance)
}

// lockedOut says which retired versions of the keys an instance runs with; empty: none. It is so until the instance has
// loaded something else.
func (rs *records) lockedOut(i workload.Instance, keys ...string) string {
	held := i.Running().Keys
	var all []string
	for _, name := range slices.Sorted(maps.Keys(held)) {
		k, ok := rs.Keys[name]
		if !ok || len(keys) > 0 && !slices.Contains(keys, name) {
			continue
		}
		h := held[name]
		if h.Value != 0 && !isLive(k, h.Value) {
			all = append(all, fmt.Sprintf("presents version %d of %s, which is %s", h.Value, k.Env, endOf(k, h.Value)))
		}
		ended := slices.DeleteFunc(slices.Clone(h.Accepts), func(n int) bool { return isLive(k, n) })
		switch {
		case len(ended) == 0:
		case len(ended) == len(h.Accepts):
			all = append(all, fmt.Sprintf("accepts no version of %s but %s, which is %s", k.Env, numbers(ended), endOf(k, ended[0])))
		default:
			all = append(all, fmt.Sprintf("still accepts version %s of %s, which is %s", numbers(ended), k.Env, endOf(k, ended[0])))
		}
	}
	return strings.Join(all, "; ")
}

func isLive(k key.Key, number int) bool {
	v, ok := k.Version(number)
	return ok && v.State.Live()
}

// endOf is what has become of a version.
func endOf(k key.Key, number int) string {
	if v, ok := k.Version(number); ok {
		return string(v.State)
	}
	return string(key.Destroyed) // so long ago that it is not listed any more
}

func numbers(all []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(all), " ", ", "), "[]")
}

// LockedOut returns the instances of a workload that are locked out, sorted.
func (s *state) LockedOut(name string) []LockedOut {
	return get(s, func(m *memory) []LockedOut { return m.lockedOutOf(name) })
}

// lockedOutOf returns the instances of a workload that are locked out of the keys, or of any where none is named.
func (m *memory) lockedOutOf(name string, keys ...string) (all []LockedOut) {
	for _, i := range m.fleets[name].All() {
		if text := m.lockedOut(i, keys...); text != "" {
			all = append(all, LockedOut{name, i.ID, text})
		}
	}
	return all
}

// cutShown is for how long status says that a rotation has cut something.
const cutShown = 24 * time.Hour

// noteEnd keeps what a rotation that has ended has cut.
func (m *memory) noteEnd(r rotation.Rotation) {
	for _, c := range r.Changes {
		delete(m.cuts, c.Key)
		if r.WasCut() {
			m.cuts[c.Key] = cutNote{r.Since, fmt.Sprintf("%s; all of it: vault read hyvve/rotations/%s/receipt", r.CutText(), r.ID)}
		}
	}
}

// cutLately returns what the newest rotation of a key has cut in the last day; empty: nothing.
func (m *memory) cutLately(name string) string {
	note, ok := m.cuts[name]
	if !ok || m.Now().Sub(note.at) > cutShown {
		return ""
	}
	return note.text
}

// loadCuts reads what the newest rotation of each key has cut.
func (l *locked) loadCuts(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(l.Keys)) {
		current, ok := l.Keys[name].Current()
		if !ok || current.Rotation == "" {
			continue
		}
		data, err := l.Store.Get(ctx, pathRotations+current.Rotation)
		if err != nil {
			return fmt.Errorf("reading rotation %s: %w", current.Rotation, err)
		}
		if r, err := rotation.Decode(data); err == nil && r.Finished() && r.WasCut() { // retention may have taken it
			l.lock(func(m *memory) { m.noteEnd(r) })
		}
	}
	return nil
}
