// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Rotate starts a rotation and moves it on as far as it goes at once. The warnings are of the value, and of gaps that
// workloads which hold a single value will have.
func (e *Engine) Rotate(ctx context.Context, request Request) (View, []string, error) {
	if err := request.check(); err != nil {
		return View{}, nil, err
	}
	var warnings []string
	if !request.Value.Empty() {
		var err error
		if warnings, err = e.CheckValue(request.Keys[0], request.Value); err != nil {
			return View{}, nil, err
		}
	}
	tries := e.witnessTries(request.Keys)
	if !request.Compromised {
		if faults := summed(e.try(ctx, tries)); len(faults) > 0 {
			return View{}, nil, rotation.Refusef("%s; nothing was changed", strings.Join(faults, "; "))
		}
	}
	var view View
	var more []string
	err := e.update(func(l *locked) (err error) {
		view, more, err = l.rotateNow(ctx, request)
		return err
	})
	warnings = append(warnings, more...)
	if err == nil && request.Compromised { // which waits for nobody's look
		for _, fault := range summed(e.try(ctx, tries)) {
			warnings = append(warnings, "the rotation will wait before the old value is erased: "+fault)
		}
	}
	return view, warnings, err
}

// rotateNow starts a rotation of which witnesses were tried.
func (l *locked) rotateNow(ctx context.Context, request Request) (View, []string, error) {
	if err := l.down(); err != nil {
		return View{}, nil, err
	}
	if request.Compromised {
		id, err := l.toEscalate(request)
		if err != nil {
			return View{}, nil, err
		}
		if id != "" {
			view, warnings, err := l.escalate(ctx, id, escalationOf(request))
			return view, append([]string{insteadNote(view.Rotation)}, warnings...), err
		}
	}
	id, err := l.start(ctx, request)
	if err != nil {
		return View{}, nil, err
	}
	warnings := summed(l.undeletedLogins(l.active[id]))
	for _, missing := range unwitnessed(l.active[id], l.facts(l.active[id])) { // of a key that is compromised
		warnings = append(warnings, "the rotation will wait before the old value is erased: "+missing)
	}
	for _, c := range l.active[id].Changes {
		if idle := rotation.NobodyReencrypts(c, l.facts(l.active[id])); idle != "" {
			warnings = append(warnings, c.Env+": "+idle)
		}
	}
	for _, gap := range l.gaps(l.active[id]) {
		warnings = append(warnings, gap.String())
	}
	if r := l.active[id]; r.Compromised && r.ConfirmBy == rotation.ConfirmByOther {
		warnings = append(warnings, r.FourEyesNote()+": vault write -f hyvve/rotations/"+id+"/confirm")
	}
	if err := l.advance(ctx, id); err != nil {
		l.Observer.Fault("rotation "+id+" could not be moved on", err)
	}
	view, err := l.View(ctx, id)
	return view, warnings, err
}

// Revert sends a rotation on its way back.
func (e *Engine) Revert(ctx context.Context, id string, by rotation.Actor, reason string) (View, error) {
	return e.change(ctx, id, func(_ *locked, r rotation.Rotation, f rotation.Facts) (rotation.Rotation, error) {
		return rotation.Revert(r, f, by, reason)
	})
}

// Pause lets a rotation stand still.
func (e *Engine) Pause(ctx context.Context, id string, by rotation.Actor, reason string) (View, error) {
	return e.change(ctx, id, func(_ *locked, r rotation.Rotation, f rotation.Facts) (rotation.Rotation, error) {
		return rotation.PauseBy(r, f.Now, by, reason)
	})
}

// Resume lets a paused rotation go on, and one whose last attempt at a server has failed try again now.
func (e *Engine) Resume(ctx context.Context, id string, by rotation.Actor, reason string) (View, error) {
	return e.change(ctx, id, func(l *locked, r rotation.Rotation, f rotation.Facts) (rotation.Rotation, error) {
		next, err := rotation.Resume(r, f, by, reason)
		for _, c := range r.Changes {
			if err == nil && f.LookFailing() {
				l.lookNow(l.Keys[c.Key].Witness)
			}
		}
		return next, err
	})
}

// Confirm lets the old version of a rotation go that waits for somebody's word.
func (e *Engine) Confirm(ctx context.Context, id string, by rotation.Actor, reason string) (View, error) {
	return e.change(ctx, id, func(_ *locked, r rotation.Rotation, f rotation.Facts) (rotation.Rotation, error) {
		return rotation.Confirm(r, f.Now, by, reason)
	})
}

// AcceptWitness lets the word of one witness be enough for the rows of a rotation.
func (e *Engine) AcceptWitness(ctx context.Context, id string, by rotation.Actor, reason string) (View, error) {
	return e.change(ctx, id, func(_ *locked, r rotation.Rotation, f rotation.Facts) (rotation.Rotation, error) {
		return rotation.AcceptWitness(r, f, by, reason)
	})
}
