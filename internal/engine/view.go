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

// rotation gives a running or ended rotation. turn is held.
func (e *Engine) rotation(ctx context.Context, id string) (rotation.Rotation, error) {
	if r, ok := e.active[id]; ok {
		return r, nil
	}
	return e.endedRotation(ctx, id)
}

func (e *Engine) endedRotation(ctx context.Context, id string) (rotation.Rotation, error) {
	data, err := e.Store.Get(ctx, pathRotations+id)
	if err != nil {
		return rotation.Rotation{}, fmt.Errorf("reading rotation %s: %w", id, err)
	}
	if data == nil {
		return rotation.Rotation{}, rotation.Refusef("rotation %q is not known; list the rotations with: vault list hyvve/rotations", id)
	}
	return rotation.Decode(data)
}

// RotationIDs lists all rotations, oldest first.
func (e *Engine) RotationIDs(ctx context.Context) ([]string, error) {
	ids, err := e.Store.List(ctx, pathRotations)
	if err != nil {
		return nil, fmt.Errorf("listing rotations: %w", err)
	}
	e.lock(func() { ids = slices.AppendSeq(ids, maps.Keys(e.active)) })
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

// View gives a running or ended rotation as it stands now.
func (e *Engine) View(ctx context.Context, id string) (View, error) {
	var r rotation.Rotation
	var f rotation.Facts
	var ok bool
	view := View{Progress: map[string]workload.WorkReport{}}
	e.lock(func() {
		if r, ok = e.active[id]; ok {
			f = e.factsNow(r)
			view.Ended = e.endOf(id)
		}
	})
	if !ok {
		var err error
		if r, err = e.endedRotation(ctx, id); err != nil {
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
// and many wait, each move of each would wake all. mu is held.
func (e *Engine) endOf(id string) <-chan struct{} {
	if e.closed {
		return closedEnd
	}
	if e.ends[id] == nil {
		e.ends[id] = make(chan struct{})
	}
	return e.ends[id]
}

// ended wakes whoever waits for a rotation's end. mu is held.
func (e *Engine) ended(id string) {
	if end := e.ends[id]; end != nil {
		close(end)
		delete(e.ends, id)
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

// Status gives every key, sorted by name.
func (e *Engine) Status() []KeyStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	held := map[string]string{} // by rotation
	for id, r := range e.active {
		results, _ := rotation.Gates(r, e.factsNow(r))
		held[id] = rotation.Waits(results)
	}
	all := make([]KeyStatus, 0, len(e.keys))
	for _, name := range slices.Sorted(maps.Keys(e.keys)) {
		fault := e.starts[name]
		s := KeyStatus{Key: e.keys[name], Due: e.agenda.At(name), Waits: fault.Reason, Orphan: fault.Orphan()}
		s.Refused, s.Notes = e.health[checksKey+name].Refused, e.health[checksKey+name].Notes
		s.Problems = append(e.health[checksKey+name].Texts(), e.connectionProblems(e.keys[name])...)
		s.Lapse = e.lapseFaults(s.Key)
		if r, ok := e.active[e.rotating[name]]; ok {
			s.Rotation, s.Waits, s.Orphan = &r, held[r.ID], r.Attempts >= schedule.OrphanAfter
		}
		all = append(all, s)
	}
	return all
}

// connectionProblems returns what is wrong with the connection of a key. mu is held.
func (e *Engine) connectionProblems(k key.Key) []string {
	name := k.Options[kind.OptionConnection]
	var all []string
	for _, text := range e.health[checksConnection+name].Texts() {
		all = append(all, fmt.Sprintf("connection %s: %s", name, text))
	}
	return all
}
