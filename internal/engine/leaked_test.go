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

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// stubborn is a server that does not retire some versions.
type stubborn struct {
	*forgetful
	keeps    []int
	onRetire func() // once, while it retires
}

func (s *stubborn) Retire(ctx context.Context, c kind.Change) error {
	if slices.Contains(s.keeps, c.From.Number) {
		return errors.New("no answer")
	}
	if do := s.onRetire; do != nil {
		s.onRetire = nil
		do()
	}
	return s.server.Retire(ctx, c)
}

// leak starts a compromised rotation of a key of which versions 1 and 2 are undeleted, and which has version 3. It returns the
// values of the three.
func (h *harness) leak(first time.Duration) (id string, values []string) {
	h.t.Helper()
	values = h.undeleteTwo(first)
	return h.ask(Request{Keys: []string{"cache"}, Compromised: true}), values
}

// undeleteTwo undeletes versions 1 and 2 of a key that has version 3. It returns the values of the three.
func (h *harness) undeleteTwo(first time.Duration) (values []string) {
	h.t.Helper()
	h.retains("cache", 10*time.Hour)
	h.until(h.rotate("cache"), rotation.Done)
	h.until(h.rotate("cache"), rotation.Done)
	h.undelete(Undeletion{Key: "cache", Version: 1, For: first})
	h.undelete(Undeletion{Key: "cache", Version: 2, For: 9 * time.Hour})
	k, _ := h.engine.Key("cache")
	for _, v := range k.Versions {
		values = append(values, v.Value.Reveal())
	}
	return values
}

func newStubborn(t *testing.T) (*harness, *stubborn) {
	t.Helper()
	h, f := newForgetful(t)
	s := &stubborn{forgetful: f}
	h.kinds = kind.List{s}
	h.open()
	return h, s
}

// What a compromised rotation has ended at the server stays so while it fails to end another version: no check makes it valid
// again, nor does an operator.
func TestLeakedLoginStaysEnded(t *testing.T) {
	h, s := newStubborn(t)
	id, values := h.leak(9 * time.Hour)
	s.keeps = []int{1}
	h.reach(id, rotation.Retiring, rotation.StepRetire)
	for s.valid[values[1]] {
		h.round()
	}
	stays := func(when string) {
		t.Helper()
		if s.valid[values[1]] {
			t.Fatalf("%s: the leaked login of version 2 is valid again", when)
		}
	}
	for range 200 {
		h.clock.advance(3 * time.Second)
		h.round()
		stays("while the rotation tries again")
	}
	_, err := h.engine.Reconcile(t.Context(), "cache", false, testActor)
	h.ok(err)
	stays("after reconcile")
	h.refusedUndelete("cache", 2, id)
	_, err = h.engine.Revert(t.Context(), id, testActor, "")
	h.refused(err, "there is no way back any more")
	h.open()
	for range 200 {
		h.clock.advance(3 * time.Second)
		h.round()
		stays("after a restart")
	}
	if got := h.problemsOf("cache"); got != "" || h.view(id).Fault == "" {
		t.Errorf("problems are %q, the rotation's fault is %q", got, h.view(id).Fault)
	}
	s.keeps = nil
	h.later(90 * time.Minute)
	h.until(id, rotation.Done)
	h.expectVersions("cache", "destroyed, destroyed, destroyed, current")
	if len(s.valid) != 1 {
		t.Errorf("%d logins are valid at the end", len(s.valid))
	}
}

// refusedUndelete wants an undeletion refused because of a rotation.
func (h *harness) refusedUndelete(name string, number int, id string) {
	h.t.Helper()
	_, _, err := h.engine.Undelete(h.t.Context(), Undeletion{Key: name, Version: number, By: testActor})
	h.refused(err, id)
}

// Killed at any write, with a server that fails from then on, a compromised rotation has ended its leaked logins for good: a
// crash between the server and the record brings none back.
func TestCrashAtEveryWriteKeepsLeakedLoginsEnded(t *testing.T) {
	for _, after := range []bool{false, true} {
		for at, gone := 1, 0; ; at++ {
			crashed, ended := crashOfLeaked(t, at, after)
			if ended {
				gone++
			}
			if !crashed {
				if at < 10 || gone < 2 {
					t.Errorf("%d writes were tried, and the logins were ended before %d of them", at, gone)
				}
				break
			}
		}
	}
}

func crashOfLeaked(t *testing.T, at int, after bool) (crashed, ended bool) {
	t.Helper()
	h, s := newStubborn(t)
	id, values := h.leak(9 * time.Hour)
	h.failAt(at, after)
	for range 60 {
		if crashed = h.reopened(); crashed {
			break
		}
		tryRound(h)
		h.clock.advance(time.Second)
	}
	ended = !s.valid[values[0]]
	s.fail["retire"] = errors.New("no answer")
	for range 20 {
		h.clock.advance(time.Minute)
		h.round()
		if ended && s.valid[values[0]] {
			t.Fatalf("crash at write %d (after %v): the leaked login is valid again", at, after)
		}
	}
	delete(s.fail, "retire")
	h.later(20 * time.Minute)
	h.until(id, rotation.Done)
	h.expectVersions("cache", "destroyed, destroyed, destroyed, current")
	if len(s.valid) != 1 {
		t.Errorf("crash at write %d (after %v): %d logins are valid at the end", at, after, len(s.valid))
	}
	return crashed, ended
}

// While a compromised rotation cannot end its old version, undeleted ones end by themselves, or when an operator ends them. Their
// values are erased then, too.
func TestLeakedLoginEndsBeforeItsRotation(t *testing.T) {
	h, s := newStubborn(t)
	id, values := h.leak(9 * time.Hour)
	s.keeps = []int{3, 2}
	h.reach(id, rotation.Retiring, rotation.StepRetire)
	h.later(20 * time.Minute)
	h.expectVersions("cache", "destroyed, undeleted, previous, current")
	if got := h.engine.Status()[0].Lapse; !strings.Contains(got, "version 2: no answer") {
		t.Errorf("status says %q", got)
	}
	end := func() error { return h.engine.RetireVersion(t.Context(), "cache", 2, true, "leaked", testActor) }
	h.refused(end(), "version 2 is still undeleted: no answer; when that is mended, do the same again")
	s.keeps = []int{3}
	h.ok(end())
	h.expectVersions("cache", "destroyed, destroyed, previous, current")
	for _, text := range []string{
		"retiring version 2 of cache, which is undeleted, with its sessions: rotation " + id + " is of a compromised key",
		"retired version 2 of cache, which was undeleted, with its sessions at the server, and erased it: rotation " + id + " is of a compromised key",
	} {
		if !h.journalHas(text) {
			t.Errorf("the journal does not say: %s", text)
		}
	}
	if last := h.last(); last.By != testActor.Name || last.Reason != "leaked" {
		t.Errorf("the last entry is %+v", last)
	}
	if s.valid[values[0]] || s.valid[values[1]] || !s.valid[values[2]] {
		t.Errorf("valid are %v", s.valid)
	}
	s.keeps = nil
	h.later(90 * time.Minute)
	h.until(id, rotation.Done)
	h.expectVersions("cache", "destroyed, destroyed, destroyed, current")
	if len(s.valid) != 1 {
		t.Errorf("valid are %v", s.valid)
	}
}

// From the step on from which a compromised rotation cannot be reverted, an undeleted login ends with its sessions, also where
// an operator ends it without force, or its time is over, before the rotation is at its server.
func TestLeakedLoginEndsWithItsSessions(t *testing.T) {
	for _, c := range []struct {
		name  string
		lasts time.Duration
		inUse int
		end   func(*harness) error
	}{
		{"retired", 5 * time.Hour, 0, func(h *harness) error {
			return h.engine.RetireVersion(t.Context(), "db", 1, false, "", testActor)
		}},
		{"retired in use", 5 * time.Hour, 1, func(h *harness) error {
			return h.engine.RetireVersion(t.Context(), "db", 1, false, "", testActor)
		}},
		{"over", time.Minute, 0, func(h *harness) error {
			h.rounds(60)
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHarness(t)
			h.login()
			h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"db": {Presents: true, Verifies: true}}})
			h.undelete(Undeletion{Key: "db", Version: 1, For: c.lasts})
			id := h.ask(Request{Keys: []string{"db"}, Compromised: true, Confirm: rotation.ConfirmManual})
			h.until(id, rotation.Soaking)
			h.rounds(10)
			h.readers["api/api-1"].deaf = true // it drops no old version
			h.confirmed(id)
			h.server.inUse = c.inUse
			h.ok(c.end(h))
			if view := h.view(id); view.Step != rotation.StepLoad {
				t.Fatalf("the rotation is at %s %s", view.State, view.Step)
			}
			h.expectVersions("db", "destroyed, previous, current")
			h.expectCut(id, "db", 1)
		})
	}
}

// confirmed confirms a rotation, and goes round until it retires.
func (h *harness) confirmed(id string) {
	h.t.Helper()
	_, err := h.engine.Confirm(h.t.Context(), id, testActor, "")
	h.ok(err)
	h.until(id, rotation.Retiring)
}

// expectCut wants an undeleted login of a compromised key ended with its sessions, and the journal to say so before and after.
func (h *harness) expectCut(id, name string, number int) {
	h.t.Helper()
	if !h.server.cut {
		h.t.Error("its sessions were not ended")
	}
	for _, text := range []string{
		fmt.Sprintf("retiring version %d of %s, which is undeleted, with its sessions: rotation %s is of a compromised key", number, name, id),
		fmt.Sprintf("retired version %d of %s, which was undeleted, with its sessions at the server, and erased it: rotation %s is of a compromised key", number, name, id),
	} {
		if !h.journalHas(text) {
			h.t.Errorf("the journal does not say: %s", text)
		}
	}
}

// A compromised rotation that begins to retire while the end of an undeleted login is at the server has the sessions ended, too.
func TestLeakedLoginEndsWhileItsRotationBeginsToRetire(t *testing.T) {
	h, s := newStubborn(t)
	h.undeleteTwo(9 * time.Hour)
	id := h.ask(Request{Keys: []string{"cache"}, Compromised: true, Confirm: rotation.ConfirmManual})
	h.until(id, rotation.Soaking)
	h.rounds(10)
	s.onRetire = func() { h.confirmed(id) }
	h.ok(h.engine.RetireVersion(t.Context(), "cache", 1, false, "", testActor))
	h.expectVersions("cache", "destroyed, undeleted, previous, current")
	h.expectCut(id, "cache", 1)
	h.until(id, rotation.Done)
	h.expectVersions("cache", "destroyed, destroyed, destroyed, current")
}

// Where only the record of the old version's end was lost, its server is asked to end the leaked logins all the same, and none is
// stored as ended before.
func TestLeakedLoginsEndThoughTheOldVersionIsGone(t *testing.T) {
	h, s := newStubborn(t)
	id, values := h.leak(9 * time.Hour)
	s.keeps = []int{1, 2, 3}
	h.reach(id, rotation.Retiring, rotation.StepRetire)
	k, err := h.records().Keys["cache"].WithErased(3)
	h.ok(err)
	h.records().Keys["cache"] = k
	delete(s.valid, values[2])
	h.later(20 * time.Minute)
	h.expectVersions("cache", "undeleted, undeleted, destroyed, current")
	if view := h.view(id); view.Step != rotation.StepRetire || !strings.Contains(view.Fault, "no answer") {
		t.Errorf("the rotation is %s %s, its fault is %q", view.State, view.Step, view.Fault)
	}
	s.keeps = nil
	h.later(20 * time.Minute)
	h.until(id, rotation.Done)
	h.expectVersions("cache", "destroyed, destroyed, destroyed, current")
	if len(s.valid) != 1 {
		t.Errorf("%d logins are valid at the end", len(s.valid))
	}
}
