// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// soaksFor sets the soak time of a token.
func (h *harness) soaksFor(name string, soak time.Duration) {
	h.t.Helper()
	_, err := h.engine.PutKey(h.t.Context(), catalog.Definition{Name: name, Kind: "token", Policy: key.Policy{Soak: soak}}, testActor)
	h.ok(err)
}

// leaks escalates a rotation.
func (h *harness) leaks(id, which string) (View, []string) {
	h.t.Helper()
	view, warnings, err := h.engine.Escalate(h.t.Context(), id, rotation.Escalation{Which: which, By: ann, Reason: "in a chat"})
	h.ok(err)
	return view, warnings
}

// A token leaks while its rotation soaks for an hour: as soon as the instances have followed, nobody accepts it.
func TestOldVersionLeaksWhileItSoaks(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.soaksFor("service-token", time.Hour)
	id := h.rotate("service-token")
	h.until(id, rotation.Soaking)
	_, err := h.engine.Pause(t.Context(), id, testActor, "lunch")
	h.ok(err)
	begun := h.clock.Now()
	if view, _ := h.leaks(id, rotation.LeakedOld); view.State != rotation.Retiring || !view.Compromised {
		t.Errorf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	h.until(id, rotation.Done)
	if took := h.clock.Now().Sub(begun); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if entry := h.last(); entry.Rotation != id {
		t.Errorf("%+v", entry)
	}
	if !h.journalHas("the old version is compromised") || h.accepted("api", "api-1", "service-token")[0] != 2 {
		t.Error("it is not journaled, or not current")
	}
}

// The new version leaks: it is presented no further, and a rotation to a third one follows by itself, once, whatever crashes. Both
// rotations name each other.
func TestNewVersionLeaks(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.soaksFor("service-token", 5*time.Second)
	id := h.rotate("service-token")
	h.until(id, rotation.Soaking)
	view, warnings := h.leaks(id, rotation.LeakedNew)
	if view.State != rotation.Reverting || view.Follow == nil || !strings.Contains(strings.Join(warnings, " "), "vault read hyvve/rotations/"+view.Follow.ID) {
		t.Fatalf("%s: %+v, %q", view.State, view.Follow, warnings)
	}
	next := view.Follow.ID
	_, err := h.engine.View(t.Context(), next)
	h.refused(err, "starts when rotation "+id+" has ended")
	end := h.until(id, rotation.Reverted)
	if text := end.Timeline[len(end.Timeline)-1].Text; !strings.Contains(text, "rotation "+next+" follows") {
		t.Errorf("%q", text)
	}
	follower := h.until(next, rotation.Done)
	if follower.Follows != id || follower.By != ann.Name || follower.Compromised || follower.Soak != 5*time.Second || !strings.Contains(follower.Timeline[0].Text, "follows rotation "+id) {
		t.Errorf("%+v", follower.Rotation)
	}
	h.expectVersions("service-token", "destroyed, aborted, current")
	if ids, _ := h.engine.RotationIDs(t.Context()); len(ids) != 2 || len(h.records().following) != 0 {
		t.Errorf("rotations are %v", ids)
	}
}

// Where there is no way back, the rotation of a new version that has leaked hurries to its end, and a compromised one follows.
func TestNewVersionLeaksWhileRetiring(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	id := h.rotate("service-token")
	h.until(id, rotation.Retiring)
	view, _ := h.leaks(id, rotation.LeakedNew)
	h.until(id, rotation.Done)
	if follower := h.until(view.Follow.ID, rotation.Done); !follower.Compromised {
		t.Errorf("%+v", follower.Rotation)
	}
	h.expectVersions("service-token", "destroyed, destroyed, current")
}

// Killed before or after any write, the follower starts, once, and ends.
func TestCrashAtEveryWriteStartsTheFollower(t *testing.T) {
	atEveryWrite(t, 15, func(at int, after bool) bool {
		h := newHarness(t)
		h.hyvve()
		id := h.rotate("service-token")
		h.until(id, rotation.Presenting)
		h.failAt(at, after)
		crashed, next := false, ""
		for range 120 {
			crashed = h.reopened() || crashed
			if next == "" {
				view, _, err := h.engine.Escalate(t.Context(), id, rotation.Escalation{Which: rotation.LeakedNew, By: ann})
				if view.Follow == nil && !errors.Is(err, errInjected) && !errors.Is(err, errStale) { // it has been stored, and the answer was lost
					now := h.view(id)
					next = now.Follow.ID
				} else if view.Follow != nil {
					next = view.Follow.ID
				}
			}
			tryRound(h)
			h.clock.advance(time.Second)
		}
		h.settle()
		h.open()
		ids, err := h.engine.RotationIDs(t.Context())
		h.ok(err)
		slices.Sort(ids)
		if len(ids) != 2 || !slices.Contains(ids, next) || h.view(id).State != rotation.Reverted || h.view(next).State != rotation.Done || len(h.records().following) > 0 {
			t.Errorf("write %d (after %v): rotations are %v, %s, and %s follows", at, after, ids, h.view(id).State, next)
		}
		if k, _ := h.engine.Key("service-token"); k.Versions[1].State != key.Aborted {
			t.Errorf("write %d (after %v): %s", at, after, h.states("service-token"))
		}
		checkJournal(t, h, h.view(id))
		checkJournal(t, h, h.view(next))
		return crashed
	})
}

// A rotation that follows and cannot start says so in status, and is tried again. A rotation that somebody starts takes its place.
func TestFollowerThatCannotStart(t *testing.T) {
	for _, by := range []string{"itself", "hand"} {
		h := newHarness(t)
		h.hyvve()
		id := h.rotate("service-token")
		h.until(id, rotation.Presenting)
		view, _ := h.leaks(id, rotation.LeakedNew)
		next := view.Follow.ID
		def := catalog.Definition{Name: "service-token", Kind: "token", Policy: key.Policy{ConfirmBy: rotation.ConfirmByOther}}
		_, err := h.engine.PutKey(t.Context(), def, ann)
		h.ok(err)
		h.lastWithout(id) // as if a user without an entity had escalated it
		h.until(id, rotation.Reverted)
		h.rounds(3)
		if status := h.engine.Status()[0]; !strings.Contains(status.Waits, next) || !strings.Contains(status.Waits, "no entity") {
			t.Fatalf("%+v", status)
		}
		_, err = h.engine.View(t.Context(), next)
		h.refused(err, "has not started yet: rotations of SERVICE_TOKEN need another user's confirmation")
		h.open()
		def.Policy.ConfirmBy = rotation.ConfirmByAny
		_, err = h.engine.PutKey(t.Context(), def, ann)
		h.ok(err)
		if by == "hand" {
			id = h.rotate("service-token")
			h.until(id, rotation.Done)
			if !h.journalHas("rotation " + next + ", which was to follow ") {
				t.Error("it is not journaled that it is not started")
			}
			h.rounds(3)
			_, err = h.engine.View(t.Context(), next)
			h.refused(err, "is not known")
			continue
		}
		h.rounds(1)
		h.until(next, rotation.Done)
	}
}

// The period of a key is over while the rotation is reverted that another one is to follow: that one starts, and not the automatic one.
func TestFollowerStartsBeforeAnAutomaticRotation(t *testing.T) {
	h := newHarness(t)
	h.key("db", "server")
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"db": {Presents: true}}})
	h.join("api", "api-1")
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "db", Kind: "server", Policy: key.Policy{Period: time.Hour, Soak: 2 * time.Hour}}, testActor)
	h.ok(err)
	id := h.rotate("db")
	h.until(id, rotation.Soaking)
	h.clock.advance(90 * time.Minute)
	h.leaks(id, rotation.LeakedNew)
	view, _ := h.leaks(id, rotation.LeakedOld)
	next := view.Follow.ID
	h.until(id, rotation.Reverted)
	h.round()
	if follower := h.until(next, rotation.Done); !follower.Compromised {
		t.Errorf("%+v", follower.Rotation)
	}
}

// lastWithout takes the entity away from the user whose escalation a running rotation stores.
func (h *harness) lastWithout(id string) {
	l, release := h.engine.acquire()
	defer release()
	r := l.active[id].Clone()
	follow := *r.Follow
	follow.Entity, r.Follow = "", &follow
	h.ok(l.save(h.t.Context(), r))
}

// rotate compromised=true on a key that rotates escalates that rotation, says so, and can be planned before.
func TestRotateCompromisedEscalates(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.key("other", "token")
	h.key("third", "token")
	h.workload(workload.Workload{Name: "web", Keys: map[string]workload.Role{"other": {Presents: true}, "third": {Presents: true}}})
	h.soaksFor("service-token", time.Hour)
	id := h.rotate("service-token")
	h.until(id, rotation.Soaking)
	ask := Request{Keys: []string{"service-token"}, Compromised: true, By: ann, Trigger: rotation.ByOperator, Deadline: 5 * time.Second}

	writes := h.store.writes
	plan, warnings, err := h.engine.Plan(t.Context(), ask)
	h.ok(err)
	if h.store.writes != writes || plan.Rotation.ID != id || !plan.Rotation.Compromised || plan.Moves[0].State != rotation.Soaking || plan.Expected > 5*time.Second || !strings.Contains(strings.Join(warnings, " "), "is escalated instead") {
		t.Errorf("%+v, %q", plan, warnings)
	}

	mixed := ask
	mixed.Keys = []string{"service-token", "other", "third"}
	for _, call := range []func(Request) error{
		func(q Request) error { _, _, err := h.engine.Rotate(t.Context(), q); return err },
		func(q Request) error { _, _, err := h.engine.Plan(t.Context(), q); return err },
	} {
		err := call(mixed)
		h.refused(err, "vault write hyvve/rotate keys=other,third compromised=true; vault write -f hyvve/rotations/"+id+"/compromised")
		valued := ask
		valued.Value, valued.Confirm = key.NewValue("0123456789012345678901234567890123456789"), rotation.ConfirmManual
		h.refused(call(valued), "value, confirm: rotation "+id)
		unknown := ask
		unknown.Keys = []string{"service-token", "none"}
		h.refused(call(unknown), "none")
	}

	view, warnings, err := h.engine.Rotate(t.Context(), ask)
	h.ok(err)
	if view.ID != id || !view.Compromised || view.Deadline != 5*time.Second || !strings.Contains(warnings[0], "it replaces version 1 of service-token by version 2; if a new version has leaked: vault write hyvve/rotations/"+id+"/compromised which=new") {
		t.Errorf("%+v, %q", view.Rotation, warnings)
	}
	h.until(id, rotation.Done)
}

// A key leaks while its server retires the old login without ending its sessions: that is done once more, with them. So it is
// after that step, where undeleted logins of the key end, too.
func TestLeakWhileTheServerRetires(t *testing.T) {
	h := newHarness(t)
	h.key("db", "server")
	h.key("master", "token", key.Column{Table: "t", Column: "c", Layout: key.TagFirst})
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Reencrypts: true, Keys: map[string]workload.Role{"db": {Presents: true}, "master": {Presents: true, Verifies: true}}})
	r := h.join("api", "api-1")
	h.retains("db", 10*time.Hour)
	h.until(h.rotate("db"), rotation.Done)
	h.undelete(Undeletion{Key: "db", Version: 1, For: 9 * time.Hour})
	r.noChecks = true
	id := h.rotate("db", "master")
	h.reach(id, rotation.Retiring, rotation.StepErase)
	if h.server.cut {
		t.Fatal("sessions were ended")
	}
	h.leaks(id, rotation.LeakedOld)
	h.settle()
	if !h.server.cut || h.view(id).Step != rotation.StepErase {
		t.Errorf("%s: sessions ended: %v", h.view(id).Step, h.server.cut)
	}
	h.expectVersions("db", "destroyed, previous, current")
	r.works, r.noChecks = true, false
	h.read(r)
	h.until(id, rotation.Done)
	h.expectVersions("db", "destroyed, destroyed, current")

	h.server.cut, h.server.fail["retire"] = false, errors.New("no answer")
	id = h.rotate("db")
	h.until(id, rotation.Retiring)
	for n := 0; h.view(id).Fault == "" && n < 20; n++ {
		h.round()
	}
	delete(h.server.fail, "retire")
	h.clock.advance(time.Minute)
	h.engine.Tick(t.Context())
	if len(h.calls) == 0 {
		t.Fatal("the server is not asked to retire")
	}
	h.leaks(id, rotation.LeakedOld) // while the call without Cut is under way
	h.settle()
	h.until(id, rotation.Done)
	if !h.server.cut {
		t.Error("its sessions stay")
	}
}

// Tune changes a running rotation, and the journal has from and to.
func TestTune(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.soaksFor("service-token", time.Hour)
	id := h.rotate("service-token")
	h.until(id, rotation.Soaking)
	h.clock.advance(10 * time.Minute)
	soak := 5 * time.Minute
	_, err := h.engine.Tune(t.Context(), id, rotation.Tuning{Soak: &soak, By: ann, Reason: "enough"})
	h.ok(err)
	found := false
	for _, entry := range h.entries() {
		found = found || entry.Rotation == id && slices.Contains(entry.Changes, rotation.EntryChange{Field: "soak", From: "1h", To: "5m"}) && entry.Entity == ann.Entity && entry.Reason == "enough"
	}
	if !found {
		t.Error("the journal does not have the change")
	}
	h.open()
	h.until(id, rotation.Done)
}

// Records of the release before are read, and a rotation that follows is read again.
func TestStoredFollowers(t *testing.T) {
	for text, want := range map[string]string{
		`{"schema":1,"id":"b","follows":"a","keys":["k"],"compromised":true,"deadline":5000000000}`: "",
		`{"schema":2,"id":"b","follows":"a","keys":["k"]}`:                                          "schema 2",
		`{"schema":1}`: "schema 1",
		`{`:            "unexpected end",
	} {
		n, err := decodeFollowing([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil {
			continue
		}
		if back, err := n.Encode(); err != nil || !strings.Contains(string(back), `"deadline":5000000000`) || n.ID != "b" || !n.Compromised {
			t.Errorf("%s is %+v: %s, %v", text, n, back, err)
		}
	}
}
