// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
)

// The versions of a running rotation that may have leaked.
const (
	LeakedOld  = "old"  // the one that it replaces
	LeakedNew  = "new"  // the one that it brings in
	LeakedBoth = "both" // either of them
)

// Escalation says that a version of a running rotation has leaked.
type Escalation struct {
	Which    string        // LeakedOld, LeakedNew or LeakedBoth
	Deadline time.Duration // of a step, before what holds it back is cut; 0: Default, unless the rotation has a deadline to cut by already
	Default  time.Duration // of the configuration
	Next     string        // id of the rotation that follows, where one does; empty: the keys' kinds make no values
	By       Actor
	Reason   string
}

// Follow is a rotation of the same keys that the engine starts by itself when a rotation has ended.
type Follow struct {
	ID          string         `json:"id"`
	By          string         `json:"by,omitempty"` // display name of the user whose escalation it is about
	Entity      string         `json:"entity,omitempty"`
	Reason      string         `json:"reason,omitempty"`
	Compromised bool           `json:"compromised,omitempty"` // the version that is current then has leaked
	Deadline    time.Duration  `json:"deadline,omitempty"`    // 0: as the keys, or the configuration, say
	OnFailure   string         `json:"on_failure,omitempty"`
	Confirm     bool           `json:"confirm,omitempty"`
	ConfirmBy   string         `json:"confirm_by,omitempty"`
	Upgrade     bool           `json:"upgrade,omitempty"`
	Retain      *time.Duration `json:"retain,omitempty"`
}

// Escalate returns the rotation as one of a compromised key. Where the old version has leaked, it hurries on; where it is on its
// way back to that version, another rotation follows. Where the new version has leaked, it goes back, or, where there is no way
// back, hurries to its end; another rotation follows in both cases. Where both have leaked, it hurries on, and another rotation
// follows.
func Escalate(r Rotation, f Facts, e Escalation) (Rotation, error) {
	follow := r.followAfter(e)
	if err := r.mayEscalate(e, follow); err != nil {
		return r, err
	}
	to, moves := r.escalatesTo(e)
	next := Pinned(r, f)
	if r.wantsAnother(e) {
		next.Confirmed, next.NotBy, next.ChangedBy = "", e.By.Entity, &e.By
	}
	next.Confirm = r.ConfirmBy == ConfirmByOther
	next.Deadline, next.Follow = e.deadline(r), follow
	next.Compromised, next.Soak, next.Observe, next.SoakFrom, next.Paused = true, 0, 0, time.Time{}, nil
	event := said(next.escalationText(r, e), e.Reason, e.By)
	event.Changes = next.changesFrom(r)
	if moves {
		return next.moved(to, f.Now, event), nil
	}
	next = next.told(f.Now, event)
	next.Clock = f.Now
	if action := r.at().action; action == ActRetire || action == ActUnstage { // once more, with the sessions
		next.Acted, next.Attempts, next.Fault, next.StillUsed, next.RetryAt = false, 0, "", false, time.Time{}
	}
	return next.Retried(f.Now), nil
}

// changesFrom lists the settings that differ from those of before.
func (r Rotation) changesFrom(before Rotation) (changes []EntryChange) {
	for _, c := range []EntryChange{
		{"soak", duration.Text(before.Soak), duration.Text(r.Soak)},
		{"observe", duration.Text(before.Observe), duration.Text(r.Observe)},
		{"deadline", duration.Text(before.Deadline), duration.Text(r.Deadline)},
		{"on_failure", before.OnFailure, r.OnFailure},
		{"confirm", strconv.FormatBool(before.Confirm), strconv.FormatBool(r.Confirm)},
		{"compromised", strconv.FormatBool(before.Compromised), strconv.FormatBool(r.Compromised)},
	} {
		if c.From != c.To {
			changes = append(changes, c)
		}
	}
	return changes
}

// escalatesTo returns the step that an escalation leads to at once, if it does.
func (r Rotation) escalatesTo(e Escalation) (step, bool) {
	if e.Which == LeakedNew && r.Revertible() {
		return r.towards(r.at().revert)
	}
	return r.towards(r.at().escalated)
}

// deadline returns the deadline of an escalated rotation. One that is cut already keeps its own.
func (e Escalation) deadline(r Rotation) time.Duration {
	switch {
	case e.Deadline > 0:
		return e.Deadline
	case r.Compromised:
		return r.Deadline
	}
	return e.Default
}

// followAfter returns the rotation that follows one that is escalated; nil: none does.
func (r Rotation) followAfter(e Escalation) *Follow {
	if e.Which == LeakedOld && r.State != Reverting {
		return r.Follow
	}
	if r.Follow == nil && e.Next == "" {
		return nil
	}
	follow := Follow{ID: e.Next, OnFailure: r.OnFailure, Confirm: r.Confirm, ConfirmBy: r.ConfirmBy, Upgrade: r.Upgrade}
	known := r.Follow != nil
	if known {
		follow = *r.Follow
	}
	leaked := r.leavesLeaked(e)
	if !known && !leaked {
		follow.Retain, follow.Deadline = r.Retain, r.Deadline
	}
	if leaked && !follow.Compromised {
		follow.Compromised, follow.Deadline = true, e.Deadline
	}
	follow.By, follow.Entity, follow.Reason = e.By.Name, e.By.Entity, e.Reason
	return &follow
}

// leavesLeaked reports whether a version has leaked that is current when an escalated rotation has ended: the old one after a
// revert, the new one otherwise.
func (r Rotation) leavesLeaked(e Escalation) bool {
	return e.Which != LeakedNew || r.State == Retiring || r.Follow == nil && r.Compromised
}

// mayEscalate refuses an escalation that makes no sense, that would change nothing, or whose caller could not be distinguished
// from the user who confirms.
func (r Rotation) mayEscalate(e Escalation, follow *Follow) error {
	switch {
	case e.Which != LeakedOld && e.Which != LeakedNew && e.Which != LeakedBoth:
		return Refusef("which %q is not known; use old, for the version that the rotation replaces, new, for the one that it brings in, or both", e.Which)
	case e.Deadline < 0:
		return Refusef("deadline %s is negative; leave it out for compromised_deadline of hyvve/config", duration.Text(e.Deadline))
	case r.Finished():
		return Refusef("rotation %s is %s, so that nothing of it can be cut any more; if the current version has leaked: %s", r.ID, r.State, r.rotateCommand(" compromised=true"))
	}
	_, back := r.at().revert.to()
	if r.Compromised && r.Paused == nil && e.deadline(r) == r.Deadline && (e.Which != LeakedNew || !back) && r.sameFollow(follow) {
		return Refusef("rotation %s is compromised already, and cuts each step after %s; to cut earlier: vault write hyvve/rotations/%s/tune deadline=5s", r.ID, duration.Text(r.Deadline), r.ID)
	}
	if r.ConfirmBy == ConfirmByOther && e.By.Entity == "" && (r.wantsAnother(e) || follow != r.Follow) {
		return Refusef("rotations of %s need another user's confirmation (confirm_by=other), and your token has no entity, so that nobody could be distinguished from you; %s", r.EnvNames(), LoginHint)
	}
	return nil
}

// wantsAnother reports whether, after an escalation or a change, another user than its caller has to confirm: it ends the old
// version on less evidence than the user saw who has started, or confirmed, the rotation.
func (r Rotation) wantsAnother(e Escalation) bool {
	return r.ConfirmBy == ConfirmByOther && e.Which != LeakedNew && r.Revertible()
}

// sameFollow reports whether an escalation leaves the rotation that follows as it is.
func (r Rotation) sameFollow(follow *Follow) bool {
	if r.Follow == nil || follow == nil {
		return r.Follow == follow
	}
	return r.Follow.Compromised == follow.Compromised
}

// escalationText is the timeline's. before is the rotation before it was escalated.
func (r Rotation) escalationText(before Rotation, e Escalation) string {
	text := fmt.Sprintf("the %s version is compromised", e.Which)
	if e.Which == LeakedBoth {
		text = "both versions are compromised"
	}
	switch {
	case e.Which == LeakedNew && before.Revertible():
		text += ": revert"
	case e.Which == LeakedNew && before.State == Retiring:
		text += ", and there is no way back"
	case e.Which != LeakedNew && before.State == Reverting:
		text += ", and is current again after this revert"
	}
	text += fmt.Sprintf("; what holds a step back is cut after %s", duration.Text(r.Deadline))
	if before.wantsAnother(e) {
		text += fmt.Sprintf("; another user than %s has to confirm", e.By)
	}
	if before.Paused != nil {
		text += "; resumed"
	}
	if e.Which != LeakedOld || before.State == Reverting {
		text += "; " + r.NextNote(before, e)
	}
	return text
}

// NextNote says what brings in another version when an escalated rotation has ended.
func (r Rotation) NextNote(before Rotation, e Escalation) string {
	switch {
	case r.Follow != nil:
		return r.FollowNote()
	case before.leavesLeaked(e):
		return "the values come from elsewhere: when it has ended, give a new one: " + r.rotateCommand(" compromised=true value=-")
	}
	return "the values come from elsewhere: when it has ended, give a new one: " + r.rotateCommand(" value=-")
}

// FollowNote says which rotation follows; empty: none does.
func (r Rotation) FollowNote() string {
	switch {
	case r.Follow == nil:
		return ""
	case r.Follow.Compromised:
		return fmt.Sprintf("when it has ended, rotation %s replaces the version that is current then, as compromised", r.Follow.ID)
	}
	return fmt.Sprintf("when it has ended, rotation %s brings in a third version", r.Follow.ID)
}

// rotateCommand is the command that rotates the same keys.
func (r Rotation) rotateCommand(options string) string {
	if len(r.Changes) == 1 {
		return "vault write hyvve/rotate key=" + r.Changes[0].Key + options
	}
	return "vault write hyvve/rotate keys=" + strings.Join(r.KeyNames(), ",") + options
}

// Tuning changes settings of a running rotation. What is nil or empty stays.
type Tuning struct {
	Soak, Observe, Deadline *time.Duration
	OnFailure               string
	By                      Actor
	Reason                  string
}

// Tune returns the rotation with other settings. The soak time and the deadline count from when they began to.
func Tune(r Rotation, f Facts, t Tuning) (Rotation, error) {
	if err := r.mayTune(t); err != nil {
		return r, err
	}
	next := r.Clone()
	for _, d := range []struct{ to, setting *time.Duration }{{t.Soak, &next.Soak}, {t.Observe, &next.Observe}, {t.Deadline, &next.Deadline}} {
		if d.to != nil {
			*d.setting = *d.to
		}
	}
	next.OnFailure = cmp.Or(t.OnFailure, r.OnFailure)
	changes := next.changesFrom(r)
	if len(changes) == 0 {
		return r, Refusef("rotation %s has these settings already: soak %s, observe %s, deadline %s, on_failure %s", r.ID, duration.Text(r.Soak), duration.Text(r.Observe), duration.Text(r.Deadline), r.OnFailure)
	}
	words := make([]string, 0, len(changes))
	for _, c := range changes {
		words = append(words, fmt.Sprintf("%s from %s to %s", c.Field, c.From, c.To))
	}
	text := "tuned: " + strings.Join(words, ", ")
	less := next.Soak < r.Soak || next.Window() < r.Window() || r.Compromised && r.Revertible() && next.Deadline < r.Deadline
	if r.ConfirmBy == ConfirmByOther && less { // evidence, so that another user has to confirm
		if t.By.Entity == "" {
			return r, Refusef("rotations of %s need another user's confirmation (confirm_by=other), and your token has no entity, so that nobody could be distinguished from you; %s", r.EnvNames(), LoginHint)
		}
		next.Confirmed, next.NotBy, next.ChangedBy = "", t.By.Entity, &t.By
		text += fmt.Sprintf("; another user than %s has to confirm", t.By)
	}
	event := said(text, t.Reason, t.By)
	event.Changes = changes
	return next.told(f.Now, event), nil
}

// mayTune refuses what has no effect on the rotation any more, or never had.
func (r Rotation) mayTune(t Tuning) error {
	soaks := t.Soak != nil || t.Observe != nil
	switch {
	case t.Soak == nil && t.Observe == nil && t.Deadline == nil && t.OnFailure == "":
		return Refusef("nothing is to change; use soak=, observe=, deadline= or on_failure=")
	case t.OnFailure != "" && t.OnFailure != FailurePause && t.OnFailure != FailureRevert:
		return Refusef("on_failure %q is not known; use pause or revert", t.OnFailure)
	case r.Finished():
		return Refusef("rotation %s is %s; there is nothing to tune", r.ID, r.State)
	case soaks && r.Compromised:
		return Refusef("soak and observe: rotation %s is compromised, so that nothing soaks; leave them out", r.ID)
	case t.OnFailure != "" && r.Compromised:
		return Refusef("on_failure: rotation %s is compromised, so that it cuts and never fails; leave it out", r.ID)
	case r.Compromised && t.Deadline != nil && *t.Deadline == 0:
		return Refusef("deadline 0s: rotation %s is compromised, and cuts what holds a step back after its deadline; use deadline=1s to cut at once", r.ID)
	case !r.Revertible() && !r.Compromised:
		return Refusef("rotation %s is %s, where no soak time and no deadline count; if a version has leaked: vault write -f hyvve/rotations/%s/compromised", r.ID, r.State, r.ID)
	}
	for _, d := range []struct {
		name string
		to   *time.Duration
	}{{"soak", t.Soak}, {"observe", t.Observe}, {"deadline", t.Deadline}} {
		if d.to != nil && *d.to < 0 {
			return Refusef("%s %s is negative; use 0s for none", d.name, duration.Text(*d.to))
		}
	}
	return nil
}
