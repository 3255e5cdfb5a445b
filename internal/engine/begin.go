// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// begin starts a rotation, and moves it on as far as it goes at once.
func (l *locked) begin(ctx context.Context, request Request) (View, []string, error) {
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
