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

// retains lets a key retain the values of retired versions.
func (h *harness) retains(name string, long time.Duration) {
	h.t.Helper()
	k, _ := h.engine.Key(name)
	d := catalog.Definition{Name: k.Name, Env: k.Env, Kind: k.Kind, Options: k.Options, Protects: k.Protects, Witness: k.Witness, Policy: k.Policy}
	d.Policy.Retain = long
	_, err := h.engine.PutKey(h.t.Context(), d, testActor)
	h.ok(err)
}

// versions is states of a key that retains some.
func (h *harness) versions(name string) string {
	h.t.Helper()
	k, _ := h.engine.Key(name)
	var all []string
	for _, v := range k.Versions {
		all = append(all, string(v.State))
		if v.State.Live() == v.Value.Empty() || (v.State == key.Retained) == v.Sealed.Empty() {
			h.t.Errorf("key %s: version %d is %s; it has a value: %v, one in quarantine: %v", name, v.Number, v.State, !v.Value.Empty(), !v.Sealed.Empty())
		}
	}
	return strings.Join(all, ", ")
}

func (h *harness) expectVersions(name, want string) {
	h.t.Helper()
	if got := h.versions(name); got != want {
		h.t.Errorf("versions of %s are %s, not %s", name, got, want)
	}
}

// journalHas reports whether an entry of the journal says something.
func (h *harness) journalHas(text string) bool {
	h.t.Helper()
	ids, err := h.engine.journal.IDs(h.t.Context())
	h.ok(err)
	for _, id := range ids {
		if entry, ok, _ := h.engine.journal.Entry(h.t.Context(), id); ok && strings.Contains(entry.What, text) {
			return true
		}
	}
	return false
}

// later lets time pass, minute by minute.
func (h *harness) later(long time.Duration) {
	h.t.Helper()
	for end := h.clock.now.Add(long); h.clock.now.Before(end); {
		h.clock.advance(min(time.Minute, end.Sub(h.clock.now)))
		h.round()
	}
}

// accepted are the versions of a key that an instance is given to accept.
func (h *harness) accepted(load, id, name string) []int {
	h.t.Helper()
	h.round()
	return h.readers[load+"/"+id].reading.Bundle.Holding.Keys[name].Accepts
}

func (h *harness) undelete(u Undeletion) {
	h.t.Helper()
	u.By = testActor
	_, _, err := h.engine.Undelete(h.t.Context(), u)
	h.ok(err)
}

func (h *harness) refused(err error, want string) {
	h.t.Helper()
	var refused *rotation.Refused
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
		h.t.Errorf("%v; want a refusal with %q", err, want)
	}
}

// A retired value is in no bundle, and erased at its end: not before, whatever the clock does, and also after a restart.
func TestRetainedUntilItsEnd(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.retains("service-token", 24*time.Hour)
	h.until(h.rotate("service-token"), rotation.Done)
	h.expectVersions("service-token", "retained, current")
	if got := h.accepted("api", "api-1", "service-token"); !slices.Equal(got, []int{2}) {
		t.Errorf("a retained version is accepted: %v", got)
	}
	k, _ := h.engine.Key("service-token")
	held := workload.Holding{Keys: map[string]workload.Held{"service-token": {Value: 1, Accepts: []int{2, 1}}}}
	if _, err := workload.Fill(held, nil, source{h.records().Catalog}); err == nil {
		t.Error("a bundle with a retained value is made")
	}
	h.later(23 * time.Hour)
	h.clock.jump = 1000 * time.Hour
	h.round()
	h.expectVersions("service-token", "retained, current")
	h.open() // on a clock that is wrong
	h.join("api", "api-1")
	h.later(50 * time.Minute)
	h.expectVersions("service-token", "retained, current")
	h.clock.jump = 0
	h.open()
	h.later(61 * time.Minute)
	h.expectVersions("service-token", "destroyed, current")
	if end := k.Versions[0].Until; !h.journalHas("erased version 1 of service-token, retained until " + rotation.Stamp(end)) {
		t.Error("the journal does not say that the value was erased")
	}
	if _, _, err := h.engine.Undelete(t.Context(), Undeletion{Key: "service-token", Version: 1, By: testActor}); err == nil {
		t.Error("an erased version is undeleted")
	}
}

// A user who ends an undeletion erases nothing that was retained for longer, though the key retains nothing any more. The journal
// says that it was forced.
func TestRetireErasesNothingEarly(t *testing.T) {
	h := retainedToken(t)
	k, _ := h.engine.Key("service-token")
	end := k.Versions[0].Until
	h.undelete(Undeletion{Key: "service-token", Version: 1, For: time.Minute})
	h.undelete(Undeletion{Key: "service-token", Version: 1, For: time.Hour})
	h.retains("service-token", 0)
	h.open()
	h.join("api", "api-1")
	_, _, err := h.engine.Undelete(t.Context(), Undeletion{Key: "service-token", Version: 9, By: testActor})
	h.refused(err, "no version of it is retained; undeleted are: 1 (until 20")
	h.refused(h.engine.RetireVersion(t.Context(), "service-token", 9, false, "", testActor), "no version of it is retained; undeleted are: 1 (until 20")
	h.sights(1)
	h.ok(h.engine.RetireVersion(t.Context(), "service-token", 1, true, "", testActor))
	h.expectVersions("service-token", "retained, current")
	if k, _ = h.engine.Key("service-token"); !k.Versions[0].Until.Equal(end) || !k.Versions[0].RetainedUntil.IsZero() {
		t.Errorf("retained until %s, and not %s", k.Versions[0].Until, end)
	}
	if !h.journalHas("its value is retained until " + rotation.Stamp(end) + "; nobody was asked whether it was in use (force=true)") {
		t.Error("the journal does not say that it was forced")
	}
	for want, long := range map[string]time.Duration{
		"for 720h0m1s is longer than 30d": 30*24*time.Hour + time.Second, "for -1s is negative": -time.Second,
	} {
		_, _, err := h.engine.Undelete(t.Context(), Undeletion{Key: "service-token", Version: 1, For: long, By: testActor})
		h.refused(err, want)
	}
	h.undelete(Undeletion{Key: "service-token", Version: 1, For: 30 * 24 * time.Hour})
}

// A rotation says before and after its end what becomes of the old value, and the journal says it, too.
func TestSaysWhatIsRetained(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.retains("service-token", time.Hour)
	done := func(request Request, before, after string) {
		t.Helper()
		request.Keys, request.By, request.Trigger, request.Confirm = []string{"service-token"}, testActor, rotation.ByOperator, rotation.ConfirmManual
		plan, _, err := h.engine.Plan(t.Context(), request)
		h.ok(err)
		if text := fmt.Sprint(plan.Moves, plan.Notes); strings.Count(text, before) < 2 {
			t.Errorf("the plan does not say %q: %s", before, text)
		}
		view, _, err := h.engine.Rotate(t.Context(), request)
		h.ok(err)
		h.until(view.ID, rotation.Soaking)
		h.rounds(5)
		view = h.view(view.ID)
		if text := view.Retention()["service-token"]; !strings.Contains(text, before) {
			t.Errorf("the rotation says %q", text)
		}
		if text := view.Waits(); strings.Contains(text, before) != (request.Retain != nil) || !strings.Contains(text, "has to confirm") {
			t.Errorf("the gate says %q", text)
		}
		_, err = h.engine.Confirm(t.Context(), view.ID, testActor, "")
		h.ok(err)
		h.until(view.ID, rotation.Done)
		if text := h.view(view.ID).Retention()["service-token"]; !strings.HasPrefix(text, after) {
			t.Errorf("the rotation says %q when it is done", text)
		}
		if !h.journalHas("done; SERVICE_TOKEN: " + after) {
			t.Errorf("the journal does not say %q", after)
		}
	}
	done(Request{}, "the value of version 1 is retained for 1h", "the value of version 1 is retained until 20")
	none, short := time.Duration(0), time.Minute
	done(Request{Retain: &none}, "the value of version 2 is erased at the end, and not retained (retain=0s of this rotation)", "the value of version 2 is erased")
	done(Request{Retain: &short}, "the value of version 3 is retained for 1m after its end, in no bundle (retain=1m", "the value of version 3 is retained until 20")
}

// A rotation that is reverted leaves what was undeleted as it was, and retains the version that it took back: rows of a backup
// may be under it. One that nobody ever presented is erased.
func TestRevertRetainsForRows(t *testing.T) {
	h := newHarness(t)
	h.rows()
	h.retains("master", 30*24*time.Hour)
	h.until(h.rotate("master"), rotation.Done)
	h.undelete(Undeletion{Key: "master", Version: 1})
	id := h.rotate("master")
	h.until(id, rotation.Soaking)
	_, err := h.engine.Revert(t.Context(), id, testActor, "")
	h.ok(err)
	h.until(id, rotation.Reverted)
	h.expectVersions("master", "undeleted, current, retained")
	if got := h.accepted("api", "api-1", "master"); !slices.Equal(got, []int{2, 1}) {
		t.Errorf("accepted are %v", got)
	}
	id = h.rotate("master")
	h.until(id, rotation.Accepting)
	_, err = h.engine.Revert(t.Context(), id, testActor, "")
	h.ok(err)
	h.until(id, rotation.Reverted)
	h.expectVersions("master", "undeleted, current, retained, aborted")
}

// A compromised login is never retained; the value of a compromised key that protects rows is, unless it is said otherwise.
func TestCompromisedIsNotRetained(t *testing.T) {
	h := newHarness(t)
	h.login()
	view, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"db"}, By: testActor, Compromised: true})
	h.ok(err)
	h.until(view.ID, rotation.Done)
	h.expectVersions("db", "retained, destroyed, current")

	h = newHarness(t)
	h.rows()
	h.retains("master", time.Hour)
	for _, retain := range []*time.Duration{nil, new(time.Duration)} {
		view, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"master"}, By: testActor, Compromised: true, Retain: retain})
		h.ok(err)
		h.until(view.ID, rotation.Done)
	}
	h.expectVersions("master", "retained, destroyed, current")
}

// What is retained is bounded: the oldest versions end first.
func TestRetainedIsBounded(t *testing.T) {
	h := newHarness(t)
	h.key("lonely", "token")
	h.retains("lonely", 10000*time.Hour)
	h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"lonely": {Presents: true, Verifies: true}}})
	for range key.MaxRetained + 5 {
		h.until(h.rotate("lonely"), rotation.Done)
	}
	h.later(61 * time.Minute)
	k, _ := h.engine.Key("lonely")
	if n := len(k.Retained()); n != key.MaxRetained || k.Retained()[0] != key.MaxRetained+5 {
		t.Errorf("%d versions are retained, the newest is %d", n, k.Retained()[0])
	}
}

// Erase is for what is retained alone.
func TestEraseVersion(t *testing.T) {
	h := retainedToken(t)
	h.refused(h.engine.EraseVersion(t.Context(), "service-token", 2, "", testActor), "version 2 is current")
	h.refused(h.engine.EraseVersion(t.Context(), "service-token", 7, "", testActor), "has no version 7; retained are: 1 (until")
	h.undelete(Undeletion{Key: "service-token", Version: 1})
	h.refused(h.engine.EraseVersion(t.Context(), "service-token", 1, "", testActor), "end that first")
	h.ok(h.engine.RetireVersion(t.Context(), "service-token", 1, false, "", testActor))
	h.ok(h.engine.EraseVersion(t.Context(), "service-token", 1, "no longer needed", testActor))
	h.expectVersions("service-token", "destroyed, current")
}
