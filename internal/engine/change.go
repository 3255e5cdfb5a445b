// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// change does to a rotation what somebody asks for, and moves it on as far as it goes at once.
func (e *Engine) change(ctx context.Context, name string, do func(*locked, rotation.Rotation, rotation.Facts) (rotation.Rotation, error)) (View, error) {
	l, release := e.acquire()
	defer release()
	if err := e.down(); err != nil {
		return View{}, err
	}
	return l.change(ctx, name, do)
}

// change is [Engine.change].
func (l *locked) change(ctx context.Context, name string, do func(*locked, rotation.Rotation, rotation.Facts) (rotation.Rotation, error)) (View, error) {
	r, err := l.rotation(ctx, name)
	if err != nil {
		return View{}, err
	}
	for changed := false; !changed; {
		f := l.facts(r)
		next, err := do(l, r, f)
		if err != nil {
			return View{}, err
		}
		thaw, ok := l.freeze(f)
		if !ok {
			continue
		}
		err = l.save(ctx, next)
		thaw()
		if err != nil {
			return View{}, err
		}
		changed = true
	}
	if err := l.advance(ctx, r.ID); err != nil {
		l.Observer.Fault("rotation "+r.ID+" could not be moved on", err)
	}
	return l.View(ctx, r.ID)
}
