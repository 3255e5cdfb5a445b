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
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var errServer = errors.New("the server does not answer")

// fails lets the server refuse what is asked of it, or answer again.
func (h *harness) fails(call string, err error) {
	h.server.mu.Lock()
	defer h.server.mu.Unlock()
	h.server.fail[call] = err
}

// A server that fails after it was looked at holds up its own keys alone: they continue in a rotation of their own, which ends when the
// server is back.
func TestKeysThatFailContinueAlone(t *testing.T) {
	for call, c := range map[string]struct {
		revert bool
		ends   rotation.State
		where  rotation.State
		old    string
	}{
		"preflight": {false, rotation.Done, rotation.Accepting, "destroyed, current"},
		"stage":     {false, rotation.Done, rotation.Accepting, "destroyed, current"},
		"verify":    {false, rotation.Done, rotation.Accepting, "destroyed, current"},
		"in-use":    {false, rotation.Done, rotation.Soaking, "destroyed, current"},
		"retire":    {false, rotation.Done, rotation.Retiring, "destroyed, current"},
		"unstage":   {true, rotation.Reverted, rotation.Reverting, "current, aborted"},
	} {
		h := newHarness(t)
		h.platform()
		h.fails(call, errServer)
		view, _ := h.all(breakGlass())
		if c.revert {
			h.until(view.ID, rotation.Presenting)
			_, err := h.engine.Revert(t.Context(), view.ID, ann, "")
			h.ok(err)
		}
		ended := h.until(view.ID, c.ends)
		if want := []string{"master", "service-token"}; !slices.Equal(ended.KeyNames(), want) || ended.WasCut() {
			t.Errorf("%s: %v have ended: %s", call, ended.KeyNames(), ended.CutText())
		}
		with := ended.Whole.With
		if len(with) != 1 || !strings.Contains(with[0].Text, "of DB, does not hold up the others any longer: the server does not answer") {
			t.Fatalf("%s: with %+v", call, with)
		}
		alone := h.view("db")
		if alone.ID != with[0].ID || alone.PartOf != view.ID || alone.State != c.where || !alone.Compromised || !strings.Contains(alone.Waits(), errServer.Error()) || !slices.Equal(alone.KeyNames(), []string{"db"}) {
			t.Errorf("%s: alone is %+v", call, alone.Rotation)
		}
		if !strings.Contains(alone.Timeline[0].Text, "was part of rotation "+view.ID) || !strings.Contains(h.lastEvents(ended), "DB continues alone, in rotation "+alone.ID) {
			t.Errorf("%s: %q, %s", call, alone.Timeline[0].Text, h.lastEvents(ended))
		}
		h.fails(call, nil)
		h.until(alone.ID, c.ends)
		h.expectVersions("db", c.old)
		for _, id := range []string{view.ID, alone.ID} {
			checkJournal(t, h, h.view(id))
		}
	}
}

// lastEvents joins the texts of a timeline.
func (h *harness) lastEvents(v View) string {
	var all []string
	for _, e := range v.Timeline {
		all = append(all, e.Text)
	}
	return strings.Join(all, "\n")
}

// A server that does not answer in time is not asked a second time before its keys continue alone.
func TestKeysOfASilentServerContinueAlone(t *testing.T) {
	h := newHarness(t)
	h.platform()
	view, _ := h.all(breakGlass())
	l, release := h.engine.acquire()
	defer release()
	r := l.active[view.ID]
	slow, quick := keyFault{"db", true, errServer}, keyFault{"db", false, errServer}
	if names := l.parting(r, rotation.ActStage, slow, false); !slices.Equal(names, []string{"db"}) {
		t.Errorf("%v continue alone", names)
	}
	if names := l.parting(r, rotation.ActStage, quick, false); names != nil {
		t.Errorf("%v continue alone after one fault", names)
	}
	if names := l.parting(r, rotation.ActStage, keyFault{"db", true, inUse{"sessions"}}, true); names != nil {
		t.Errorf("%v continue alone since they are in use", names)
	}
	paused := r
	paused.Paused = &rotation.Pause{}
	if names := l.parting(paused, rotation.ActStage, slow, true); names != nil {
		t.Errorf("%v leave a rotation that is paused", names)
	}
}

// Keys that somebody rotates together are presented together: no instance has one of them as new and another as old. At the end, where
// that is done, none holds up the others.
func TestKeysStayTogether(t *testing.T) {
	for _, compromised := range []bool{false, true} {
		h := newHarness(t)
		h.platform()
		h.fails("stage", errServer)
		view, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"db", "service-token"}, Compromised: compromised, By: ann, Trigger: rotation.ByOperator})
		h.ok(err)
		for range 60 {
			h.round()
			h.clock.advance(time.Second)
		}
		if now := h.view(view.ID); len(now.Changes) != 2 || now.Attempts < 2 {
			t.Errorf("compromised %v: %v after %d attempts", compromised, now.KeyNames(), now.Attempts)
		}
		h.fails("stage", nil)
		h.fails("retire", errServer)
		if done := h.until(view.ID, rotation.Done); !slices.Equal(done.KeyNames(), []string{"service-token"}) || h.view("db").State != rotation.Retiring {
			t.Errorf("compromised %v: %v are done", compromised, done.KeyNames())
		}
		h.fails("retire", nil)
		h.until(h.view("db").ID, rotation.Done)
	}
}

// Keys of a connection that fails leave together, and so do those that share a login with one of them at another connection.
func TestSharersContinueTogether(t *testing.T) {
	h, login := connected(t)
	h.kinds = kind.List{named{login}}
	h.open()
	h.ok(h.put("main", "127.0.0.1:1"))
	h.ok(h.put("again", "127.0.0.1:1"))
	h.ok(h.put("elsewhere", "127.0.0.1:2"))
	roles := map[string]workload.Role{}
	for _, k := range [][3]string{{"one", "main", "app:1"}, {"two", "again", "app:1"}, {"three", "elsewhere", "app:1"}, {"four", "main", "other:1"}} {
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: k[0], Kind: "login", Options: kind.Options{"connection": k[1]}}, testActor)
		h.ok(err)
		_, _, err = h.engine.First(t.Context(), k[0], key.NewValue(k[2]), testActor)
		h.ok(err)
		roles[k[0]] = workload.Role{Presents: true}
	}
	h.workload(workload.Workload{Name: "api", Keys: roles})
	id := h.rotate("one", "two", "three", "four")
	l, release := h.engine.acquire()
	defer release()
	r := l.active[id]
	r.All = true
	r.State, r.Step = rotation.Accepting, rotation.StepStage
	for name, want := range map[string]string{"one": "four one two", "two": "one two", "four": "four one two", "three": "three"} {
		if got := strings.Join(l.parting(r, rotation.ActStage, keyFault{name, true, errServer}, false), " "); got != want {
			t.Errorf("with %s leave %s, want %s", name, got, want)
		}
	}
}

// What follows a rotation follows the one of the keys that have left it as well.
func TestFollowersOfKeysThatContinueAlone(t *testing.T) {
	h := newHarness(t)
	h.platform()
	view, _ := h.all(breakGlass())
	h.fails("retire", errServer)
	_, _, err := h.engine.Escalate(t.Context(), view.ID, rotation.Escalation{Which: rotation.LeakedBoth, By: ann})
	h.ok(err)
	h.until(view.ID, rotation.Done)
	alone := h.view("db")
	if alone.Follow == nil || h.view(view.ID).Follow == nil || alone.Follow.ID == h.view(view.ID).Follow.ID {
		t.Fatalf("%+v and %+v follow", alone.Follow, h.view(view.ID).Follow)
	}
	h.fails("retire", nil)
	h.until(alone.ID, rotation.Done)
	for _, id := range []string{h.view(view.ID).Follow.ID, alone.Follow.ID} {
		h.round()
		h.until(id, rotation.Done)
	}
	for _, name := range []string{"db", "master", "service-token"} {
		h.expectVersions(name, "destroyed, destroyed, current")
	}
}

// Killed before or after any write while keys leave a rotation, all end, each in one of the two.
func TestCrashAtEveryWriteParts(t *testing.T) {
	atEveryWrite(t, 15, func(at int, after bool) bool {
		h := newHarness(t)
		h.platform()
		k, _ := h.engine.Key("db")
		leaked := k.Versions[0].Value
		h.fails("stage", errServer)
		view, _ := h.all(breakGlass())
		h.failAt(at, after)
		crashed := false
		for n := range 150 {
			crashed = h.reopened() || crashed
			tryRound(h)
			h.clock.advance(time.Second)
			if n == 20 {
				h.fails("stage", nil)
			}
			if len(h.records().active) == 0 {
				break
			}
		}
		h.settle()
		h.open()
		ids, err := h.engine.RotationIDs(t.Context())
		h.ok(err)
		rotated := map[string]int{}
		for _, id := range ids {
			ended := h.view(id)
			for _, name := range ended.KeyNames() {
				rotated[name]++
			}
			if ended.State != rotation.Done {
				t.Errorf("write %d (after %v): rotation %s of %v is %s: %s", at, after, id, ended.KeyNames(), ended.State, ended.Waits())
			}
			checkJournal(t, h, ended)
		}
		if len(ids) != 2 || len(rotated) != 3 || rotated["db"] != 1 || h.view("db").PartOf != view.ID {
			t.Errorf("write %d (after %v): %v rotate %v", at, after, ids, rotated)
		}
		if k, _ := h.engine.Key("db"); slices.ContainsFunc(k.Versions, func(v key.Version) bool { return v.State.Live() && v.Value.Equal(leaked) }) {
			t.Errorf("write %d (after %v): the leaked value is accepted", at, after)
		}
		return crashed
	})
}
