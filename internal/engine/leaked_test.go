// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// stubborn is a server that does not retire some versions.
type stubborn struct {
	*forgetful
	keeps []int
}

func (s *stubborn) Retire(ctx context.Context, c kind.Change) error {
	if slices.Contains(s.keeps, c.From.Number) {
		return errors.New("no answer")
	}
	return s.server.Retire(ctx, c)
}

// leak starts a compromised rotation of a key of which versions 1 and 2 are undeleted, and which has version 3. It returns the
// values of the three.
func (h *harness) leak(first time.Duration) (id string, values []string) {
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
	return h.ask(Request{Keys: []string{"cache"}, Compromised: true}), values
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
