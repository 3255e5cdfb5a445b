// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var begun = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)

// running is a rotation in a step, with a soak time of an hour.
func running(p step) Rotation {
	return Rotation{
		ID: "r", Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2}}, State: p.state, Step: p.name, Since: begun, Clock: begun,
		Soak: time.Hour, Observe: time.Hour, Deadline: 2 * time.Hour, OnFailure: FailurePause, Confirm: true, ConfirmBy: ConfirmByAny,
	}
}

func leaked(which string) Escalation {
	return Escalation{Which: which, Default: time.Minute, Next: "next", By: ann, Reason: "in a chat"}
}

// A leak of the old version in every step: what is left is cut from then on, and nothing soaks. A rotation that is on its way back
// to that version is followed by another.
func TestEveryStepAndLeakOfTheOldVersion(t *testing.T) {
	now := begun.Add(10 * time.Minute)
	for _, p := range table {
		name := stepName(p.state, p.name)
		at := running(p)
		at.Paused = &Pause{At: begun, By: "bob"}
		at.Fault, at.StillUsed, at.Attempts, at.RetryAt = "2 sessions", true, 5, begun.Add(time.Hour)
		next, err := Escalate(at, Facts{Now: now}, leaked(LeakedOld))
		if at.Finished() {
			if !refused(err) || !strings.Contains(err.Error(), "vault write hyvve/rotate key=k compromised=true") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || !next.Compromised || next.Soak != 0 || next.Observe != 0 || next.Confirm || next.Paused != nil || next.Deadline != time.Minute || !next.Clock.Equal(now) || next.State != p.state {
			t.Errorf("%s: %+v, %v", name, next, err)
		}
		if at.Compromised || len(at.Timeline) > 0 {
			t.Fatalf("%s: Escalate wrote into its argument", name)
		}
		if want, moves := p.escalated.to(); moves && next.Step != want.name || !moves && next.Step != p.name {
			t.Errorf("%s: continues at %s", name, next.Step)
		}
		if follows := next.Follow != nil && next.Follow.ID == "next" && next.Follow.Compromised && next.Follow.Entity == ann.Entity; follows != (p.state == Reverting) {
			t.Errorf("%s: followed by %+v", name, next.Follow)
		}
		event := next.Timeline[len(next.Timeline)-1]
		if event.Entity != ann.Entity || event.Reason != "in a chat" || !strings.HasPrefix(event.Text, "the old version is compromised") || len(event.Changes) < 4 {
			t.Errorf("%s: %+v", name, event)
		}
		if next.Action() == ActRetire && (next.Acted || next.Fault != "" || next.StillUsed) {
			t.Errorf("%s: sessions stay, or are waited for", name)
		}
		if _, err := Escalate(next, Facts{Now: now}, leaked(LeakedOld)); !refused(err) || !strings.Contains(err.Error(), "/tune deadline=") {
			t.Errorf("%s: once more: %v", name, err)
		}
	}
}

// runningSteps returns a rotation in each step in which it runs. A leak is refused in the others.
func runningSteps(t *testing.T, which string) iter.Seq2[step, Rotation] {
	return func(yield func(step, Rotation) bool) {
		for _, p := range table {
			at := running(p)
			if at.Finished() {
				if _, err := Escalate(at, Facts{Now: begun}, leaked(which)); !refused(err) {
					t.Errorf("%s: %v", stepName(p.state, p.name), err)
				}
				continue
			}
			if !yield(p, at) {
				return
			}
		}
	}
}

// A leak of the new version in every step: the rotation goes back, or hurries to its end, and another one follows.
func TestEveryStepAndLeakOfTheNewVersion(t *testing.T) {
	for p, at := range runningSteps(t, LeakedNew) {
		name := stepName(p.state, p.name)
		next, err := Escalate(at, Facts{Now: begun}, leaked(LeakedNew))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if back, can := p.revert.to(); can && (next.State != Reverting || !onlyRowsBetween(at, back, next)) || !can && next.State != p.state {
			t.Errorf("%s: goes to %s %s", name, next.State, next.Step)
		}
		want := Follow{ID: "next", By: "ann", Entity: ann.Entity, Reason: "in a chat", OnFailure: FailurePause, Confirm: true, ConfirmBy: ConfirmByAny, Deadline: 2 * time.Hour}
		if p.state == Retiring {
			want.Compromised, want.Deadline = true, 0
		}
		if !next.Compromised || next.Deadline != time.Minute || next.Follow == nil || *next.Follow != want {
			t.Errorf("%s: %+v is followed by %+v", name, next, next.Follow)
		}
		if text := next.Timeline[len(next.Timeline)-1].Text; !strings.Contains(text, "the new version is compromised") || !strings.Contains(text, "rotation next ") {
			t.Errorf("%s: %q", name, text)
		}
		// Its gates are cut on the way back, too, and the old version's leak, of which somebody hears now, has the follower hurry.
		if next.State != Reverting {
			continue
		}
		absent := Facts{Now: begun.Add(2 * time.Minute), Workloads: []WorkloadFact{{Workload: workload.Workload{Name: "w", MinInstances: 1, MaxUnavailable: "1"}}}}
		if results, open := Gates(next, absent); next.Action() == NoAction && !open {
			t.Errorf("%s: not cut: %+v", name, results)
		}
		both, err := Escalate(next, Facts{Now: begun}, leaked(LeakedOld))
		if err != nil || both.State != Reverting || !both.Follow.Compromised || both.Follow.ID != "next" {
			t.Errorf("%s: both leaked: %+v, %v", name, both.Follow, err)
		}
	}
}

// A leak of both versions in every step: the rotation hurries on as where the old one has leaked, and one of the new version follows,
// as compromised.
func TestEveryStepAndLeakOfBothVersions(t *testing.T) {
	for p, at := range runningSteps(t, LeakedBoth) {
		name := stepName(p.state, p.name)
		next, err := Escalate(at, Facts{Now: begun}, leaked(LeakedBoth))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want, err := Escalate(at, Facts{Now: begun}, leaked(LeakedOld)); err != nil || next.State != want.State || next.Step != want.Step || next.Soak != 0 || next.Confirm || !next.Compromised {
			t.Errorf("%s: goes to %s %s, not to %s %s (%v)", name, next.State, next.Step, want.State, want.Step, err)
		}
		want := Follow{ID: "next", By: "ann", Entity: ann.Entity, Reason: "in a chat", OnFailure: FailurePause, Confirm: true, ConfirmBy: ConfirmByAny, Compromised: true}
		if next.Follow == nil || *next.Follow != want {
			t.Errorf("%s: is followed by %+v", name, next.Follow)
		}
		if text := next.Timeline[len(next.Timeline)-1].Text; !strings.HasPrefix(text, "both versions are compromised") || !strings.Contains(text, "rotation next replaces the version that is current then, as compromised") {
			t.Errorf("%s: %q", name, text)
		}
		if _, err := Escalate(next, Facts{Now: begun}, leaked(LeakedBoth)); !refused(err) {
			t.Errorf("%s: once more: %v", name, err)
		}
		other := at
		other.ConfirmBy = ConfirmByOther
		if next, err := Escalate(other, Facts{Now: begun}, leaked(LeakedBoth)); err != nil || next.Revertible() && next.NotBy != ann.Entity {
			t.Errorf("%s: may be confirmed by %q (%v)", name, next.NotBy, err)
		}
	}
}

// onlyRowsBetween reports whether next is at a step, or after it where that is about rows and there are none.
func onlyRowsBetween(r Rotation, to step, next Rotation) bool {
	want, _ := r.towards(transition{to.state, to.name})
	return next.State == want.state && next.Step == want.name
}

// Where both versions have leaked, the rotation that follows is compromised, too. Without a kind that makes values, none follows, and
// the timeline says what to do.
func TestWhatFollowsALeak(t *testing.T) {
	p, _ := find(Soaking, StepSoak)
	hurried, err := Escalate(running(p), Facts{Now: begun}, leaked(LeakedOld))
	if err != nil {
		t.Fatal(err)
	}
	next, err := Escalate(hurried, Facts{Now: begun}, leaked(LeakedNew))
	if err != nil || next.State != Reverting || !next.Follow.Compromised {
		t.Errorf("%+v, %v", next.Follow, err)
	}
	alone := leaked(LeakedNew)
	alone.Next = ""
	next, err = Escalate(running(p), Facts{Now: begun}, alone)
	if text := next.Timeline[0].Text; err != nil || next.Follow != nil || !strings.HasSuffix(text, "vault write hyvve/rotate key=k value=-") {
		t.Errorf("%q, %v", text, err)
	}
	for _, bad := range []Escalation{{Which: "newest"}, {Which: LeakedOld, Deadline: -1}} {
		if _, err := Escalate(running(p), Facts{Now: begun}, bad); !refused(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// With confirm_by=other, a leak asks for the confirmation of another user than the one who says so, also where somebody has
// confirmed before; so does a shorter soak time, or a deadline after which less evidence is waited for.
func TestFourEyesOutliveALeak(t *testing.T) {
	p, _ := find(Soaking, StepUnused)
	at := running(p)
	at.ConfirmBy, at.By, at.Entity, at.NotBy, at.Confirmed = ConfirmByOther, ann.Name, ann.Entity, ann.Entity, bob.Name
	escalation := leaked(LeakedOld)
	escalation.By = nobody
	if _, err := Escalate(at, Facts{Now: begun}, escalation); !refused(err) || !strings.Contains(err.Error(), "no entity") {
		t.Errorf("%v", err)
	}
	escalation.By = bob
	hurried, err := Escalate(at, Facts{Now: begun}, escalation)
	if err != nil {
		t.Fatal(err)
	}
	shorter := time.Second
	tuned, err := Tune(at, Facts{Now: begun}, Tuning{Soak: &shorter, By: bob})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Tune(at, Facts{Now: begun}, Tuning{Soak: &shorter, By: nobody}); !refused(err) {
		t.Errorf("%v", err)
	}
	sooner := hurried
	sooner.Confirmed, sooner.NotBy, sooner.ChangedBy = ann.Name, bob.Entity, &bob
	if sooner, err = Tune(sooner, Facts{Now: begun}, Tuning{Deadline: &shorter, By: bob}); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]Rotation{"escalated": hurried, "tuned": tuned, "to be cut sooner": sooner} {
		if r.Confirmed != "" || !r.Confirm || !strings.Contains(strings.Join(checkConfirmed(r, Facts{}), " "), "another user than bob ") {
			t.Errorf("%s: %+v", name, r)
		}
		if _, err := Confirm(r, begun, bob, ""); !refused(err) {
			t.Errorf("%s: confirmed by the user who did it: %v", name, err)
		}
		if confirmed, err := Confirm(r, begun, ann, ""); err != nil || confirmed.Confirmed != ann.Name {
			t.Errorf("%s: %v", name, err)
		}
	}
	longer := 3 * time.Hour
	if tuned, err := Tune(at, Facts{Now: begun}, Tuning{Soak: &longer, By: nobody}); err != nil || tuned.Confirmed != bob.Name {
		t.Errorf("a longer soak time: %+v, %v", tuned, err)
	}
}

// Tune in every step: where a setting counts, it is changed, and the timeline has from and to; elsewhere it is refused.
func TestEveryStepAndTune(t *testing.T) {
	ten := 10 * time.Minute
	for _, p := range table {
		name := stepName(p.state, p.name)
		at := running(p)
		next, err := Tune(at, Facts{Now: begun}, Tuning{Soak: &ten, Deadline: &ten, OnFailure: FailureRevert, By: ann, Reason: "seen enough"})
		if at.Revertible() == refused(err) || err == nil && (next.Soak != ten || next.Observe != time.Hour || next.Deadline != ten || next.OnFailure != FailureRevert) {
			t.Errorf("%s: %+v, %v", name, next, err)
		}
		if err == nil {
			event := next.Timeline[0]
			if event.Text != "tuned: soak from 1h to 10m, deadline from 2h to 10m, on_failure from pause to revert" || event.Reason != "seen enough" || len(event.Changes) != 3 {
				t.Errorf("%s: %+v", name, event)
			}
		}
		at.Compromised = true
		if _, err := Tune(at, Facts{Now: begun}, Tuning{Deadline: &ten}); refused(err) != at.Finished() {
			t.Errorf("%s: deadline of a compromised one: %v", name, err)
		}
		for _, no := range []Tuning{{Soak: &ten}, {Observe: &ten}, {OnFailure: FailureRevert}, {Deadline: new(time.Duration)}} {
			if _, err := Tune(at, Facts{Now: begun}, no); !refused(err) {
				t.Errorf("%s: %+v of a compromised one: %v", name, no, err)
			}
		}
	}
	p, _ := find(Soaking, StepSoak)
	at, hour, negative := running(p), time.Hour, -time.Second
	for _, bad := range []Tuning{{}, {Soak: &hour}, {Soak: &negative}, {Observe: &negative}, {Deadline: &negative}, {OnFailure: "retry"}} {
		if _, err := Tune(at, Facts{Now: begun}, bad); !refused(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	at.Acted, at.SoakFrom = true, begun
	short, err := Tune(at, Facts{Now: begun.Add(ten)}, Tuning{Soak: &ten})
	if next, _, _ := Next(short, Facts{Now: begun.Add(ten)}); err != nil || next.Step != StepUnused {
		t.Errorf("a soak time that is over: %s, %v", next.Step, err)
	}
}

// What is presented from outside does not keep a compromised version accepted; a lease on it does, until the deadline.
func TestSightingsDoNotHoldACompromisedVersion(t *testing.T) {
	p, _ := find(Soaking, StepUnused)
	at := running(p)
	at.Soak, at.Observe, at.Confirm = 0, 0, false
	seen := workload.Instance{Workload: "w", ID: "i", Healthy: true, Sightings: []workload.Sighting{{Env: "K", Version: 1, Last: begun, From: "10.0.0.7"}}}
	f := Facts{Now: begun, Workloads: []WorkloadFact{{Workload: workload.Workload{Name: "w", MaxUnavailable: "1"}, Instances: []workload.Instance{seen}}}}
	for compromised, want := range map[bool]State{false: Soaking, true: Retiring} {
		at.Compromised, at.Deadline = compromised, time.Minute
		next, _, _ := Next(at, f)
		if next.State != want || compromised && !strings.Contains(next.Timeline[0].Reason, "10.0.0.7") {
			t.Errorf("compromised %v: %s: %+v", compromised, next.State, next.Timeline)
		}
	}
}
