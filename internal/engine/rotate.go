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
	names := request.Keys
	if request.All {
		names, request = e.KeyNames(), request.looked(ctx, e)
	}
	tries := e.witnessTries(names)
	if !request.Compromised && !request.All {
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
	if request.All {
		return l.rotateAll(ctx, request)
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
	return l.begin(ctx, request)
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
