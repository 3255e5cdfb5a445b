// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// rotation returns a running or ended rotation.
func (l *locked) rotation(ctx context.Context, id string) (rotation.Rotation, error) {
	if r, ok := l.active[id]; ok {
		return r, nil
	}
	return l.endedRotation(ctx, id)
}

func (s *state) endedRotation(ctx context.Context, id string) (rotation.Rotation, error) {
	data, err := s.Store.Get(ctx, pathRotations+id)
	if err != nil {
		return rotation.Rotation{}, fmt.Errorf("reading rotation %s: %w", id, err)
	}
	if data == nil {
		return rotation.Rotation{}, rotation.Refusef("rotation %q is not known; list the rotations with: vault list hyvve/rotations", id)
	}
	return rotation.Decode(data)
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

// View is a rotation as people look at it.
type View struct {
	rotation.Rotation
	Gates     []rotation.GateResult
	Instances []rotation.InstanceView
	Waves     []rotation.Wave // that the step has still to go through
	Progress  map[string]workload.WorkReport
	Ended     <-chan struct{} // closed when the rotation has ended, or the engine is closed

	facts rotation.Facts
}

// Waits joins the reasons that hold it back.
func (v View) Waits() string { return rotation.Waits(v.Gates) }

// View returns a running or ended rotation as it stands now.
func (s *state) View(ctx context.Context, id string) (View, error) {
	var r rotation.Rotation
	var f rotation.Facts
	var ok bool
	view := View{Progress: map[string]workload.WorkReport{}}
	s.lock(func(m *memory) {
		if r, ok = m.active[id]; ok {
			f = m.factsNow(r)
			view.Ended = m.endOf(id)
		}
	})
	if !ok {
		var err error
		if r, err = s.endedRotation(ctx, id); err != nil {
			return View{}, err
		}
	}
	view.Rotation, view.facts = r, f
	if !ok {
		view.Ended = closedEnd
	}
	for _, c := range r.Changes {
		if report, ok := f.Progress[r.WorkID(c)]; ok {
			view.Progress[c.Key] = report
		} else if report, ok := r.LastRows(c); ok {
			view.Progress[c.Key] = report
		}
	}
	if r.Finished() {
		return view, nil
	}
	view.Gates, _ = rotation.Gates(r, f)
	view.Waves = rotation.NextWaves(r, f)
	view.Instances = rotation.Standing(r, f)
	return view, nil
}

// closedEnd is that of a rotation that has ended already.
var closedEnd = func() chan struct{} {
	end := make(chan struct{})
	close(end)
	return end
}()

// endOf is closed when a running rotation ends. Whoever waits for one rotation is woken by nothing else: where many run,
// and many wait, each move of each would wake all.
func (m *memory) endOf(id string) <-chan struct{} {
	if m.closed {
		return closedEnd
	}
	if m.ends[id] == nil {
		m.ends[id] = make(chan struct{})
	}
	return m.ends[id]
}

// ended wakes whoever waits for a rotation's end.
func (m *memory) ended(id string) {
	if end := m.ends[id]; end != nil {
		close(end)
		delete(m.ends, id)
	}
}

// KeyStatus is a key at a glance.
type KeyStatus struct {
	Key      key.Key
	Rotation *rotation.Rotation // running, if any
	Waits    string             // what holds it back, or why an automatic rotation could not start
	Orphan   bool               // it was tried so often that waiting will not mend it
	Due      time.Time          // of the next automatic rotation; zero: only when asked
	Problems []string           // at its server, or with its connection
	Notes    []string           // what an operator should know of a current version that is valid
	Refused  string             // who still tries a version that is retired
	Lapse    string             // why undeleted versions whose end has come have not been retired
}

// Status returns every key, sorted by name.
func (s *state) Status() []KeyStatus {
	m, unlock := s.memory.Lock()
	defer unlock()
	held := map[string]string{} // by rotation
	for id, r := range m.active {
		results, _ := rotation.Gates(r, m.factsNow(r))
		held[id] = rotation.Waits(results)
	}
	all := make([]KeyStatus, 0, len(m.Keys))
	for _, name := range slices.Sorted(maps.Keys(m.Keys)) {
		fault := m.starts[name]
		status := KeyStatus{Key: m.Keys[name], Due: m.agenda.At(name), Waits: fault.Reason, Orphan: fault.Orphan()}
		status.Refused, status.Notes = m.health[checksKey+name].Refused, m.health[checksKey+name].Notes
		status.Problems = append(m.health[checksKey+name].Texts(), m.connectionProblems(m.Keys[name])...)
		status.Lapse = m.lapseFaults(status.Key)
		if r, ok := m.active[m.rotating[name]]; ok {
			status.Rotation, status.Waits, status.Orphan = &r, held[r.ID], r.Attempts >= schedule.OrphanAfter
		}
		all = append(all, status)
	}
	return all
}

// connectionProblems returns what is wrong with the connection of a key.
func (m *memory) connectionProblems(k key.Key) []string {
	name := k.Options[kind.OptionConnection]
	var all []string
	for _, text := range m.health[checksConnection+name].Texts() {
		all = append(all, fmt.Sprintf("connection %s: %s", name, text))
	}
	return all
}
