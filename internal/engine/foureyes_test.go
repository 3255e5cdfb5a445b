// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var (
	ann    = rotation.Actor{Name: "ann", Entity: "e-ann"}
	bob    = rotation.Actor{Name: "bob", Entity: "e-bob"}
	nobody = rotation.Actor{Name: "root"}
)

// guarded is a key whose rotations need another user's confirmation.
func (h *harness) guarded(name string, by rotation.Actor, p key.Policy) {
	h.t.Helper()
	d := catalog.Definition{Name: name, Kind: "token", Policy: p}
	_, err := h.engine.PutKey(h.t.Context(), d, by)
	h.ok(err)
	_, _, err = h.engine.First(h.t.Context(), name, key.Value{}, by)
	h.ok(err)
	h.workload(workload.Workload{Name: name + "-user", Keys: map[string]workload.Role{name: {Presents: true, Verifies: true}}})
}

func (h *harness) refuses(want string, err error) {
	h.t.Helper()
	if !refused(err) || !strings.Contains(err.Error(), want) {
		h.t.Errorf("not refused with %q: %v", want, err)
	}
}

// waiting starts a rotation and continues until it waits for a confirmation alone.
func (h *harness) waiting(request Request) string {
	h.t.Helper()
	view, _, err := h.engine.Rotate(h.t.Context(), request)
	h.ok(err)
	h.until(view.ID, rotation.Soaking)
	h.rounds(5)
	if view := h.view(view.ID); view.Step != rotation.StepUnused || !strings.Contains(view.Waits(), "another user than ") {
		h.t.Fatalf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	return view.ID
}

func TestFourEyes(t *testing.T) {
	h := newHarness(t)
	h.guarded("one", ann, key.Policy{ConfirmBy: rotation.ConfirmByOther})
	id := h.waiting(Request{Keys: []string{"one"}, By: ann, Trigger: rotation.ByOperator})
	confirm := func(by rotation.Actor) error { _, err := h.engine.Confirm(t.Context(), id, by, "seen"); return err }
	h.refuses("was started by you", confirm(ann))
	h.refuses("was started by you", confirm(rotation.Actor{Name: "ann-by-another-login", Entity: ann.Entity}))
	h.refuses("no entity", confirm(nobody))
	h.refuses("no entity", confirm(rotation.Itself))

	// A change of the key meanwhile loosens nothing, nor does a restart.
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "one", Kind: "token", Policy: key.Policy{ConfirmBy: rotation.ConfirmByAny, Confirm: rotation.ConfirmAuto}}, ann)
	h.ok(err)
	h.open()
	h.refuses("was started by you", confirm(ann))
	_, err = h.engine.Pause(t.Context(), id, ann, "")
	h.ok(err)
	_, err = h.engine.Resume(t.Context(), id, ann, "")
	h.ok(err)
	h.refuses("was started by you", confirm(ann))
	h.rounds(5)
	if view := h.view(id); view.State != rotation.Soaking {
		t.Fatalf("it is %s", view.State)
	}

	h.ok(confirm(bob))
	h.until(id, rotation.Done)
	ids, err := h.engine.journal.IDs(t.Context())
	h.ok(err)
	found := false
	for _, n := range ids {
		entry, _, err := h.engine.journal.Entry(t.Context(), n)
		h.ok(err)
		found = found || entry.By == "bob" && entry.Entity == bob.Entity && strings.Contains(entry.What, ann.String())
	}
	if !found {
		t.Error("no entry of the journal names both")
	}
}

// What a rotation is asked for loosens nothing, and is refused instead of being ignored.
func TestFourEyesCannotBeAskedAway(t *testing.T) {
	h := newHarness(t)
	h.guarded("one", ann, key.Policy{ConfirmBy: rotation.ConfirmByOther, Confirm: rotation.ConfirmManual})
	h.guarded("two", ann, key.Policy{})
	for want, q := range map[string]Request{
		"confirm=auto":             {Keys: []string{"one"}, Confirm: rotation.ConfirmAuto},
		"confirm_by=any":           {Keys: []string{"one"}, ConfirmBy: rotation.ConfirmByAny},
		"confirm_by=any: ":         {Keys: []string{"two", "one"}, ConfirmBy: rotation.ConfirmByAny},
		"leave one of them out":    {Keys: []string{"two"}, ConfirmBy: rotation.ConfirmByOther, Confirm: rotation.ConfirmAuto},
		`confirm_by "me" is not`:   {Keys: []string{"two"}, ConfirmBy: "me"},
		"your token has no entity": {Keys: []string{"one"}, By: nobody, Compromised: true},
	} {
		if q.By == (rotation.Actor{}) {
			q.By = ann
		}
		q.Trigger = rotation.ByOperator
		_, _, err := h.engine.Rotate(t.Context(), q)
		h.refuses(want, err)
		_, _, err = h.engine.Plan(t.Context(), q)
		h.refuses(want, err)
	}
	if h.rotations() != 0 {
		t.Error("something was started")
	}
	// The strictest of a group holds for all of it, and one key's rotation may ask for more than its policy.
	for _, q := range []Request{{Keys: []string{"two", "one"}}, {Keys: []string{"two"}, ConfirmBy: rotation.ConfirmByOther}} {
		q.By, q.Trigger = ann, rotation.ByOperator
		id := h.waiting(q)
		_, err := h.engine.Confirm(t.Context(), id, ann, "")
		h.refuses("was started by you", err)
		_, err = h.engine.Revert(t.Context(), id, ann, "")
		h.ok(err)
		h.until(id, rotation.Reverted)
	}
}

// A compromised key is replaced at once by one user alone; its old version ends when another has confirmed.
func TestFourEyesOfACompromisedKey(t *testing.T) {
	h := newHarness(t)
	h.guarded("one", ann, key.Policy{ConfirmBy: rotation.ConfirmByOther, Soak: time.Hour})
	for _, confirm := range []string{"", rotation.ConfirmManual} {
		view, warnings, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"one"}, By: ann, Trigger: rotation.ByOperator, Compromised: true, Confirm: confirm, Deadline: 2 * time.Second})
		h.ok(err)
		if !strings.Contains(fmt.Sprint(warnings), "another user has to confirm") {
			t.Errorf("nobody is warned: %q", warnings)
		}
		h.rounds(60)
		view = h.view(view.ID)
		if view.State != rotation.Soaking || view.Step != rotation.StepUnused || strings.Contains(view.Waits(), "cut at") {
			t.Fatalf("after its deadline it is %s %s: %s", view.State, view.Step, view.Waits())
		}
		_, err = h.engine.Confirm(t.Context(), view.ID, ann, "")
		h.refuses("was started by you", err)
		_, err = h.engine.Confirm(t.Context(), view.ID, bob, "")
		h.ok(err)
		h.until(view.ID, rotation.Done)
	}
}

// One that starts by itself is confirmed by anybody but the user who said when it does.
func TestFourEyesOfAnAutomaticRotation(t *testing.T) {
	h := newHarness(t)
	h.guarded("one", ann, key.Policy{ConfirmBy: rotation.ConfirmByOther, Period: time.Minute})
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "one", Kind: "token", IgnoreColumns: []string{"a.b"}, Policy: key.Policy{ConfirmBy: rotation.ConfirmByOther, Period: time.Minute}}, bob)
	h.ok(err) // which changes another thing
	h.open()
	h.rounds(70)
	ids, err := h.engine.RotationIDs(t.Context())
	h.ok(err)
	if len(ids) != 1 {
		t.Fatalf("rotations: %v", ids)
	}
	h.until(ids[0], rotation.Soaking)
	_, err = h.engine.Confirm(t.Context(), ids[0], nobody, "")
	h.refuses("no entity", err)
	_, err = h.engine.Confirm(t.Context(), ids[0], ann, "")
	h.refuses("by a policy that you wrote last", err)
	_, err = h.engine.Confirm(t.Context(), ids[0], bob, "")
	h.ok(err)
	h.until(ids[0], rotation.Done)
}

// A token without an entity says of no key when it rotates by itself, where another user has to confirm that: everybody would be one.
func TestFourEyesNeedToKnowWhoWroteASchedule(t *testing.T) {
	h := newHarness(t)
	other := key.Policy{ConfirmBy: rotation.ConfirmByOther}
	for _, p := range []key.Policy{{ConfirmBy: rotation.ConfirmByOther, Period: time.Minute}, {ConfirmBy: rotation.ConfirmByOther, Schedule: "* * * * *"}} {
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "one", Kind: "token", Policy: p}, nobody)
		h.refuses("has no entity; write it with a login that has one: vault write hyvve/keys/one", err)
		if _, there := h.engine.Key("one"); there {
			t.Fatal("it was stored")
		}
	}
	h.guarded("one", nobody, other) // which starts by nobody's word
	other.Period = time.Minute
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "one", Kind: "token", Policy: other}, nobody)
	h.refuses("has no entity", err)

	// One that was written before confirm_by=other became the default starts when somebody has written it who is known.
	h.guarded("two", nobody, key.Policy{Period: time.Minute})
	c := h.engine.Config()
	c.ConfirmBy = rotation.ConfirmByOther
	h.ok(h.engine.PutConfig(t.Context(), c, ann))
	h.open()
	h.rounds(90)
	if status := h.engine.Status()[1]; h.rotations() != 0 || !strings.Contains(status.Waits, "has no entity; write it") {
		t.Fatalf("%d rotations; %s waits for: %s", h.rotations(), status.Key.Name, status.Waits)
	}
	_, err = h.engine.PutKey(t.Context(), catalog.Definition{Name: "two", Kind: "token", Policy: key.Policy{Period: time.Minute}}, ann)
	h.ok(err)
	h.rounds(90)
	ids, err := h.engine.RotationIDs(t.Context())
	h.ok(err)
	if len(ids) != 1 {
		t.Fatalf("rotations: %v", ids)
	}
	h.until(ids[0], rotation.Soaking)
	_, err = h.engine.Confirm(t.Context(), ids[0], ann, "")
	h.refuses("by a policy that you wrote last", err)
	_, err = h.engine.Confirm(t.Context(), ids[0], bob, "")
	h.ok(err)
}

// The mount's defaults hold for keys that do not say, and a key's own word for that key.
func TestFourEyesByDefault(t *testing.T) {
	h := newHarness(t)
	c := h.engine.Config()
	c.ConfirmBy = rotation.ConfirmByOther
	h.ok(h.engine.PutConfig(t.Context(), c, ann))
	h.open()
	h.guarded("inherits", ann, key.Policy{})
	h.guarded("auto", ann, key.Policy{Confirm: rotation.ConfirmAuto})
	h.guarded("exempt", ann, key.Policy{ConfirmBy: rotation.ConfirmByAny})
	for name, other := range map[string]bool{"inherits": true, "auto": true, "exempt": false} {
		plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{name}, By: ann, Trigger: rotation.ByOperator})
		h.ok(err)
		noted := strings.Contains(fmt.Sprint(plan.Notes), "another user than the one who starts it")
		if plan.Rotation.Confirm != other || (plan.Rotation.ConfirmBy == rotation.ConfirmByOther) != other || noted != other {
			t.Errorf("%s: %v %s, notes %q", name, plan.Rotation.Confirm, plan.Rotation.ConfirmBy, plan.Notes)
		}
	}
	c.Confirm, c.ConfirmBy = rotation.ConfirmManual, rotation.ConfirmByAny
	h.ok(h.engine.PutConfig(t.Context(), c, ann))
	if p := h.engine.Config().Effective(key.Policy{}); p.Confirm != rotation.ConfirmManual || p.ConfirmBy != rotation.ConfirmByAny {
		t.Errorf("inherited: %+v", p)
	}
	for want, wrong := range map[string]catalog.Config{"confirm": {Confirm: "maybe", ConfirmBy: rotation.ConfirmByAny}, "confirm_by": {ConfirmBy: "me"}} {
		bad := c
		bad.Confirm, bad.ConfirmBy = wrong.Confirm, wrong.ConfirmBy
		h.refuses(want+" ", h.engine.PutConfig(t.Context(), bad, ann))
	}
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "x", Kind: "token", Policy: key.Policy{Confirm: rotation.ConfirmAuto, ConfirmBy: rotation.ConfirmByOther}}, ann)
	h.refuses("write confirm=manual, or confirm_by=any", err)
}
