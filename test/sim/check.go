// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// check is what must hold at any moment.
func (w *world) check() {
	if w.engine == nil {
		return
	}
	for _, name := range w.keys {
		k, ok := w.engine.Key(name)
		if !ok {
			w.violate("key %s is gone", name)
			return
		}
		w.checkVersions(k)
		if !w.cut[name] {
			w.checkAccepted(k)
		}
		w.checkRows(k)
	}
	w.checkLockedOut()
}

// checkVersions: one current version, and no value lost.
func (w *world) checkVersions(k key.Key) {
	current := 0
	for _, v := range k.Versions {
		if v.State == key.Current {
			current++
		}
		if v.State.Live() == v.Value.Empty() {
			w.violate("key %s: version %d is %s, and its value is gone: %v", k.Name, v.Number, v.State, v.Value.Empty())
		}
		if (v.State == key.Retained) == v.Sealed.Empty() {
			w.violate("key %s: version %d is %s, and the quarantine has no value of it: %v", k.Name, v.Number, v.State, v.Sealed.Empty())
		}
		if v.State == key.Retained && w.server.valid[k.Name][v.Sealed.Reveal()] {
			w.violate("key %s: version %d is retained, and valid at the server", k.Name, v.Number)
		}
		if id := w.server.ended[k.Name][v.Sealed.Reveal()]; v.State == key.Retained && id != "" {
			w.violate("key %s: version %d is retained, and rotation %s of a compromised key has ended it", k.Name, v.Number, id)
		}
	}
	if current != 1 {
		w.violate("key %s has %d current versions", k.Name, current)
	}
}

// checkBundle: a version that is retained, or erased, is in no bundle.
func (w *world) checkBundle(p *process, held map[string]workload.Held) {
	for name, h := range held {
		k, _ := w.engine.Key(name)
		for _, number := range append(slices.Clone(h.Accepts), h.Value) {
			if v, ok := k.Version(number); number > 0 && (!ok || !v.State.Live()) {
				w.violate("%s is given version %d of %s, which is %s", p.name(), number, name, v.State)
			}
		}
	}
}

// checkAccepted: what a live process presents is accepted by every live process that verifies it, and by the server.
func (w *world) checkAccepted(k key.Key) {
	for _, p := range w.procs {
		value := p.holds.values[k.Env]
		if !p.running || value == "" {
			continue
		}
		if !alive(k, value) {
			w.violate("%s presents a version of %s that is erased", p.name(), k.Name)
		}
		if w.serverKind[k.Name] {
			if !w.server.valid[k.Name][value] {
				w.violate("%s presents version %s of %s, which the server refuses", p.name(), number(k, value), k.Name)
			}
			continue
		}
		for _, v := range w.procs {
			if accepts, verifies := v.holds.accepts[k.Env]; v.running && verifies && !slices.Contains(accepts, value) {
				w.violate("%s presents version %s of %s, which %s does not accept", p.name(), number(k, value), k.Name, v.name())
			}
		}
	}
}

// alive reports whether a value is that of a version which is neither destroyed nor aborted.
func alive(k key.Key, value string) bool {
	return slices.ContainsFunc(k.Versions, func(v key.Version) bool { return v.Value.Reveal() == value })
}

// regroup notes that keys have left their rotation: they are not given together any more. Only those of a request for all keys do
// that before they are presented.
func (w *world) regroup(r rotation.Rotation) {
	if _, grouped := w.groups[r.ID]; grouped {
		w.groups[r.ID] = r.Changes
	}
	if r.PartOf == "" {
		return
	}
	if r.State == rotation.Accepting && !r.All {
		w.violate("%v leave rotation %s before they are presented", r.KeyNames(), r.PartOf)
	}
	w.groups[r.ID] = r.Changes
	w.groups[r.PartOf] = slices.DeleteFunc(slices.Clone(w.groups[r.PartOf]), func(c rotation.Change) bool { return slices.Contains(r.KeyNames(), c.Key) })
}

// checkGroup: an instance is never given one key of a rotation as changed and another not.
func (w *world) checkGroup(p *process, held map[string]workload.Held) {
	if len(w.groups) == 0 {
		return
	}
	load, _ := w.engine.Workload(p.workload)
	if load.Before != nil {
		return // roles differ by instance
	}
	for _, id := range w.running() {
		for _, a := range w.groups[id] {
			for _, b := range w.groups[id] {
				if load.Keys[a.Key] != load.Keys[b.Key] || !load.Uses(a.Key) {
					continue
				}
				x, y := held[a.Key], held[b.Key]
				if (x.Value == a.To) != (y.Value == b.To) || x.Uses(a.From) != y.Uses(b.From) || x.Uses(a.To) != y.Uses(b.To) {
					w.violate("%s is given a mixed set: %s %v, %s %v", p.name(), a.Key, x, b.Key, y)
				}
			}
		}
	}
}

// number names a value in a trace.
func number(k key.Key, value string) string {
	for _, v := range k.Versions {
		if v.Value.Reveal() == value {
			return fmt.Sprint(v.Number)
		}
	}
	return "that is erased"
}

// checkRows: every row opens, for every live process that reads it, and its version's value is kept.
func (w *world) checkRows(k key.Key) {
	for _, row := range w.db.rows[k.Name] {
		v, ok := k.Version(row)
		if !ok || v.Value.Empty() {
			w.violate("a row needs version %d of %s, which is lost", row, k.Name)
			return
		}
		if w.cut[k.Name] || w.db.stray[k.Name] || w.lying { // docs/security.md: a liar may have rows re-encrypted too late, or never
			continue
		}
		for _, p := range w.procs {
			if accepts, reads := p.holds.accepts[k.Env]; p.running && reads && !slices.Contains(accepts, v.Value.Reveal()) {
				w.violate("%s cannot open a row under version %d of %s", p.name(), row, k.Name)
				return
			}
		}
	}
}

// settled reports whether everything has ended: no rotation is under way, and every instance holds what it should.
func (w *world) settled() bool {
	if w.engine == nil || len(w.calls) > 0 || w.uptime < w.looked+5*time.Second {
		return false
	}
	w.looked = w.uptime
	return len(w.running())+len(w.toFollow()) == 0 && w.unfinished() == ""
}

func (w *world) unfinished() string {
	if w.engine == nil {
		return "Vault is away"
	}
	var waits []string
	for _, id := range w.running() {
		view, err := w.engine.View(ctx, id)
		if err != nil {
			return err.Error()
		}
		waits = append(waits, fmt.Sprintf("%s %s %s: %s", id, view.State, view.Step, view.Waits()))
	}
	for _, id := range w.toFollow() {
		waits = append(waits, id+" has not started yet")
	}
	waits = append(waits, w.unended()...)
	for _, name := range w.workloads {
		for _, i := range w.engine.Instances(name) {
			if !i.Anonymous && !w.livesAs(name, i.ID) {
				waits = append(waits, i.Name()+" is gone and counts as live")
			}
		}
	}
	for _, p := range w.procs {
		if p.alive && p.id != "" && !p.liar && (p.reading == nil || !p.running || p.unreported) {
			waits = append(waits, p.name()+" has not loaded its bundle")
		}
	}
	return strings.Join(waits, "; ")
}

// soonEnded is how long versions are retained whose end a world waits for.
const soonEnded = 5 * time.Minute

// unended says which versions have still to end.
func (w *world) unended() (waits []string) {
	for _, name := range w.keys {
		k, _ := w.engine.Key(name)
		for _, v := range k.Versions {
			if v.State == key.Undeleted || v.State == key.Retained && v.Until.Sub(v.Retired) < soonEnded {
				waits = append(waits, fmt.Sprintf("version %d of %s is still %s", v.Number, name, v.State))
			}
		}
	}
	return waits
}

// checkEnd is what must hold when all has ended: nothing is left on its way, no credential is left at a server, and the
// journal tells what happened.
func (w *world) checkEnd() {
	for _, name := range w.keys {
		k, _ := w.engine.Key(name)
		current, _ := k.Current()
		for _, v := range k.Versions {
			if v.State == key.Staged || v.State == key.Previous {
				if !w.orphan(k, v) {
					w.violate("key %s: version %d is still %s", name, v.Number, v.State)
				}
			}
		}
		if valid := w.server.valid[name]; w.serverKind[name] && (len(valid) != 1 || !valid[current.Value.Reveal()]) {
			w.violate("key %s: %d credentials are valid at the server at the end, current among them: %v", name, len(valid), valid[current.Value.Reveal()])
		}
	}
	w.checkJournal()
}

// orphan reports whether a staged version belongs to no rotation: a crash left it before any instance had it, and the key's
// next rotation aborts it.
func (w *world) orphan(k key.Key, v key.Version) bool {
	_, err := w.engine.View(ctx, v.Rotation)
	return v.State == key.Staged && err != nil
}

// checkJournal: the journal has each event of each rotation once, in their order.
func (w *world) checkJournal() {
	ids, err := w.engine.RotationIDs(ctx)
	w.must(err)
	verified, err := w.engine.Journal().Verify(ctx)
	w.must(err)
	for _, fault := range verified.Faults {
		w.violate("journal: %s", fault)
	}
	journal := map[string][]journal.Entry{}
	entries, err := w.engine.Journal().IDs(ctx)
	w.must(err)
	for _, id := range entries {
		entry, _, err := w.engine.Journal().Entry(ctx, id)
		w.must(err)
		if strings.HasPrefix(entry.What, "erased version") {
			w.stats.Erased++
		}
		journal[entry.Rotation] = append(journal[entry.Rotation], entry)
	}
	for _, id := range ids {
		view, err := w.engine.View(ctx, id)
		w.must(err)
		w.checkReceipt(view)
		if view.State == rotation.Done {
			w.stats.Done++
		} else {
			w.stats.Reverted++
		}
		w.checkFollower(view.Rotation, ids, journal[""], verified.First == 1)
		w.checkCut(view.Rotation)
		for _, event := range view.Timeline {
			if event.Step == rotation.StepAcceptBoth {
				w.stats.WentBack++
			}
		}
		told := view.Timeline
		if view.Omitted > 0 { // its middle is in the journal alone
			newest := min(len(told)/2, len(journal[id]))
			told, journal[id] = told[len(told)-newest:], journal[id][len(journal[id])-newest:]
		}
		if n := len(told) - len(journal[id]); n > 0 && verified.First > 1 { // retention has taken its beginning
			told = told[n:]
		}
		if len(journal[id]) != len(told) {
			w.violate("rotation %s has %d events, and the journal %d", id, len(view.Timeline), len(journal[id]))
			continue
		}
		for n, event := range told {
			if entry := journal[id][n]; entry.State != event.State || entry.Step != event.Step || !entry.At.Equal(event.At) {
				w.violate("rotation %s: event %d is %s %s, and the journal says %s %s", id, n, event.State, event.Step, entry.State, entry.Step)
			}
		}
	}
}
