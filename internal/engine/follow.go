// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"regexp"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// shownEvery is the shortest time between two revisions that differ in gates and instances alone. In a rotation of thousands
// of instances each report changes a gate.
const shownEvery = time.Second

// show makes a new revision of a rotation, and wakes those who follow it, if it looks different than in the last one. Times
// that go by are no difference.
func (l *locked) show(r rotation.Rotation, gates []rotation.GateResult) {
	l.lock(func(m *memory) {
		if m.closed {
			return
		}
		s := m.showing(r.ID)
		moved := !s.looked || s.events != r.EventCount() || s.paused != (r.Paused != nil)
		if !moved && (l.Uptime()-s.at < shownEvery || s.of == s.stored && sameGates(s.gates, gates)) {
			return
		}
		s.looked, s.gates, s.events, s.paused, s.of, s.at = true, gates, r.EventCount(), r.Paused != nil, s.stored, l.Uptime()
		s.number++
		close(s.changed)
		s.changed = make(chan struct{})
	})
}

// goingBy are times in reasons, as "12s ago".
var goingBy = regexp.MustCompile(`\b([0-9.]+(h|m|s|ms|µs))+\b`)

// sameGates reports whether gates say the same but for times that go by.
func sameGates(a, b []rotation.GateResult) bool {
	return slices.EqualFunc(a, b, func(a, b rotation.GateResult) bool {
		return a == b || a.Name == b.Name && a.Holds == b.Holds && a.Note == b.Note && goingBy.ReplaceAllString(a.Reason, "") == goingBy.ReplaceAllString(b.Reason, "")
	})
}

// Glance is [state.View] without instances and waves, and with the gates of its revision: its cost does not grow with the
// number of instances.
func (s *state) Glance(ctx context.Context, name string) (View, error) {
	id, err := s.rotationID(ctx, name)
	if err != nil {
		return View{}, err
	}
	var view View
	var ok, looked bool
	s.lock(func(m *memory) {
		if view.Rotation, ok = m.active[id]; !ok {
			return
		}
		view.facts = m.factsBesideFleets(view.Rotation)
		view.Revision, view.Changed = m.revision(id)
		if shown := m.shown[id]; shown != nil {
			view.Gates, looked = shown.gates, shown.looked
		}
	})
	if !ok {
		return s.endedView(ctx, id)
	}
	if !looked { // the engine was opened just now
		full, err := s.View(ctx, id)
		full.Instances, full.Waves = nil, nil
		return full, err
	}
	view.setProgress()
	return view, nil
}

// Follow returns a glance at a rotation when its revision is no longer since, or its own at first where since is nil. It returns
// without news when the rotation has ended, after patience, after [fleet.LongestWatch], or earlier when others must not
// wait for it. [fleet.ErrCrowded]: too many wait.
func (s *state) Follow(ctx context.Context, name string, since *int64, patience time.Duration) (View, error) {
	view, err := s.Glance(ctx, name)
	if err != nil || view.Finished() || since != nil && view.Revision != *since || patience <= 0 {
		return view, err
	}
	interrupted, leave, err := s.AwaitsEnd()
	if err != nil {
		return view, err
	}
	defer leave()
	timer := time.NewTimer(min(patience, fleet.LongestWatch))
	defer timer.Stop()
	select {
	case <-view.Changed:
	case <-interrupted:
	case <-timer.C:
	case <-ctx.Done():
		return view, nil
	}
	return s.Glance(ctx, view.ID)
}

// AwaitEnd returns a glance at a rotation when it has ended or is paused, or after patience. interrupted: it has returned earlier,
// because others must not wait for it. [fleet.ErrCrowded]: too many wait.
func (s *state) AwaitEnd(ctx context.Context, id string, patience time.Duration) (view View, interrupted bool, err error) {
	ended, leave, err := s.AwaitsEnd()
	if err != nil {
		return View{}, false, err
	}
	defer leave()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		view, err = s.Glance(ctx, id)
		if err != nil || view.Finished() || view.Paused != nil {
			return view, false, err
		}
		select {
		case <-view.Changed:
			continue
		case <-ended:
			return view, true, nil
		case <-timer.C:
		case <-ctx.Done():
		case <-s.ctx.Done():
			return view, true, nil
		}
		view, err = s.Glance(ctx, id)
		return view, false, err
	}
}
