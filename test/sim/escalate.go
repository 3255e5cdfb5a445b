// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// escalateOrTune says that a version of a running rotation has leaked, or changes the rotation's settings.
func (w *world) escalateOrTune(id string) {
	by := []rotation.Actor{operator, colleague}[w.rng.IntN(2)]
	view, err := w.engine.View(ctx, id)
	if err != nil {
		w.expect(err, "view of "+id)
		return
	}
	if w.chance(40) {
		tuning := rotation.Tuning{By: by, OnFailure: []string{"", rotation.FailurePause, rotation.FailureRevert}[w.rng.IntN(3)]}
		if w.chance(50) {
			tuning.Soak = new(w.between(0, 20*time.Second))
		}
		if w.chance(50) {
			tuning.Observe = new(w.between(0, 20*time.Second))
		}
		if w.chance(30) {
			tuning.Deadline = new(w.between(0, 10*time.Minute))
		}
		if _, err = w.engine.Tune(ctx, id, tuning); err == nil {
			w.stats.Tuned++
		}
		w.said(err, "tune of "+id)
		return
	}
	what := rotation.Escalation{Which: []string{rotation.LeakedOld, rotation.LeakedNew, rotation.LeakedBoth}[w.rng.IntN(3)], By: by, Deadline: []time.Duration{0, 5 * time.Second}[w.rng.IntN(2)]}
	_, _, err = w.engine.Escalate(ctx, id, what)
	if err == nil || w.engine.Stale() {
		for _, name := range view.KeyNames() { // instances that do not follow in time are cut off
			w.cut[name] = true
		}
	}
	if err == nil {
		w.stats.Escalated++
	}
	w.said(err, fmt.Sprintf("leak of the %s version of %s", what.Which, id))
}

// rotatingWith returns the keys of the rotations in which some keys rotate.
func (w *world) rotatingWith(names []string) (all []string) {
	for _, id := range w.running() {
		view, err := w.engine.View(ctx, id)
		if err == nil && slices.ContainsFunc(view.KeyNames(), func(name string) bool { return slices.Contains(names, name) }) {
			all = append(all, view.KeyNames()...)
		}
	}
	return all
}

// toFollow returns the ids of rotations that follow others and have not started.
func (w *world) toFollow() []string {
	ids, err := w.node.List(ctx, "following/")
	if err != nil {
		w.expect(err, "list of rotations that follow")
	}
	return ids
}

// checkFollower: a rotation that is to follow another has started, or another rotation of its keys has taken its place. entries are
// those of no rotation.
func (w *world) checkFollower(r rotation.Rotation, ids []string, entries []journal.Entry, whole bool) {
	if r.Follow == nil || slices.Contains(ids, r.Follow.ID) {
		if r.Follow != nil {
			w.stats.Followed++
		}
		return
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.What, "rotation "+r.Follow.ID+", which was to follow ") {
			return
		}
	}
	if whole {
		w.violate("rotation %s is %s, and %s, which is to follow it, has not started", r.ID, r.State, r.Follow.ID)
	}
}

// checkCut: a compromised rotation has ended the sessions of the version that it has retired. One that was escalated when the value
// was about to be erased may have found it gone.
func (w *world) checkCut(r rotation.Rotation) {
	if !r.Compromised || r.State != rotation.Done || r.Omitted > 0 {
		return
	}
	for _, e := range r.Timeline {
		if e.Step == rotation.StepErase && e.State == rotation.Retiring {
			break
		}
		if slices.ContainsFunc(e.Changes, func(c rotation.EntryChange) bool { return c.Field == "compromised" }) {
			for _, c := range r.Changes {
				if w.serverKind[c.Key] && !w.server.cuts[c.Key][c.From] {
					w.violate("rotation %s of a compromised key has retired version %d of %s, and left its sessions", r.ID, c.From, c.Key)
				}
			}
			return
		}
	}
}

// answerable is the user whom another one has to match: the last who has made a rotation end the old version on less evidence, or
// who has started it. One that starts by itself does so as the operator has said.
func answerable(view engine.View) rotation.Actor {
	switch {
	case view.ChangedBy != nil:
		return *view.ChangedBy
	case view.Trigger.Automatic():
		return operator
	}
	return rotation.Actor{Name: view.By, Entity: view.Entity}
}
