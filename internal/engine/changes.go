// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// changeOf returns a workload that is to be stored, and the instances that wait for their turn to follow the change of its keys.
func (l *locked) changeOf(w workload.Workload, drop bool) (workload.Workload, waits, error) {
	old, had := l.Workloads[w.Name]
	var instances []workload.Instance
	waiting := waits{}
	l.lock(func(m *memory) {
		maps.Copy(waiting, m.waiting[w.Name])
		instances = m.fleets[w.Name].All()
	})
	w.Before = old.Before
	switch {
	case !had || maps.Equal(old.Keys, w.Keys):
		return w, waiting, nil
	case old.Before != nil && !maps.Equal(w.Keys, old.Before):
		return w, nil, rotation.Refusef("workload %s: its instances still follow an earlier change of its keys (%s); wait until they have%s; nothing was changed", w.Name, l.changeText(old), undoing(old))
	case old.Before != nil: // those that wait hold what they should
		undone := waits{}
		for _, i := range instances {
			undone[i.ID] = slices.DeleteFunc(old.Changing(), func(k string) bool { return slices.Contains(waiting[i.ID], k) })
		}
		waiting = undone
	default:
		if err := checkDrops(old, w, instances, drop); err != nil {
			return w, nil, err
		}
	}
	w.Before = old.Keys
	if old.Before == nil {
		for _, i := range instances {
			waiting[i.ID] = w.Changing()
		}
	}
	maps.DeleteFunc(waiting, func(id string, keys []string) bool { return len(keys) == 0 || anonymous(instances, id) })
	if len(waiting) == 0 {
		w.Before = nil
	}
	return w, waiting, nil
}

// anonymous reports whether an instance reads without a name. It reads once, so that it cannot wait.
func anonymous(instances []workload.Instance, id string) bool {
	return slices.ContainsFunc(instances, func(i workload.Instance) bool { return i.ID == id && i.Anonymous })
}

// checkDrops refuses a change that takes from live instances what they hold.
func checkDrops(old, w workload.Workload, instances []workload.Instance, drop bool) error {
	if drop {
		return nil
	}
	for _, name := range old.KeyNames() {
		was, is := old.Keys[name], w.Keys[name]
		var lists, holders []string
		for _, i := range instances {
			held := i.Issued.Keys[name]
			if was.Presents && !is.Presents && held.Value > 0 || was.Verifies && !is.Verifies && len(held.Accepts) > 0 {
				holders = append(holders, i.Name())
			}
		}
		if len(holders) == 0 {
			continue
		}
		if was.Presents && !is.Presents {
			lists = append(lists, "presents")
		}
		if was.Verifies && !is.Verifies {
			lists = append(lists, "verifies")
		}
		return rotation.Refusef("%s: workload %s would lose key %s, which these live instances hold: %s; nothing was changed. %s= replaces the whole list: to add a key, write add_%s=KEY. To take it away all the same, in waves, add drop=true",
			lists[0], w.Name, name, someOf(holders), lists[0], lists[0])
	}
	return nil
}

// holdersOf returns the live instances of a workload that hold anything.
func (l *locked) holdersOf(name string) (all []string) {
	l.lock(func(m *memory) {
		for _, i := range m.fleets[name].All() {
			if len(i.Issued.Keys) > 0 {
				all = append(all, i.Name())
			}
		}
	})
	return all
}

// undoing says how to undo the change of a workload under way, as the end of a sentence. Without any key it could not be written.
func undoing(w workload.Workload) string {
	if len(w.Before) == 0 {
		return ""
	}
	return ", or undo that change by writing the lists as they were: " + listsOf(w.Earlier())
}

// listsOf are the lists of a workload's keys, as a command has them.
func listsOf(w workload.Workload) string {
	lists := map[string][]string{}
	for _, name := range w.KeyNames() {
		for field, in := range map[string]bool{"presents": w.Keys[name].Presents, "verifies": w.Keys[name].Verifies, "single_value": w.Keys[name].Single} {
			if in {
				lists[field] = append(lists[field], name)
			}
		}
	}
	command := "vault write hyvve/workloads/" + w.Name
	for _, field := range []string{"presents", "verifies", "single_value"} {
		command += " " + field + "=" + strings.Join(lists[field], ",")
	}
	return command
}

// standing is how far the instances of a workload have followed the change of its keys.
type standing struct {
	// waiting have not been let go. Of the others, settled have loaded what they should, or have read it where they report nothing.
	waiting, settled, unsettled []workload.Instance
}

func (m *memory) standing(w workload.Workload) (s standing) {
	for _, i := range m.fleets[w.Name].All() {
		switch {
		case i.Anonymous:
		case len(m.waiting[w.Name][i.ID]) > 0:
			s.waiting = append(s.waiting, i)
		case (i.AllProved() || i.Silent()) && i.Issued.Etag == m.target(w, i).Etag && i.Proof.AtLeast(w.RequireProof):
			s.settled = append(s.settled, i)
		default:
			s.unsettled = append(s.unsettled, i)
		}
	}
	return s
}

// changeText says how far instances have followed the change of a workload's keys.
func (s *state) changeText(w workload.Workload) string {
	if w.Before == nil {
		return ""
	}
	at := get(s, func(m *memory) standing { return m.standing(w) })
	total := len(at.waiting) + len(at.settled) + len(at.unsettled)
	text := fmt.Sprintf("%s: %d of %d instances have followed", strings.Join(w.Changing(), ", "), len(at.settled), total)
	if len(at.unsettled) > 0 {
		if less := rotation.ProvesLess(rotation.WorkloadFact{Workload: w, Instances: slices.DeleteFunc(slices.Clone(at.unsettled), func(i workload.Instance) bool { return !i.AllProved() })}); less != "" {
			return text + "; " + less
		}
		return text + fmt.Sprintf("; waiting for %s, of which no report has come that it has loaded this", someOf(namesOf(at.unsettled))) + ifGone(at.unsettled[0])
	}
	for _, i := range at.settled {
		if !fit(i) {
			return text + fmt.Sprintf("; %s is not healthy with it: %s", i.Name(), i.Reason) + ifGone(i)
		}
	}
	return text
}

// ifGone says what to do of an instance that is waited for, as the end of a sentence.
func ifGone(i workload.Instance) string {
	return fmt.Sprintf("; an instance that is gone for good is waited for no longer after: vault delete hyvve/workloads/%s/instances/%s", i.Workload, i.ID)
}

// fit reports whether the change may go on to the next instance for all that is known of this one.
func fit(i workload.Instance) bool { return i.Healthy || i.Silent() }

func namesOf(instances []workload.Instance) (names []string) {
	for _, i := range instances {
		names = append(names, i.Name())
	}
	return names
}

// Change says how far the instances of a workload have followed the last change of its keys; empty: all have.
func (s *state) Change(name string) string {
	w, _ := s.Workload(name)
	return s.changeText(w)
}

// followChanges lets instances follow changes of the keys of their workloads, as many at a time as may be unavailable.
func (l *locked) followChanges(ctx context.Context) {
	for _, name := range slices.Sorted(maps.Keys(l.Workloads)) {
		if w := l.Workloads[name]; w.Before != nil && !l.failing() {
			if err := l.followChange(ctx, w); err != nil {
				l.Observer.Fault("the change of workload "+name+" could not go on", err)
			}
		}
	}
}

func (l *locked) followChange(ctx context.Context, w workload.Workload) error {
	at := get(l.state, func(m *memory) standing { return m.standing(w) })
	if len(at.waiting)+len(at.unsettled) == 0 {
		what := fmt.Sprintf("all %d instances have followed the change of %s", len(at.settled), strings.Join(w.Changing(), ", "))
		return l.endChange(ctx, w, what)
	}
	budget, err := w.AtATime(len(at.waiting) + len(at.settled) + len(at.unsettled))
	if err != nil {
		return err
	}
	budget -= len(at.unsettled)
	for _, i := range at.settled {
		if !fit(i) {
			budget--
		}
	}
	var next []string
	for _, i := range at.waiting { // one that is not healthy is unavailable anyway, perhaps for lack of this change
		if !fit(i) {
			next = append(next, i.ID)
			budget--
		}
	}
	for _, i := range at.waiting {
		if fit(i) && budget > 0 {
			next = append(next, i.ID)
			budget--
		}
	}
	if len(next) == 0 {
		return nil
	}
	l.lock(func(m *memory) {
		for _, id := range next {
			delete(m.waiting[w.Name], id)
		}
		m.fleets[w.Name].Forget()
		m.dirty[w.Name] = true
	})
	return nil
}

// endChange stores that nobody waits any more.
func (l *locked) endChange(ctx context.Context, w workload.Workload, what string) error {
	if err := l.journal.Add(ctx, journal.Entry{What: what, By: rotation.Itself.Name, Workload: w.Name}); err != nil {
		return err
	}
	w.Before = nil
	if err := l.put(ctx, pathWorkloads+w.Name, w); err != nil {
		return err
	}
	l.lock(func(m *memory) {
		m.Workloads[w.Name] = w
		delete(m.waiting, w.Name)
	})
	l.markDirty()
	return nil
}

// followFirst lets live instances of workloads that use a key get its first version in waves, as they would get a key that is added.
// Those that still follow another change get it with that. Killed before that version is stored, nobody has to follow anything, and
// the change ends by itself.
func (l *locked) followFirst(ctx context.Context, name string) error {
	for _, of := range slices.Sorted(maps.Keys(l.Workloads)) {
		w := l.Workloads[of]
		if !w.Uses(name) {
			continue
		}
		waiting := waits{}
		if w.Before == nil {
			w.Before = w.Keys
		} else {
			l.lock(func(m *memory) { maps.Copy(waiting, m.waiting[of]) })
		}
		for _, i := range l.Instances(of) {
			if !i.Anonymous {
				keys := append([]string{name}, waiting[i.ID]...)
				slices.Sort(keys)
				waiting[i.ID] = slices.Compact(keys)
			}
		}
		if len(waiting) == 0 {
			continue
		}
		w.Before = maps.Clone(w.Before)
		delete(w.Before, name)
		if err := l.put(ctx, pathWorkloads+of, w); err != nil {
			return err
		}
		l.lock(func(m *memory) {
			m.Workloads[of] = w
			m.waiting[of] = waiting
		})
	}
	return nil
}

// changing says which workloads still follow a change that takes a key of a rotation away. Facts do not have the roles that instances
// hold until then. An instance that has not followed a change which gives it the key holds up the rotation as one that has not loaded.
func (rs *records) changing(r rotation.Rotation) (all []string) {
	if r.Compromised {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(rs.Workloads)) {
		for _, k := range rs.Workloads[name].Changing() {
			was, is := rs.Workloads[name].Before[k], rs.Workloads[name].Keys[k]
			if c, ok := r.Change(k); ok && (was.Presents && !is.Presents || was.Verifies && !is.Verifies || was.Single != is.Single) {
				all = append(all, fmt.Sprintf("%s: instances of workload %s still follow a change of its keys; wait until they have: vault read hyvve/workloads/%s", c.Env, name, name))
			}
		}
	}
	return all
}

// endChanges lets all instances follow at once whose change is about a key that is compromised.
func (l *locked) endChanges(ctx context.Context, r rotation.Rotation) error {
	for _, name := range slices.Sorted(maps.Keys(l.Workloads)) {
		w := l.Workloads[name]
		if slices.ContainsFunc(w.Changing(), func(k string) bool { _, ok := r.Change(k); return ok }) {
			if err := l.endChange(ctx, w, "all instances follow the change of its keys at once, since one of them is compromised"); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadWaiting finds out after a start which instances wait: those that hold what their workload's keys were before.
func (l *locked) loadWaiting(context.Context) error {
	l.lock(func(m *memory) {
		for name, w := range m.Workloads {
			if w.Before == nil {
				continue
			}
			m.waiting[name] = waits{}
			for _, i := range m.fleets[name].All() {
				if keys := heldAsBefore(w, i); len(keys) > 0 && !i.Anonymous {
					m.waiting[name][i.ID] = keys
				}
			}
		}
	})
	return nil
}

// heldAsBefore returns the keys that an instance was given as they were before the last change of its workload's keys, sorted.
func heldAsBefore(w workload.Workload, i workload.Instance) (names []string) {
	as := func(role workload.Role, held workload.Held) bool {
		return role.Presents == (held.Value > 0) && role.Verifies == (len(held.Accepts) > 0)
	}
	for _, name := range w.Changing() {
		held := i.Issued.Keys[name]
		if as(w.Before[name], held) && !as(w.Keys[name], held) {
			names = append(names, name)
		}
	}
	return names
}
