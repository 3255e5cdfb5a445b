// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// undeletedLogin is a login of which version 1 is undeleted, and a rotation that waits for its confirmation. It returns the
// value of version 1.
func (h *harness) undeletedLogin(long time.Duration, request Request) (id, value string) {
	h.t.Helper()
	h.login()
	k, _ := h.engine.Key("db")
	value = k.Versions[0].Sealed.Reveal()
	h.undelete(Undeletion{Key: "db", Version: 1, For: long})
	request.Keys, request.Confirm = []string{"db"}, rotation.ConfirmManual
	id = h.ask(request)
	h.until(id, rotation.Soaking)
	if !h.server.valid[value] {
		h.t.Fatal("the undeleted login is not valid")
	}
	return id, value
}

// An undeleted login is ended while a rotation of its key runs, and the rotation continues.
func TestRetireBesideARotation(t *testing.T) {
	h := newHarness(t)
	id, value := h.undeletedLogin(5*time.Hour, Request{})
	h.server.inUse = 1
	h.refused(h.engine.RetireVersion(t.Context(), "db", 1, false, "", testActor), "is still undeleted: DB: version 1 is in use: sessions")
	h.ok(h.engine.RetireVersion(t.Context(), "db", 1, true, "leaked", testActor))
	h.expectVersions("db", "retained, previous, current")
	if h.server.valid[value] || len(h.server.valid) != 2 {
		t.Errorf("%d logins are valid, the ended one among them: %v", len(h.server.valid), h.server.valid[value])
	}
	h.refused(h.engine.RetireVersion(t.Context(), "db", 2, true, "", testActor), "version 2 is previous, and not undeleted")
	h.server.inUse = 0
	_, err := h.engine.Confirm(t.Context(), id, testActor, "")
	h.ok(err)
	h.until(id, rotation.Done)
	h.expectVersions("db", "retained, retained, current")
}

// While a rotation changes something at the server, no undeleted login is ended there, and the other way round.
func TestRetireAndRotationTakeTurns(t *testing.T) {
	h := newHarness(t)
	h.login()
	h.undelete(Undeletion{Key: "db", Version: 1, For: time.Minute})
	id := h.rotate("db")
	if err := h.engine.RetireVersion(t.Context(), "db", 1, true, "", testActor); !Passing(err) {
		t.Errorf("while the rotation stages: %v", err)
	}
	h.clock.advance(2 * time.Minute)
	h.engine.Tick(t.Context())
	if n := len(h.calls); n != 1 {
		t.Errorf("%d calls are at the server", n)
	}
	h.settle()
	if s := h.engine.Status()[0]; s.Lapse != "" {
		t.Errorf("status says %q", s.Lapse)
	}
	h.until(id, rotation.Done)
	h.rounds(3)
	h.expectVersions("db", "retained, retained, current")
}

// A login whose time is over ends although a rotation waits for days.
func TestUndeletedVersionEndsBesideARotation(t *testing.T) {
	h := newHarness(t)
	id, value := h.undeletedLogin(2*time.Minute, Request{})
	h.later(5 * time.Minute)
	h.expectVersions("db", "retained, previous, current")
	if h.server.valid[value] || h.view(id).State != rotation.Soaking {
		t.Errorf("the login is valid: %v, the rotation %s", h.server.valid[value], h.view(id).State)
	}
}

// A compromised rotation ends undeleted logins with the one that it retires, not before it was confirmed, and retains none.
func TestCompromisedRotationEndsUndeletedLogins(t *testing.T) {
	h := newHarness(t)
	h.login()
	h.undelete(Undeletion{Key: "db", Version: 1, For: 5 * time.Hour})
	plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"db"}, By: testActor, Compromised: true})
	h.ok(err)
	if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, "version 1 is undeleted, and logs in until this rotation retires version 2: that ends it, too") {
		t.Errorf("the plan says %q", notes)
	}
	h.ok(h.engine.RetireVersion(t.Context(), "db", 1, true, "", testActor))
	h = newHarness(t)
	id, value := h.undeletedLogin(5*time.Hour, Request{Compromised: true})
	h.rounds(30)
	if !h.server.valid[value] {
		t.Error("it is ended before the rotation was confirmed")
	}
	_, err = h.engine.Confirm(t.Context(), id, testActor, "")
	h.ok(err)
	h.server.inUse = 1
	h.until(id, rotation.Done)
	h.expectVersions("db", "destroyed, destroyed, current")
	if len(h.server.valid) != 1 || h.server.valid[value] || !h.server.cut {
		t.Errorf("%d logins are valid at the end; sessions were ended: %v", len(h.server.valid), h.server.cut)
	}
	if !h.journalHas("retired version 1 of db, which was undeleted, with its sessions at the server, and erased it") {
		t.Error("the journal does not say so")
	}
}

// A rotation that is reverted, compromised or not, ends no undeleted login.
func TestRevertLeavesUndeletedLogins(t *testing.T) {
	h := newHarness(t)
	id, value := h.undeletedLogin(5*time.Hour, Request{Compromised: true})
	_, err := h.engine.Revert(t.Context(), id, testActor, "")
	h.ok(err)
	h.until(id, rotation.Reverted)
	h.expectVersions("db", "undeleted, current, aborted")
	if !h.server.valid[value] {
		t.Error("the login is not valid any more")
	}
}

// Killed at any write of a forced end, the login is not made valid again by a check: what was decided follows.
func TestCrashAtEveryWriteOfARetirement(t *testing.T) {
	for _, force := range []bool{false, true} {
		atEveryWrite(t, 5, func(at int, after bool) bool { return crashOfRetirement(t, at, after, force) })
	}
}

func crashOfRetirement(t *testing.T, at int, after, force bool) bool {
	t.Helper()
	h, f, old := undeletedCache(t, 9*time.Hour)
	h.failAt(at, after)
	_ = h.engine.RetireVersion(t.Context(), "cache", 1, force, "", testActor)
	gone := !f.valid[old]
	crashed := h.reopened()
	for range 4 {
		h.clock.advance(6 * time.Minute) // a check is due
		h.round()
		if gone && f.valid[old] {
			t.Fatalf("crash at write %d (after %v, force %v): a check makes the login valid again", at, after, force)
		}
	}
	if k, _ := h.engine.Key("cache"); k.Versions[0].State == key.Undeleted { // nothing of it was stored
		h.ok(h.engine.RetireVersion(t.Context(), "cache", 1, force, "", testActor))
	}
	if h.versions("cache") != "retained, current" || len(f.valid) != 1 {
		t.Errorf("crash at write %d (after %v, force %v): versions are %s, %d logins are valid", at, after, force, h.versions("cache"), len(f.valid))
	}
	h.expectWholeJournal(fmt.Sprintf("crash at write %d (after %v, force %v)", at, after, force))
	return crashed
}

// An end that the server does not carry out is tried again by itself, as it was asked for; undelete takes it back.
func TestRetireWhileTheServerIsDown(t *testing.T) {
	h := newHarness(t)
	h.login()
	k, _ := h.engine.Key("db")
	value := k.Versions[0].Sealed.Reveal()
	h.undelete(Undeletion{Key: "db", Version: 1, For: 5 * time.Hour})
	h.server.fail["retire"] = errors.New("no answer")
	h.server.inUse = 1
	h.refused(h.engine.RetireVersion(t.Context(), "db", 1, true, "", testActor), "its server has not ended it yet: no answer; that is tried again by itself; to let the version in again: vault write hyvve/keys/db/undelete version=1")
	if s := h.engine.Status()[0]; !strings.Contains(s.Lapse, "version 1: no answer") {
		t.Errorf("status says %q", s.Lapse)
	}
	_, _, err := h.engine.Undelete(t.Context(), Undeletion{Key: "db", Version: 2, By: testActor})
	h.refused(err, "undeleted are: 1 (until its server has ended it, which is under way)")
	h.undelete(Undeletion{Key: "db", Version: 1, For: 5 * time.Hour})
	delete(h.server.fail, "retire")
	h.later(20 * time.Minute)
	h.expectVersions("db", "undeleted, current")

	h.server.fail["retire"] = errors.New("no answer")
	h.refused(h.engine.RetireVersion(t.Context(), "db", 1, true, "", testActor), "no answer")
	h.open()
	delete(h.server.fail, "retire")
	h.later(2 * time.Minute)
	h.expectVersions("db", "retained, current")
	if h.server.valid[value] || !h.server.cut {
		t.Errorf("the login is valid: %v; its sessions were ended: %v", h.server.valid[value], h.server.cut)
	}
}

// crowded is a server that says which versions are in use.
type crowded struct {
	*server
	used []int
}

func (*crowded) Name() string { return "crowded" }

func (c *crowded) InUse(_ context.Context, change kind.Change) (int, string, error) {
	if slices.Contains(c.used, change.From.Number) {
		return 1, "a session", nil
	}
	return 0, "", nil
}

// Undeleted versions of one key end each by itself: one that is in use keeps no other.
func TestUndeletedVersionsEndEachByItself(t *testing.T) {
	h := newHarness(t)
	c := &crowded{server: h.server}
	h.kinds = kind.List{c}
	h.open()
	h.loginOf("crowded")
	h.until(h.rotate("db"), rotation.Done)
	h.until(h.rotate("db"), rotation.Done)
	for number := 1; number <= 3; number++ {
		h.undelete(Undeletion{Key: "db", Version: number, For: time.Minute})
	}
	c.used = []int{1, 3}
	for range 24 {
		h.clock.advance(5 * time.Second)
		h.round()
	}
	h.expectVersions("db", "undeleted, retained, undeleted, current")
	if s := h.engine.Status()[0]; !strings.Contains(s.Lapse, "version 3: DB: version 3 is in use: a session; version 1: DB: version 1 is in use: a session") {
		t.Errorf("status says %q", s.Lapse)
	}
}

// A rotation that retires an undeleted version shortens no retention, and what status said of the version is over.
func TestRotationKeepsWhatWasRetained(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.retains("service-token", 100*time.Hour)
	h.until(h.rotate("service-token"), rotation.Done)
	k, _ := h.engine.Key("service-token")
	end := k.Versions[0].Until
	h.undelete(Undeletion{Key: "service-token", Version: 1, For: time.Minute})
	for range 20 {
		h.clock.advance(5 * time.Second)
		h.sights(1)
		h.round()
	}
	if s := h.engine.Status()[0]; !strings.Contains(s.Lapse, "version 1: api: ") {
		t.Fatalf("status says %q", s.Lapse)
	}
	h.retains("service-token", 0)
	h.sights(1)
	h.until(h.rotate("service-token"), rotation.Done)
	h.expectVersions("service-token", "retained, destroyed, current")
	if k, _ = h.engine.Key("service-token"); !k.Versions[0].Until.Equal(end) {
		t.Errorf("version 1 is retained until %s, and had to be until %s", k.Versions[0].Until, end)
	}
	if s := h.engine.Status()[0]; s.Lapse != "" {
		t.Errorf("status still says %q", s.Lapse)
	}
}

// What a check restores is journaled: an undeleted login, and what had to be restored before and was mended by hand since.
func TestEveryRestoreIsJournaled(t *testing.T) {
	h, f, old := undeletedCache(t, 9*time.Hour)
	check := func(want uint64, when string) {
		t.Helper()
		before := h.engine.journal.End().Count
		h.clock.advance(6 * time.Minute)
		h.round()
		if n := h.engine.journal.End().Count - before; n != want {
			t.Errorf("%s: %d entries, want %d", when, n, want)
		}
	}
	check(0, "all is well")
	delete(f.valid, old)
	check(1, "the undeleted login is forgotten")
	if !f.valid[old] || !h.journalHas("restoring at the server: the login of version 1, which is undeleted until 20") {
		t.Error("the undeleted login is not restored, or the journal does not say so")
	}
	f.fail["undelete"] = errors.New("no room")
	delete(f.valid, old)
	check(1, "it is forgotten again, and cannot be restored")
	check(0, "it cannot be restored still")
	f.valid[old] = true
	check(0, "somebody has restored it")
	delete(f.valid, old)
	check(1, "it is forgotten once more")
	delete(f.fail, "undelete")
	check(0, "it is restored, as the journal says")

	current := h.currentOf("cache").Value.Reveal()
	f.partly = errors.New("node b has another user")
	delete(f.valid, current)
	check(1, "the current login is forgotten, and not restored everywhere")
	check(0, "somebody has restored it")
	delete(f.valid, current)
	check(1, "it is forgotten again")
}

// A server that has forgotten everything is given the undeleted login by the check that restores the current one.
func TestCheckOfAServerThatForgotAnUndeletedLogin(t *testing.T) {
	h, f, old := undeletedCache(t, 9*time.Hour)
	clear(f.valid)
	_, err := h.engine.Reconcile(t.Context(), "cache", false, testActor)
	h.ok(err)
	if len(f.valid) != 2 || !f.valid[old] {
		t.Errorf("%d logins are valid, the undeleted one among them: %v", len(f.valid), f.valid[old])
	}
}

// Killed at any write, a compromised rotation ends the undeleted login of its key, and retains neither version.
func TestCrashAtEveryWriteOfACompromisedRotation(t *testing.T) {
	atEveryWrite(t, 15, func(at int, after bool) bool {
		h := newHarness(t)
		h.login()
		h.undelete(Undeletion{Key: "db", Version: 1, For: 700 * time.Hour})
		h.failAt(at, after)
		rotated := false
		crashed := h.throughCrash(time.Minute, func() {
			if rotated {
				return
			}
			_, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"db"}, By: testActor, Compromised: true})
			ids, _ := h.engine.RotationIDs(t.Context())
			rotated = err == nil || len(ids) > 1
		})
		states := strings.ReplaceAll(h.versions("db"), "aborted, ", "") // a crash before the rotation was stored leaves one
		if n := len(h.server.valid); n != 1 || states != "destroyed, destroyed, current" {
			t.Errorf("crash at write %d (after %v): %d logins are valid, versions are %s", at, after, n, h.versions("db"))
		}
		h.expectWholeJournal(fmt.Sprintf("crash at write %d (after %v)", at, after))
		return crashed
	})
}
