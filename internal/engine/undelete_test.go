// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// retainedToken is a token of which version 1 is retained.
func retainedToken(t *testing.T) *harness {
	t.Helper()
	h := newHarness(t)
	h.hyvve()
	h.retains("service-token", 10*time.Hour)
	h.until(h.rotate("service-token"), rotation.Done)
	return h
}

// An undeleted version is accepted beside the current one until its time is over, and nobody presents it; then it is retained
// again, and erased.
func TestUndeleteOfAToken(t *testing.T) {
	h := retainedToken(t)
	before, _ := h.engine.Key("service-token")
	h.undelete(Undeletion{Key: "service-token", Version: 1, For: time.Hour, Reason: "somebody was locked out"})
	h.expectVersions("service-token", "undeleted, current")
	if k, _ := h.engine.Key("service-token"); !k.Versions[0].Value.Equal(before.Versions[0].Sealed) {
		t.Error("another value came back")
	}
	if got := h.accepted("api", "api-1", "service-token"); !slices.Equal(got, []int{2, 1}) {
		t.Errorf("accepted are %v", got)
	}
	if held := h.readers["agents/agents-1"].reading.Bundle.Holding.Keys["service-token"]; held.Value != 2 {
		t.Errorf("presented is %d", held.Value)
	}
	h.open()
	h.later(59 * time.Minute)
	h.sights(1)
	h.later(2 * time.Minute)
	h.expectVersions("service-token", "retained, current")
	if got := h.accepted("api", "api-1", "service-token"); !slices.Equal(got, []int{2}) {
		t.Errorf("accepted at the end are %v", got)
	}
	h.later(10*time.Hour + time.Minute)
	h.expectVersions("service-token", "destroyed, current")
}

// sights lets a proxy say that it has seen a version of the token just now.
func (h *harness) sights(version int) {
	h.t.Helper()
	r := h.readers["api/api-1"]
	_, err := h.engine.Report(h.t.Context(), Report{
		Workload: r.workload, Instance: r.id, Secret: r.reading.Secret, Etag: r.reading.Bundle.Holding.Etag, Healthy: true,
		Sightings: []workload.Sighting{{Env: "SERVICE_TOKEN", Version: version, Count: 1, Last: h.clock.Now(), From: "10.0.0.7:1"}},
	})
	h.ok(err)
}

// A version that is undeleted for a time does not end while somebody presents it.
func TestUndeletedVersionInUse(t *testing.T) {
	h := retainedToken(t)
	h.undelete(Undeletion{Key: "service-token", Version: 1, For: time.Minute})
	h.round()
	for range 30 {
		h.clock.advance(5 * time.Second)
		h.sights(1)
		h.round()
	}
	h.expectVersions("service-token", "undeleted, current")
	if s := h.engine.Status()[0]; !strings.Contains(s.Lapse, "10.0.0.7") {
		t.Errorf("status says %q", s.Lapse)
	}
	h.refused(h.engine.RetireVersion(t.Context(), "service-token", 1, false, "", testActor), "10.0.0.7")
	h.refused(h.engine.RetireVersion(t.Context(), "service-token", 1, false, "", testActor), "or end it all the same, with its sessions: vault write hyvve/keys/service-token/retire version=1 force=true")
	h.later(2 * time.Minute)
	h.expectVersions("service-token", "retained, current")
	if s := h.engine.Status()[0]; s.Lapse != "" {
		t.Errorf("status still says %q", s.Lapse)
	}
}

// Rows of a backup: the undeleted version is read again, and the next rotation brings its rows along and retires it. While
// a row is under it, nothing goes.
func TestUndeleteForRows(t *testing.T) {
	h := newHarness(t)
	r := h.rows()
	h.retains("master", 30*24*time.Hour)
	h.until(h.rotate("master"), rotation.Done)
	h.until(h.rotate("master"), rotation.Done)
	h.expectVersions("master", "retained, retained, current")
	_, _, err := h.engine.Undelete(t.Context(), Undeletion{Key: "master", Version: 1, For: time.Hour, By: testActor})
	h.refused(err, "until a rotation has brought its rows under a new one")
	h.undelete(Undeletion{Key: "master", Version: 1})
	h.refused(h.engine.RetireVersion(t.Context(), "master", 1, false, "", testActor), "vault write hyvve/rotate key=master")
	if got := h.accepted("api", "api-1", "master"); !slices.Equal(got, []int{3, 1}) {
		t.Errorf("accepted are %v", got)
	}
	h.later(48 * time.Hour) // it has no end of its own
	h.expectVersions("master", "undeleted, retained, current")

	plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"master"}, By: testActor})
	h.ok(err)
	if notes := strings.Join(plan.Notes, "; "); !strings.Contains(notes, "version 1, which is undeleted, is accepted until the end") || !strings.Contains(notes, "the value of version 3 is retained for 30d") {
		t.Errorf("the plan says %q", notes)
	}
	id := h.rotate("master")
	h.reach(id, rotation.Presenting, rotation.StepFlipRows)
	if got := r.reading.Bundle.Holding.Keys["master"].Accepts; !slices.Equal(got, []int{4, 3, 1}) {
		t.Errorf("flipped with %v", got)
	}
	_, _, err = h.engine.Undelete(t.Context(), Undeletion{Key: "master", Version: 2, By: testActor})
	h.refused(err, "or revert it with: vault write -f hyvve/rotations/"+id+"/revert")
	r.works = true
	h.report(r)
	h.reach(id, rotation.Retiring, rotation.StepErase)
	_, _, err = h.engine.Undelete(t.Context(), Undeletion{Key: "master", Version: 2, By: testActor})
	h.refused(err, "it cannot be reverted any more; it waits for: "+h.view(id).Waits())
	if strings.Contains(err.Error(), "/revert") || h.view(id).Waits() == "" {
		t.Errorf("a retiring rotation: %v", err)
	}
	_, err = h.engine.Revert(t.Context(), id, testActor, "")
	h.refused(err, "vault write hyvve/keys/master/undelete version=3")
	h.says(r, workload.ColumnReport{Column: "t.c", Total: 3, Bad: 1, Rotated: 2})
	h.engine.Tick(t.Context())
	if view := h.view(id); view.Step != rotation.StepAcceptBoth {
		t.Fatalf("%s %s", view.State, view.Step)
	}
	h.expectVersions("master", "undeleted, retained, previous, current")
	h.reach(id, rotation.Retiring, rotation.StepRows)
	if got := r.reading.Bundle.Holding.Keys["master"].Accepts; !slices.Equal(got, []int{4, 3, 1}) {
		t.Errorf("brought over with %v", got)
	}
	r.works = true
	h.report(r)
	h.until(id, rotation.Done)
	h.expectVersions("master", "retained, retained, retained, current")
}

// login is a key whose values log in at a server, of which version 1 has been retired.
func (h *harness) login() { h.loginOf("server") }

func (h *harness) loginOf(kindName string) {
	h.t.Helper()
	h.key("db", kindName)
	h.retains("db", 10*time.Hour)
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"db": {Presents: true}}})
	h.join("api", "api-1")
	h.until(h.rotate("db"), rotation.Done)
	h.expectVersions("db", "retained, current")
}

// A login is valid at its server when undelete returns, and locked there again at its end, once nobody uses it. A server that
// fails in between is asked again.
func TestUndeleteOfALogin(t *testing.T) {
	h := newHarness(t)
	h.login()
	k, _ := h.engine.Key("db")
	value := k.Versions[0].Sealed.Reveal()
	if h.server.valid[value] {
		t.Fatal("a retained login is valid at the server")
	}
	h.server.fail["undelete"] = errors.New("no answer")
	_, _, err := h.engine.Undelete(t.Context(), Undeletion{Key: "db", Version: 1, For: time.Hour, By: testActor})
	h.refused(err, "no answer")
	delete(h.server.fail, "undelete")
	h.undelete(Undeletion{Key: "db", Version: 1, For: time.Hour})
	if !h.server.valid[value] {
		t.Fatal("it is not valid at the server")
	}
	if held := h.accepted("api", "api-1", "db"); held != nil {
		t.Errorf("accepted are %v", held)
	}
	h.server.inUse = 1
	h.later(62 * time.Minute)
	h.expectVersions("db", "undeleted, current")
	if s := h.engine.Status()[0]; !strings.Contains(s.Lapse, "is in use: sessions") || !h.server.valid[value] {
		t.Errorf("status says %q", s.Lapse)
	}
	h.server.inUse = 0
	h.server.fail["retire"] = errors.New("no answer")
	h.later(2 * time.Minute)
	h.expectVersions("db", "undeleted, current")
	delete(h.server.fail, "retire")
	h.later(6 * time.Minute)
	h.expectVersions("db", "retained, current")
	if h.server.valid[value] {
		t.Error("the login is valid at the server after its end")
	}
	h.later(10*time.Hour + time.Minute)
	h.expectVersions("db", "destroyed, current")
}

// Killed before or after any write of an undeletion, of its end or of the erasing, the same continues from storage.
func TestCrashAtEveryWriteOfAnUndeletion(t *testing.T) {
	atEveryWrite(t, 6, func(at int, after bool) bool {
		h := newHarness(t)
		h.login()
		h.failAt(at, after)
		undeleted := false
		crashed := h.throughCrash(20*time.Minute, func() {
			if !undeleted {
				_, _, err := h.engine.Undelete(t.Context(), Undeletion{Key: "db", Version: 1, For: time.Hour, By: testActor})
				undeleted = err == nil
			}
		})
		h.expectVersions("db", "destroyed, current")
		if n := len(h.server.valid); n != 1 {
			t.Errorf("crash at write %d (after %v): %d logins are valid at the server", at, after, n)
		}
		h.expectWholeJournal(fmt.Sprintf("crash at write %d (after %v)", at, after))
		return crashed
	})
}

// undeletedCache is a server that forgets, with a login of which version 1 is undeleted. It returns the value of version 1.
func undeletedCache(t *testing.T, long time.Duration) (h *harness, f *forgetful, value string) {
	t.Helper()
	h, f = newForgetful(t)
	h.retains("cache", 10*time.Hour)
	value = h.currentOf("cache").Value.Reveal()
	h.until(h.rotate("cache"), rotation.Done)
	h.undelete(Undeletion{Key: "cache", Version: 1, For: long})
	return h, f, value
}

// An undeleted login that the server has forgotten, or was never told of before a crash, is made valid by the regular check; a
// plan tells of it and changes nothing.
func TestUndeletedLoginIsChecked(t *testing.T) {
	h, f, old := undeletedCache(t, 5*time.Hour)
	delete(f.valid, old)
	plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"cache"}, By: testActor})
	h.ok(err)
	if !strings.Contains(strings.Join(plan.Notes, "; "), "version 1, which is undeleted until") || f.valid[old] {
		t.Errorf("the plan says %q", plan.Notes)
	}
	f.fail["undelete"] = errors.New("no room")
	h.later(6 * time.Minute)
	if got := h.problemsOf("cache"); !strings.Contains(got, "does not log in: no room") {
		t.Errorf("problems are %q", got)
	}
	delete(f.fail, "undelete")
	h.later(6 * time.Minute)
	if got := h.problemsOf("cache"); got != "" || !f.valid[old] {
		t.Errorf("problems are %q, and it is valid: %v", got, f.valid[old])
	}
	_, warnings, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"cache"}, By: testActor, Compromised: true})
	h.ok(err)
	if !strings.Contains(strings.Join(warnings, "; "), "version 1 is undeleted, and logs in until this rotation retires version 2: that ends it, too, with its sessions, and erases it") {
		t.Errorf("warnings are %q", warnings)
	}
}

// A time for which a version is undeleted has to end before its key may protect rows.
func TestProtectsWhileAVersionIsUndeleted(t *testing.T) {
	h := retainedToken(t)
	h.undelete(Undeletion{Key: "service-token", Version: 1, For: time.Hour})
	d := catalog.Definition{Name: "service-token", Kind: "token", Witness: rotation.WitnessNone, Protects: []key.Column{{Table: "t", Column: "c", Layout: key.TagFirst}}}
	_, err := h.engine.PutKey(t.Context(), d, testActor)
	h.refused(err, "protects: version 1 is undeleted for a time")
	h.refused(err, "vault write hyvve/keys/service-token/retire version=1")
	h.ok(h.engine.RetireVersion(t.Context(), "service-token", 1, false, "", testActor))
	_, err = h.engine.PutKey(t.Context(), d, testActor)
	h.ok(err)
}
