// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// rotateAll rotates every key at once, mostly as after an intrusion, and looks whether each key is rotated or named.
func (w *world) rotateAll() {
	request := engine.Request{All: true, Compromised: w.chance(70), By: []rotation.Actor{operator, colleague}[w.rng.IntN(2)], Trigger: rotation.ByOperator}
	if w.chance(50) {
		before := w.writes()
		if _, _, err := w.engine.Plan(ctx, request); err != nil {
			w.expect(err, "plan of all keys")
		}
		if w.writes() != before {
			w.violate("a plan of all keys has written to storage")
		}
	}
	view, _, err := w.engine.Rotate(ctx, request)
	if request.Compromised && (err == nil || w.engine.Stale()) {
		for _, name := range w.keys { // instances that do not follow in time are cut off
			w.cut[name] = true
		}
	}
	if err == nil {
		w.stats.All++
		w.checkAll(view)
	}
	w.said(err, "rotation of all keys")
}

// checkAll: each key is in a rotation of the request, or it is said why it is not. The other rotations are there.
func (w *world) checkAll(view engine.View) {
	if view.Whole == nil {
		w.violate("rotation %s of all keys does not say what became of the others", view.ID)
		return
	}
	seen := view.KeyNames()
	ids := []string{view.ID}
	for _, with := range view.Whole.With {
		ids = append(ids, with.ID)
	}
	for _, id := range ids {
		other, err := w.engine.View(ctx, id)
		if err != nil {
			w.expect(err, "view of "+id)
			return
		}
		seen = append(seen, other.KeyNames()...)
		if len(other.Changes) > 1 {
			w.groups[id] = other.Changes
		}
	}
	for _, left := range view.Whole.LeftOut {
		if left.Reason == "" {
			w.violate("rotation of all keys leaves out %s, and does not say why", left.Key)
		}
		seen = append(seen, left.Key)
	}
	for _, name := range w.keys {
		if !slices.Contains(seen, name) {
			w.violate("rotation of all keys forgets %s", name)
		}
	}
}
