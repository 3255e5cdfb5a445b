// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Request asks for a rotation. What is left empty is as the keys' policies say.
type Request struct {
	Keys    []string
	Value   key.Value // the new value, of one key; empty: made by its kind
	Reason  string
	By      rotation.Actor
	Trigger rotation.Trigger

	OnFailure   string         // pause or revert
	Confirm     string         // auto or manual
	ConfirmBy   string         // any or other
	Deadline    time.Duration  // of a step
	Compromised bool           // cut what holds it back beyond the deadline
	Retain      *time.Duration // of the versions that it retires; nil: as the keys say
	Upgrade     bool           // bring rows of other keys in the same columns under the new version
}

// longestReason is how long a reason may be: it is stored with the rotation and in its journal entries.
const longestReason = 1024

// CheckReason refuses a reason that is too long to be kept.
func CheckReason(reason string) error {
	if len(reason) > longestReason {
		return rotation.Refusef("reason is %d bytes long, and at most %d are kept; shorten it, or give the number of a ticket", len(reason), longestReason)
	}
	return nil
}

// check refuses what no rotation can be asked for.
func (q Request) check() error {
	switch {
	case len(q.Keys) == 0:
		return rotation.Refusef("no key is named; use key=NAME or keys=NAME,NAME")
	case !q.Value.Empty() && len(q.Keys) != 1:
		return rotation.Refusef("value is for one key, and %d are named; rotate them one by one", len(q.Keys))
	case q.OnFailure != "" && q.OnFailure != rotation.FailurePause && q.OnFailure != rotation.FailureRevert:
		return rotation.Refusef("on_failure %q is not known; use pause or revert", q.OnFailure)
	case q.Confirm != "" && q.Confirm != rotation.ConfirmAuto && q.Confirm != rotation.ConfirmManual:
		return rotation.Refusef("confirm %q is not known; use auto or manual", q.Confirm)
	case q.ConfirmBy != "" && q.ConfirmBy != rotation.ConfirmByAny && q.ConfirmBy != rotation.ConfirmByOther:
		return rotation.Refusef("confirm_by %q is not known; use any or other", q.ConfirmBy)
	case len(q.Reason) > longestReason:
		return CheckReason(q.Reason)
	case q.Retain != nil && *q.Retain < 0:
		return rotation.Refusef("retain %s is negative; use 0s to erase the value of the old version at once", *q.Retain)
	case q.Deadline < 0:
		return rotation.Refusef("deadline %s is negative; leave it out for the keys' own", q.Deadline)
	}
	named := map[string]bool{}
	for _, name := range q.Keys {
		if named[name] {
			return rotation.Refusef("key %s is named twice", name)
		}
		named[name] = true
	}
	return nil
}

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

// start checks a request, stores the new values, then the rotation. Killed in between, a staged value is left that no
// rotation knows; the next start of that key aborts it.
func (l *locked) start(ctx context.Context, request Request) (string, error) {
	r, staged, err := l.draft(request)
	if err != nil {
		return "", err
	}
	if clashes := l.clashes(r, staged); len(clashes) > 0 {
		return "", rotation.Refusef("%s; nothing was changed", strings.Join(clashes, "; "))
	}
	f := l.facts(r)
	if narrow := rotation.CheckMultiline(r, f); len(narrow) > 0 {
		return "", rotation.Refusef("%s; nothing was changed", strings.Join(narrow, "; "))
	}
	if missing := unwitnessed(r, f); len(missing) > 0 && !r.Compromised {
		return "", rotation.Refusef("%s; nothing was changed", strings.Join(missing, "; "))
	}
	for _, k := range staged {
		if err := l.put(ctx, pathKeys+k.Name, k); err != nil {
			return "", err
		}
		l.lock(func(m *memory) { m.Keys[k.Name] = k })
	}
	r.Timeline = []rotation.Event{{At: r.Created, State: rotation.Planned, Text: fmt.Sprintf("%s: values stored", r.EnvNames())}}
	return r.ID, l.settle(ctx, r)
}

// draft returns a rotation that nobody knows of yet, and its keys with their new versions staged.
func (l *locked) draft(request Request) (rotation.Rotation, []key.Key, error) {
	id, err := l.NewID()
	if err != nil {
		return rotation.Rotation{}, nil, err
	}
	now := l.Now().UTC()
	r := rotation.Rotation{
		ID: id, Trigger: request.Trigger, Reason: request.Reason, By: request.By.Name, Entity: request.By.Entity,
		Created: now, State: rotation.Planned, Since: now, Clock: now, Stages: map[string]rotation.Stage{}, Compromised: request.Compromised, Upgrade: request.Upgrade, Retain: request.Retain,
	}
	var staged []key.Key
	for _, name := range request.Keys {
		k, c, err := l.stage(r, name, request)
		if err != nil {
			return rotation.Rotation{}, nil, err
		}
		r.Changes = append(r.Changes, c)
		staged = append(staged, k)
		r = mergePolicy(r, l.Defaults.Effective(k.Policy))
	}
	if err := l.CheckUpgrade(r); err != nil {
		return rotation.Rotation{}, nil, err
	}
	if err := checkFourEyes(r, request); err != nil {
		return rotation.Rotation{}, nil, err
	}
	r = applyOverrides(r, request, l.Defaults)
	r.NotBy = l.NotBy(r)
	if r.Trigger.Automatic() {
		if err := l.Defaults.CheckPolicyBy(l.Keys[r.Changes[0].Key]); err != nil {
			return rotation.Rotation{}, nil, rotation.Refusef("%w", err)
		}
	}
	return rotation.Pinned(r, l.facts(r)), staged, nil
}

// mergePolicy returns a rotation with the more careful of its own settings and those of a key's policy.
func mergePolicy(r rotation.Rotation, p key.Policy) rotation.Rotation {
	r.Soak, r.Observe = max(r.Soak, p.Soak), max(r.Observe, p.Observe)
	r.Confirm = r.Confirm || p.Confirm == rotation.ConfirmManual
	if r.ConfirmBy == "" || p.ConfirmBy == rotation.ConfirmByOther {
		r.ConfirmBy = p.ConfirmBy
	}
	if r.Deadline == 0 || p.Deadline > 0 && p.Deadline < r.Deadline {
		r.Deadline = p.Deadline
	}
	if r.OnFailure == "" || p.OnFailure == rotation.FailurePause {
		r.OnFailure = p.OnFailure
	}
	return r
}

// settings are what a request may set, by the names that an operator writes it with.
func settings(r rotation.Rotation) catalog.Fields {
	confirm := rotation.ConfirmAuto
	if r.Confirm {
		confirm = rotation.ConfirmManual
	}
	return catalog.Fields{
		"on_failure": r.OnFailure, "confirm": confirm, "confirm_by": r.ConfirmBy, "deadline": r.Deadline.String(), "soak": r.Soak.String(), "observe": r.Observe.String(),
	}
}

// applyOverrides returns a rotation with what was asked for in the place of what the policies say, and a note of it.
func applyOverrides(r rotation.Rotation, request Request, c catalog.Config) rotation.Rotation {
	policy := settings(r)
	if request.OnFailure != "" {
		r.OnFailure = request.OnFailure
	}
	if request.Confirm != "" {
		r.Confirm = request.Confirm == rotation.ConfirmManual
	}
	if request.ConfirmBy != "" {
		r.ConfirmBy = request.ConfirmBy
	}
	if request.Compromised {
		r.Soak, r.Observe, r.Deadline, r.Confirm = 0, 0, c.CutAfter, request.Confirm == rotation.ConfirmManual
	}
	if request.Deadline != 0 {
		r.Deadline = request.Deadline
	}
	r.Confirm = r.Confirm || r.ConfirmBy == rotation.ConfirmByOther
	r.Asked = policy.Changes(settings(r))
	for _, asked := range []struct {
		so          bool
		field, text string
	}{{request.Compromised, "compromised", "true"}, {request.Upgrade, "upgrade", "true"}, {!request.Value.Empty(), "value", catalog.SecretGiven}} {
		if asked.so {
			r.Asked = append(r.Asked, rotation.EntryChange{Field: asked.field, To: asked.text})
		}
	}
	if request.Retain != nil {
		r.Asked = append(r.Asked, rotation.EntryChange{Field: "retain", To: request.Retain.String()})
	}
	return r
}

// stage returns the key with its new version staged, without storing it.
func (l *locked) stage(r rotation.Rotation, name string, request Request) (key.Key, rotation.Change, error) {
	k, ok := l.Keys[name]
	if !ok {
		return key.Key{}, rotation.Change{}, catalog.UnknownKey(name)
	}
	if running, ok := l.active[l.rotating[name]]; ok {
		return key.Key{}, rotation.Change{}, l.underWay(name, running)
	}
	current, ok := k.Current()
	if !ok {
		return key.Key{}, rotation.Change{}, rotation.Refusef("key %s has no version yet; import the value in use with: vault write hyvve/keys/%s value=-  (or generate=true for a new one)", name, name)
	}
	if err := l.CheckParticipants(k); err != nil {
		return key.Key{}, rotation.Change{}, err
	}
	value := request.Value
	if value.Empty() {
		var err error
		if value, err = l.Generate(k, current.Value); err != nil {
			return key.Key{}, rotation.Change{}, err
		}
	}
	if value.Equal(current.Value) {
		return key.Key{}, rotation.Change{}, rotation.Refusef("value of key %s is the current one already; give another, or none to have one made", name)
	}
	k = catalog.WithoutOrphans(k)
	version := key.Version{
		Number: k.NextNumber(), Value: value, Created: r.Created, CreatedBy: request.By.String(), Rotation: r.ID,
		Fingerprint: l.Fingerprints.Of(name, value),
	}
	k, err := k.WithStaged(version)
	if err != nil {
		return key.Key{}, rotation.Change{}, err
	}
	if err := l.CheckChange(k, current, version); err != nil {
		return key.Key{}, rotation.Change{}, err
	}
	if err := l.CheckHosts(k, value); err != nil {
		return key.Key{}, rotation.Change{}, rotation.Refusef("key %s: %w; nothing was changed", name, err)
	}
	return k, rotation.Change{Key: name, Env: k.Env, From: current.Number, To: version.Number, Protects: k.Protects, MultiLine: value.MultiLine(), Also: l.AlsoAccepted(k)}, nil
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

// change does to a rotation what somebody asks for, and moves it on as far as it goes at once.
func (e *Engine) change(ctx context.Context, id string, do func(*locked, rotation.Rotation, rotation.Facts) (rotation.Rotation, error)) (View, error) {
	l, release := e.acquire()
	defer release()
	if err := e.down(); err != nil {
		return View{}, err
	}
	r, err := l.rotation(ctx, id)
	if err != nil {
		return View{}, err
	}
	for changed := false; !changed; {
		f := e.facts(r)
		next, err := do(l, r, f)
		if err != nil {
			return View{}, err
		}
		lift, ok := e.freeze(f)
		if !ok {
			continue
		}
		err = l.save(ctx, next)
		lift()
		if err != nil {
			return View{}, err
		}
		changed = true
	}
	if err := l.advance(ctx, id); err != nil {
		e.Observer.Fault("rotation "+id+" could not be moved on", err)
	}
	return e.View(ctx, id)
}
