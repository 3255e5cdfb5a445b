// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// checkLockedOut: of an instance whose process runs with what the engine knows, it is said that it is locked out exactly if the
// process has a value that is in no bundle any more.
func (w *world) checkLockedOut() {
	if len(w.cut) == 0 {
		return
	}
	for _, name := range w.workloads {
		out := w.engine.LockedOut(name)
		for _, p := range w.procs {
			i, ok := w.engine.Instance(name, p.id)
			if p.workload != name || !p.running || p.liar || !ok || i.Loaded == nil || i.Loaded.Etag != p.loaded || !p.alive {
				continue
			}
			dead := false
			for _, keyName := range w.keys {
				k, _ := w.engine.Key(keyName)
				held := slices.Clone(p.holds.accepts[k.Env])
				if value := p.holds.values[k.Env]; value != "" {
					held = append(held, value)
				}
				dead = dead || slices.ContainsFunc(held, func(value string) bool { return !alive(k, value) })
			}
			said := slices.ContainsFunc(out, func(o engine.LockedOut) bool { return o.Instance == p.id })
			if dead != said {
				w.violate("%s has a retired value: %v, and is said to be locked out: %v", p.name(), dead, said)
			}
			if said {
				w.stats.LockedOut++
			}
		}
	}
}

// checkReceipt: what a rotation has kept of how it went agrees with what has happened, and with the journal.
func (w *world) checkReceipt(view engine.View) {
	d, err := w.engine.Document(ctx, view.ID)
	w.must(err)
	if n := len(d.Entries); d.Missing == 0 && n > 0 {
		changes := d.Entries[n-1].Changes
		if len(changes) == 0 || changes[len(changes)-1].To != d.Digest {
			w.violate("rotation %s: the digest of its receipt is %s, and the journal says %+v", view.ID, d.Digest, changes)
		}
	}
	if view.WasCut() {
		w.stats.Cut++
		if !view.Compromised {
			w.violate("rotation %s has cut something, and its keys are not compromised: %s", view.ID, view.CutText())
		}
		for _, h := range view.LeftBehind() {
			if len(h.Names.List) != h.Names.Count {
				w.violate("rotation %s names %d of %d that it has cut", view.ID, len(h.Names.List), h.Names.Count)
			}
		}
		return
	}
	if view.State != rotation.Done || len(view.Receipt.Snapshots) == 0 {
		return
	}
	last := view.Receipt.Snapshots[len(view.Receipt.Snapshots)-1]
	for _, h := range last.Holders {
		for _, c := range view.Changes {
			held := h.Keys[c.Key]
			if h.Proof == rotation.ProofNone || last.State != rotation.Retiring || held.Uses(c.From) {
				w.violate("rotation %s has ended, and its receipt says that %s (%s) held %v of %s", view.ID, strings.Join(names(h), ", "), h.Proof, held, c.Key)
			}
		}
	}
}

func names(h rotation.Holders) (all []string) {
	for _, n := range h.Names.List {
		all = append(all, h.Workload+"/"+n.ID)
	}
	return all
}
