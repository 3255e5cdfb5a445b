// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// rotation returns a running or ended rotation.
func (l *locked) rotation(ctx context.Context, name string) (rotation.Rotation, error) {
	id, err := l.rotationID(ctx, name)
	if err != nil {
		return rotation.Rotation{}, err
	}
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

// View is a rotation as people look at it.
type View struct {
	rotation.Rotation
	Gates     []rotation.GateResult
	Instances []rotation.InstanceView // none of a [state.Glance]
	Waves     []rotation.Wave         // that the step has still to go through; none of a [state.Glance]
	Progress  map[string]workload.WorkReport
	Revision  int64           // another one whenever what is seen of it has changed
	Changed   <-chan struct{} // closed when the revision is another one, or the engine is closed
	LockedOut []LockedOut     // instances that run with a retired version of its keys now
	Next      []string        // commands that are left to write, of a rotation of all keys

	facts rotation.Facts
	live  map[string]bool // names of the instances that live now, where something was cut
}

// Waits joins the reasons that hold it back.
func (v View) Waits() string { return rotation.Waits(v.Gates) }

// View returns a running or ended rotation as it stands now, of any name that [state.rotationID] knows.
func (s *state) View(ctx context.Context, name string) (View, error) {
	id, err := s.rotationID(ctx, name)
	if err != nil {
		return View{}, err
	}
	var view View
	var ok bool
	s.lock(func(m *memory) {
		if view.Rotation, ok = m.active[id]; ok {
			view.facts = m.factsNow(view.Rotation)
			view.Revision, view.Changed = m.revision(id)
		}
	})
	if !ok {
		return s.endedView(ctx, id)
	}
	view.setProgress()
	s.lock(func(m *memory) {
		view.LockedOut, view.live = m.leftOut(view.Rotation)
		view.Next = m.nextSteps(view.Rotation)
	})
	view.Gates, _ = rotation.Gates(view.Rotation, view.facts)
	view.Waves = rotation.NextWaves(view.Rotation, view.facts)
	view.Instances = rotation.Standing(view.Rotation, view.facts)
	return view, nil
}

// endedView returns a rotation that has ended.
func (s *state) endedView(ctx context.Context, id string) (View, error) {
	r, err := s.endedRotation(ctx, id)
	if err != nil {
		return View{}, err
	}
	view := View{Rotation: r, Revision: int64(r.EventCount()), Changed: closedEnd}
	view.setProgress()
	s.lock(func(m *memory) {
		view.LockedOut, view.live = m.leftOut(r)
		view.Next = m.nextSteps(r)
	})
	return view, nil
}

// setProgress sets how far the re-encryption of each key is.
func (v *View) setProgress() {
	v.Progress = map[string]workload.WorkReport{}
	for _, c := range v.Changes {
		if report, ok := v.facts.Progress[v.WorkID(c)]; ok {
			v.Progress[c.Key] = report
		} else if report, ok := v.LastRows(c); ok {
			v.Progress[c.Key] = report
		}
	}
}

// leftOut returns the instances that run with a retired version of a rotation's keys. Where it has cut something, it also returns
// the names of all that live.
func (m *memory) leftOut(r rotation.Rotation) (all []LockedOut, live map[string]bool) {
	live = map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(m.Workloads)) {
		if !m.Workloads[name].Uses(r.KeyNames()...) {
			continue
		}
		all = append(all, m.lockedOutOf(name, r.KeyNames()...)...)
		if r.WasCut() {
			for _, i := range m.fleets[name].All() {
				live[i.Name()] = true
			}
		}
	}
	return all, live
}

// nextSteps are what is left to do after a rotation of all keys, since they were compromised: who has had them may have had the
// passwords of administrators, too.
func (m *memory) nextSteps(r rotation.Rotation) (steps []string) {
	if r.Whole == nil || !r.Compromised {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(m.Connections)) {
		if c := m.Connections[name]; !c.Secrets[kind.FieldPassword].Empty() && c.Rotated.Before(r.Created) {
			steps = append(steps, m.RootRemedy(name))
		}
	}
	return steps
}

// KeyStatus is a key at a glance.
type KeyStatus struct {
	Key      key.Key
	Rotation *rotation.Rotation // running, if any
	Waits    string             // what holds it back, or why an automatic rotation could not start
	Gates    []string           // names of the gates that hold the rotation back
	Orphan   bool               // it was tried so often that waiting will not mend it
	Due      time.Time          // of the next automatic rotation; zero: only when asked
	Owed     time.Time          // as Due, and as its policy says where the rotation could not start then; zero while one runs, too
	Problems []string           // at its server, or with its connection
	Notes    []string           // what an operator should know of a current version that is valid
	Refused  string             // who still tries a version that is retired
	Lapse    string             // why undeleted versions whose end has come have not been retired
	Cut      string             // what its newest rotation has cut, in the last day
	Trips    string             // who has presented a retired version to a proxy, with what to do; empty: nobody, or it is acknowledged
	Tripped  Tripped
}

// Status returns every key, sorted by name.
func (s *state) Status() []KeyStatus {
	m, unlock := s.memory.Lock()
	defer unlock()
	held := map[string][]rotation.GateResult{} // by rotation
	for id, r := range m.active {
		held[id], _ = rotation.Gates(r, m.factsNow(r))
	}
	all := make([]KeyStatus, 0, len(m.Keys))
	for _, name := range slices.Sorted(maps.Keys(m.Keys)) {
		fault := m.starts[name]
		status := KeyStatus{Key: m.Keys[name], Due: m.agenda.At(name), Waits: fault.Reason, Orphan: fault.Orphan()}
		status.Refused, status.Notes = m.health[checksKey+name].Refused, m.health[checksKey+name].Notes
		status.Problems = append(m.health[checksKey+name].Texts(), m.connectionProblems(m.Keys[name])...)
		status.Lapse, status.Cut, status.Trips = m.lapseFaults(status.Key), m.cutLately(name), m.openTrips(name)
		status.Tripped, status.Owed = m.trippedTimes(name), m.wanted(status.Key)
		if r, ok := m.active[m.rotating[name]]; ok {
			status.Rotation, status.Waits, status.Orphan = &r, rotation.Waits(held[r.ID]), r.Attempts >= schedule.OrphanAfter
			for _, g := range held[r.ID] {
				if !g.Holds {
					status.Gates = append(status.Gates, g.Name)
				}
			}
		}
		if n, ok := m.followsKey(name); ok && n.fault.Reason != "" {
			status.Waits, status.Orphan = fmt.Sprintf("rotation %s, which follows %s, has not started yet%s", n.ID, n.Follows, n.faultText()), n.fault.Orphan()
		}
		all = append(all, status)
	}
	return all
}

// wanted is when a key rotates by itself, or should have.
func (m *memory) wanted(k key.Key) time.Time {
	at := m.agenda.At(k.Name)
	if due := schedule.Due(k, m.Now(), m.Share); !at.IsZero() && due.Before(at) {
		return due
	}
	return at
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

// facts gathers what Next may know.
func (s *state) facts(r rotation.Rotation) (f rotation.Facts) {
	s.lock(func(m *memory) { f = m.factsNow(r) })
	return f
}

// factsNow is facts.
func (m *memory) factsNow(r rotation.Rotation) rotation.Facts {
	f := m.factsBesideFleets(r)
	for _, name := range slices.Sorted(maps.Keys(m.Workloads)) {
		w := m.Workloads[name]
		if w.Uses(r.KeyNames()...) {
			f.Workloads = append(f.Workloads, rotation.WorkloadFact{Workload: w, Instances: m.fleets[name].All(), Given: m.fleets[name].Given()})
		}
	}
	return f
}

// factsBesideFleets are all facts but the workloads and their instances, of which there may be thousands.
func (m *memory) factsBesideFleets(r rotation.Rotation) rotation.Facts {
	f := rotation.Facts{
		Now: m.Now(), Progress: map[string]workload.WorkReport{}, Ignored: map[string][]string{}, Observed: m.observed[r.ID],
		Witness: map[string]string{}, Revisions: map[string]uint64{}, Looks: map[string]rotation.Look{}, Keeps: map[string]time.Duration{},
		Grace: max(0, m.graceUntil-m.Uptime()),
	}
	f.Sampled, f.Dense = m.Sampled(r)
	for _, c := range r.Changes {
		f.Ignored[c.Key], f.Witness[c.Key] = m.Keys[c.Key].IgnoreColumns, m.Keys[c.Key].Witness
		f.Revisions[f.Witness[c.Key]] = m.Connections[f.Witness[c.Key]].Revision
		for _, seen := range r.Witnesses[r.WorkID(c)] {
			f.Revisions[seen.Connection] = m.Connections[seen.Connection].Revision
		}
		f.Keeps[c.Key] = m.Retention(r, m.Keys[c.Key], c)
		if look, ok := m.looks[r.WorkID(c)]; ok {
			f.Looks[r.WorkID(c)] = look
		}
		if report, ok := m.progress[r.WorkID(c)]; ok {
			f.Progress[r.WorkID(c)] = report
		}
	}
	return f
}

// Retention says what becomes of the values that leave, or has become of them, by key.
func (v View) Retention() map[string]string { return v.RetentionTexts(v.facts) }

// maxHistory is how many earlier rotations an estimate goes by, and how many records are looked through for them.
const (
	maxHistory = 9
	maxLooked  = 200
)

// history returns the newest rotations of exactly these keys that have ended as done.
func (s *state) history(ctx context.Context, keys []string) ([]rotation.Rotation, error) {
	ids, err := s.Store.List(ctx, pathRotations)
	if err != nil {
		return nil, fmt.Errorf("listing rotations: %w", err)
	}
	want := slices.Sorted(slices.Values(keys))
	var past []rotation.Rotation
	for n, id := range slices.Backward(ids) {
		if len(past) == maxHistory || len(ids)-n > maxLooked {
			break
		}
		r, err := s.endedRotation(ctx, id)
		if err != nil {
			return nil, err
		}
		if r.State == rotation.Done && slices.Equal(slices.Sorted(slices.Values(r.KeyNames())), want) {
			past = append(past, r)
		}
	}
	return past, nil
}

// acting reports whether a rotation of the key is changing something at its server at this moment.
func (l *locked) acting(name string) (id string, acting bool) {
	id = l.rotating[name]
	return id, l.busy[id] && !l.active[id].StepSamples()
}

// validAtServer returns the version of a key that its server has to know, and the one beside it that is valid there; empty: none is.
// A rotation that has ended one of its versions at the server may wait before that is stored: it has further keys, with rows.
func (l *locked) validAtServer(k key.Key) (stays, beside key.Version) {
	stays, _ = k.Current()
	for _, v := range k.Versions {
		if v.State == key.Previous {
			beside = v
		}
	}
	r, ok := l.active[l.rotating[k.Name]]
	if c, has := r.Change(k.Name); ok && has && slices.ContainsFunc(r.Timeline, func(e rotation.Event) bool { return e.State == r.State && e.Step == rotation.StepErase }) {
		stays, _ = k.Version(r.Staying(c))
		beside = key.Version{}
	}
	return stays, beside
}

// underWay is the refusal of what cannot be done while a key is being rotated.
func (l *locked) underWay(name string, r rotation.Rotation) error {
	return rotation.Refusef("key %s is being rotated by %s (%s); %s", name, r.ID, r.State, l.endHint(r))
}

// endHint says how a rotation ends that is in the way, and what it waits for.
func (l *locked) endHint(r rotation.Rotation) string {
	hint := "wait until it has ended, or revert it with: vault write -f hyvve/rotations/" + r.ID + "/revert"
	if !r.Revertible() {
		hint = "wait until it has ended: it cannot be reverted"
		if r.State == rotation.Retiring {
			hint += " any more"
		}
	}
	results, _ := rotation.Gates(r, l.facts(r))
	if text := rotation.Waits(results); text != "" {
		hint += "; it waits for: " + text
	}
	return hint
}

// restingVersion returns a key that nothing else is changing, and a version of it.
func (l *locked) restingVersion(name string, number int) (key.Key, key.Version, error) {
	if r, ok := l.active[l.rotating[name]]; ok {
		return l.Keys[name], key.Version{}, l.underWay(name, r)
	}
	return l.idleVersion(name, number)
}

// idleVersion returns a key and a version of it while nothing of the key is changed at its server.
func (l *locked) idleVersion(name string, number int) (key.Key, key.Version, error) {
	k, ok := l.Keys[name]
	if !ok {
		return k, key.Version{}, l.UnknownKey(name)
	}
	v, ok := k.Version(number)
	if !ok {
		return k, v, rotation.Refusef("key %s has no version %d; %s", name, number, catalog.RetainedText(k))
	}
	if id, acting := l.acting(name); acting {
		return k, v, tryAgain{fmt.Sprintf("rotation %s is at the server of key %s at this moment; try again", id, name)}
	}
	if l.beingChecked(name) {
		return k, v, tryAgain{fmt.Sprintf("key %s is being checked at its server at this moment; try again", name)}
	}
	return k, v, nil
}

// stillUsed says who presents an undeleted version where workloads verify it; empty: nobody who was seen.
func (s *state) stillUsed(k key.Key, v key.Version) (text string) {
	s.lock(func(m *memory) {
		for _, name := range slices.Sorted(maps.Keys(m.Workloads)) {
			if w := m.Workloads[name]; w.Uses(k.Name) {
				seen := rotation.Sighted(rotation.WorkloadFact{Workload: w, Instances: m.fleets[name].All()}, rotation.Change{Env: k.Env, From: v.Number}, s.Now())
				if seen != "" && text == "" {
					text = fmt.Sprintf("%s: %s", name, seen)
				}
			}
		}
	})
	return text
}
