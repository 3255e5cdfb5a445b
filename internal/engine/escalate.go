// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Escalate makes a running rotation one of a compromised key: its old or its new version has leaked.
func (e *Engine) Escalate(ctx context.Context, id string, what rotation.Escalation) (View, []string, error) {
	l, release := e.acquire()
	defer release()
	if err := l.down(); err != nil {
		return View{}, nil, err
	}
	return l.escalate(ctx, id, what)
}

// escalate escalates a rotation. If that ends it at once, rotations that follow start.
func (l *locked) escalate(ctx context.Context, id string, what rotation.Escalation) (View, []string, error) {
	view, warnings, err := l.escalateAlone(ctx, id, what)
	if err == nil && view.Finished() { // nobody had to follow
		l.startFollowing(ctx, l.Now())
	}
	return view, warnings, err
}

// escalateAlone escalates a rotation, and starts no other.
func (l *locked) escalateAlone(ctx context.Context, id string, what rotation.Escalation) (View, []string, error) {
	var warnings []string
	view, err := l.change(ctx, id, func(l *locked, r rotation.Rotation, f rotation.Facts) (rotation.Rotation, error) {
		next, err := l.escalated(r, f, what)
		if err != nil {
			return next, err
		}
		warnings = l.escalationWarnings(r, next, what)
		return next, l.endChanges(ctx, next)
	})
	return view, warnings, err
}

// escalated returns a rotation that is escalated, without storing it.
func (l *locked) escalated(r rotation.Rotation, f rotation.Facts, what rotation.Escalation) (rotation.Rotation, error) {
	what.Default = l.Defaults.CutAfter
	if l.makes(r) {
		var err error
		if what.Next, err = l.NewID(); err != nil {
			return r, err
		}
	}
	return rotation.Escalate(r, f, what)
}

// makes reports whether values of all keys of a rotation can be made.
func (l *locked) makes(r rotation.Rotation) bool {
	return !slices.ContainsFunc(r.KeyNames(), func(name string) bool {
		_, makes := l.KindOf(l.Keys[name]).(kind.Generator)
		return !makes
	})
}

// escalationWarnings say what an escalation does not do, and what follows.
func (l *locked) escalationWarnings(before, r rotation.Rotation, what rotation.Escalation) []string {
	warnings := summed(l.undeletedLogins(r))
	if r.Follow != nil && (what.Which != rotation.LeakedOld || before.State == rotation.Reverting) {
		warnings = append(warnings, fmt.Sprintf("%s; look at it then with: vault read hyvve/rotations/%s", r.FollowNote(), r.Follow.ID))
	}
	if r.Follow == nil && (what.Which != rotation.LeakedOld || before.State == rotation.Reverting) {
		warnings = append(warnings, r.NextNote(before, what))
	}
	if note := r.FourEyesNote(); note != "" && r.Revertible() {
		warnings = append(warnings, fmt.Sprintf("%s: vault write -f hyvve/rotations/%s/confirm", note, r.ID))
	}
	return warnings
}

// Tune changes settings of a running rotation.
func (e *Engine) Tune(ctx context.Context, id string, t rotation.Tuning) (View, error) {
	return e.change(ctx, id, func(_ *locked, r rotation.Rotation, f rotation.Facts) (rotation.Rotation, error) {
		return rotation.Tune(r, f, t)
	})
}

// toEscalate returns the running rotation that a request for compromised keys is about; empty: none of them rotates.
func (l *locked) toEscalate(request Request) (id string, err error) {
	by := map[string][]string{} // keys, by rotation
	for _, name := range request.Keys {
		if _, ok := l.Keys[name]; !ok {
			return "", l.UnknownKey(name)
		}
		by[l.rotating[name]] = append(by[l.rotating[name]], name)
	}
	ids := slices.Sorted(maps.Keys(by))
	if len(ids) == 1 {
		if ids[0] == "" {
			return "", nil
		}
		return ids[0], l.mayEscalate(l.active[ids[0]], request)
	}
	var parts, commands []string
	for _, id := range ids {
		names := strings.Join(by[id], ",")
		if id == "" {
			parts = append(parts, names+" in none")
			commands = append(commands, "vault write hyvve/rotate "+keysField(by[id])+" compromised=true")
			continue
		}
		parts = append(parts, names+" in "+id)
		commands = append(commands, "vault write -f hyvve/rotations/"+id+"/compromised")
	}
	return "", rotation.Refusef("the keys are not in one rotation: %s; nothing was changed; write instead: %s", strings.Join(parts, ", "), strings.Join(commands, "; "))
}

// keysField is how keys are named in a command.
func keysField(names []string) string {
	if len(names) == 1 {
		return "key=" + names[0]
	}
	return "keys=" + strings.Join(names, ",")
}

// mayEscalate refuses what a request asks for that a running rotation cannot take.
func (l *locked) mayEscalate(r rotation.Rotation, request Request) error {
	var fields []string
	for _, asked := range []struct {
		so   bool
		name string
	}{
		{!request.Value.Empty(), "value"},
		{request.OnFailure != "", "on_failure"},
		{request.Confirm != "", "confirm"},
		{request.ConfirmBy != "", "confirm_by"},
		{request.Retain != nil, "retain"},
		{request.Upgrade, "upgrade"},
	} {
		if asked.so {
			fields = append(fields, asked.name)
		}
	}
	if len(fields) == 0 {
		return nil
	}
	return rotation.Refusef("%s: rotation %s of %s is running, and compromised=true escalates it instead of starting another; leave this out, or write: vault write -f hyvve/rotations/%s/compromised", strings.Join(fields, ", "), r.ID, r.EnvNames(), r.ID)
}

// escalationOf is what a request for compromised keys asks of a running rotation.
func escalationOf(request Request) rotation.Escalation {
	return rotation.Escalation{Which: rotation.LeakedOld, Deadline: request.Deadline, By: request.By, Reason: request.Reason}
}

// insteadNote says that no rotation was started, since one that is running was escalated.
func insteadNote(r rotation.Rotation) string {
	var versions []string
	for _, c := range r.Changes {
		versions = append(versions, fmt.Sprintf("version %d of %s by version %d", c.From, c.Key, c.To))
	}
	return fmt.Sprintf("rotation %s was running already, and is escalated instead of another being started: it replaces %s; if a new version has leaked: vault write hyvve/rotations/%s/compromised which=new", r.ID, strings.Join(versions, ", "), r.ID)
}
