// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"maps"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// tinker changes what may be changed at any time.
func (w *world) tinker() {
	switch w.rng.IntN(5) {
	case 4:
		w.cleanUp()
	case 3:
		f := catalog.Floor{Entries: 100 + w.rng.IntN(10), Age: w.between(0, time.Minute)}
		w.said(w.engine.PutFloor(ctx, f, operator), "another floor of the journal")
	case 0:
		load, _ := w.engine.Workload(w.workloads[w.rng.IntN(len(w.workloads))])
		load.MaxUnavailable, load.MinInstances = []string{"1", "50%", "100%"}[w.rng.IntN(3)], w.rng.IntN(3)
		w.said(w.engine.PutWorkload(ctx, load, false, operator), "change of "+load.Name)
	case 1:
		k, ok := w.engine.Key(w.keys[w.rng.IntN(len(w.keys))])
		if !ok {
			return
		}
		w.editPolicy(k)
	default:
		c := w.engine.Config()
		c.LeaseTTL, c.Soak = w.between(leaseTTL/2, 2*leaseTTL), w.between(0, 10*time.Second)
		c.JournalEntries = 110 + w.rng.IntN(100)
		w.said(w.engine.PutConfig(ctx, c, operator), "another configuration")
	}
}

// editPolicy writes another policy of a key. No policy makes up for a time before it was written: what was not due is not due then.
func (w *world) editPolicy(k key.Key) {
	d := catalog.Definition{Name: k.Name, Env: k.Env, Kind: k.Kind, Options: k.Options, Protects: k.Protects, Witness: k.Witness, Policy: w.policy()}
	was, held := w.due(k.Name)
	now := w.now()
	_, err := w.engine.PutKey(ctx, d, operator)
	w.said(err, "another policy of "+k.Name)
	current, _ := k.Current()
	overdue := k.Policy.Period > 0 && current.Created.Add(k.Policy.Period).Before(now) // and put off after an outage
	if k.Policy.Schedule != "" {
		planned := schedule.Due(k, now, func(key.Key, string) float64 { return 0 })
		overdue = !planned.IsZero() && !planned.After(now)
	}
	if held || overdue { // it was due before: writing its policy puts it off no longer
		return
	}
	if due, _ := w.due(k.Name); err == nil && !k.Policy.Disabled && !due.IsZero() && !due.After(now) && (was.IsZero() || was.After(now)) && !w.rotating(k.Name) {
		w.violate("key %s, whose policy was written at %s, is due at %s", k.Name, now, due)
	}
}

// due returns when a key rotates by itself next, and whether something holds that up.
func (w *world) due(name string) (at time.Time, held bool) {
	for _, s := range w.engine.Status() {
		if s.Key.Name == name {
			return s.Due, s.Waits != ""
		}
	}
	return time.Time{}, false
}

// edit adds a key to a workload, or takes such a key away again. A key that a live process holds is not taken from it, unless the
// operator says so, or undoes what gave it.
func (w *world) edit() {
	type choice struct{ load, key string }
	var all []choice
	busy := map[string]bool{}
	for _, id := range w.running() {
		for _, c := range w.groups[id] {
			busy[c.Key] = true
		}
	}
	for _, name := range w.workloads {
		for _, k := range w.keys {
			if w.db.rows[k] != nil || busy[k] && w.chance(90) {
				continue
			}
			if all = append(all, choice{name, k}); w.edited[name+"/"+k] { // rather one of those
				all = append(all, choice{name, k}, choice{name, k})
			}
		}
	}
	if len(all) == 0 {
		return
	}
	chosen := all[w.rng.IntN(len(all))]
	load, there := w.engine.Workload(chosen.load)
	name := chosen.key
	if !there {
		return
	}
	keys, undo := maps.Clone(load.Keys), load.Before
	_, has := keys[name]
	switch edited := w.edited[load.Name+"/"+name]; {
	case has && !edited:
		return // the world relies on the first roles
	case has:
		delete(keys, name)
	default:
		keys[name] = workload.Role{Presents: true, Verifies: !w.serverKind[name] && w.chance(50)}
		w.edited[load.Name+"/"+name] = true
	}
	drop := w.chance(50)
	load.Keys = keys
	err := w.engine.PutWorkload(ctx, load, drop, operator)
	w.said(err, fmt.Sprintf("%s with %s: %v, drop %v", load.Name, name, !has, drop))
	switch {
	case err == nil && has:
		w.stats.Dropped++
	case err == nil:
		w.stats.Edited++
	}
	_, undone := undo[name]
	if err != nil || !has || drop || undo != nil && !undone {
		return
	}
	for _, i := range w.engine.Instances(load.Name) {
		if held, ok := i.Issued.Keys[name]; ok && (held.Value > 0 || len(held.Accepts) > 0) {
			w.violate("%s loses %s, which it holds, although nobody said drop", i.Name(), name)
		}
	}
}
