// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// sampled is a server that can be sampled densely: for as long as the test's clock says.
type sampled struct {
	*server
	clock *clock
	taken []time.Duration
	uses  func(from, to time.Time) int // sessions that a sample between two moments sees
	short kind.Unattributed            // logins that no sample sees
}

func (*sampled) Name() string { return "sampled" }

func (s *sampled) InUse(context.Context, kind.Change) (int, string, error) {
	s.taken = append(s.taken, 0)
	return s.uses(s.clock.Now(), s.clock.Now()), "a session", s.fail["in-use"]
}

func (s *sampled) Sample(_ context.Context, _ kind.Change, d time.Duration) (int, string, error) {
	s.taken = append(s.taken, d)
	from := s.clock.Now()
	s.clock.advance(d)
	if n := s.uses(from, s.clock.Now()); n > 0 || s.short == (kind.Unattributed{}) {
		return n, "a session", s.fail["in-use"]
	}
	return 0, "", s.short
}

// newSampled returns a platform with one key whose server can be sampled.
func newSampled(t *testing.T, policy key.Policy) (*harness, *sampled) {
	h := newHarness(t)
	s := &sampled{server: h.server, clock: h.clock, uses: func(_, _ time.Time) int { return 0 }}
	h.kinds = kind.List{s}
	h.open()
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "db", Kind: "sampled", Policy: policy}, testActor)
	h.ok(err)
	_, _, err = h.engine.First(t.Context(), "db", key.Value{}, testActor)
	h.ok(err)
	h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"db": {Presents: true}}})
	return h, s
}

// Nobody was seen: the old version is retired after its window, the end of which was sampled densely.
func TestObserveForTheWindow(t *testing.T) {
	for _, policy := range []key.Policy{{Observe: 20 * time.Second}, {Soak: 20 * time.Second}, {Soak: 15 * time.Second, Observe: 20 * time.Second}, {Observe: 4 * time.Second}} {
		h, s := newSampled(t, policy)
		id := h.rotate("db")
		begun := h.clock.Now()
		h.until(id, rotation.Done)
		window := max(policy.Soak, policy.Observe)
		if took := h.clock.Now().Sub(begun); took < window || took > window+8*time.Second {
			t.Errorf("soak %s, observe %s: took %s", policy.Soak, policy.Observe, took)
		}
		dense := time.Duration(0)
		for _, d := range s.taken {
			dense += d
		}
		if want := min(window, rotation.DenseTime); dense < want || dense > want+3*time.Second {
			t.Errorf("soak %s, observe %s: sampled densely for %s, want %s: %v", policy.Soak, policy.Observe, dense, want, s.taken)
		}
	}
}

// A client that is there for a moment every five seconds starts the window again each time it is seen.
func TestObserveShortSessions(t *testing.T) {
	h, s := newSampled(t, key.Policy{Observe: 10 * time.Second})
	begun, leaves := h.clock.Now(), h.clock.Now().Add(90*time.Second)
	s.uses = func(from, to time.Time) int {
		next := from.Add(5*time.Second - from.Sub(begun)%(5*time.Second))
		if next.After(leaves) || next.After(to) {
			return 0
		}
		return 1
	}
	id := h.rotate("db")
	for h.clock.Now().Before(leaves) {
		h.round()
		h.clock.advance(500 * time.Millisecond)
		if view := h.view(id); view.State == rotation.Done || view.State == rotation.Retiring {
			t.Fatalf("after %s the rotation is %s", h.clock.Now().Sub(begun), view.State)
		}
	}
	if waits := h.view(id).Waits(); !strings.Contains(waits, "version 1 is in use: a session") {
		t.Errorf("it waits for: %s", waits)
	}
	h.until(id, rotation.Done)
}

// Logins that are too short to see whose they were, or that a server does not count, make the window longer by a minute at most.
// The status says so, and the rotation is not held up forever.
func TestObserveLogins(t *testing.T) {
	uncounted := kind.Unattributed{At: "the server", Uncounted: "it never does"}
	for name, test := range map[string]struct {
		observe time.Duration
		short   kind.Unattributed
		took    time.Duration
		waits   string
	}{
		"a short window":     {5 * time.Second, kind.Unattributed{Logins: 1, At: "the server"}, 30 * time.Second, "left of 30s, which is longer since 1 logins at the server were too short"},
		"a long one":         {5 * time.Minute, kind.Unattributed{Logins: 1, At: "the server"}, 350 * time.Second, "left of 1m of dense samples, which is longer since 1 logins"},
		"logins not counted": {5 * time.Second, uncounted, 30 * time.Second, "left of 30s, which is longer since short logins at the server cannot be counted: it never does"},
		"in a long window":   {8 * time.Minute, uncounted, 530 * time.Second, "left of 1m of dense samples, which is longer since short logins"},
		"up to a minute":     {20 * time.Second, uncounted, time.Minute, "left of 1m, which is longer"},
	} {
		t.Run(name, func(t *testing.T) {
			h, s := newSampled(t, key.Policy{Observe: test.observe})
			s.short = test.short
			id := h.rotate("db")
			begun := h.clock.Now()
			said := false
			s.uses = func(_, _ time.Time) int {
				said = said || strings.Contains(h.view(id).Waits(), test.waits)
				return 0
			}
			for h.view(id).State != rotation.Done && h.clock.Now().Sub(begun) < time.Hour {
				h.round()
				h.clock.advance(time.Second)
			}
			if took := h.clock.Now().Sub(begun); took < test.took || took > test.took+12*time.Second {
				t.Errorf("took %s, want %s and little more", took, test.took)
			}
			if !said {
				t.Errorf("the status never said: %s", test.waits)
			}
		})
	}
}

// A restart forgets what was seen, so that the window starts again.
func TestObserveAgainAfterARestart(t *testing.T) {
	h, _ := newSampled(t, key.Policy{Observe: 30 * time.Second})
	id := h.rotate("db")
	for range 20 {
		h.round()
		h.clock.advance(time.Second)
	}
	h.open()
	for range 20 {
		h.round()
		h.clock.advance(time.Second)
	}
	if view := h.view(id); view.Step != rotation.StepUnused || !strings.Contains(view.Waits(), "left of 30s") {
		t.Errorf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	h.until(id, rotation.Done)
}

// A confirmation that takes hours does not retire on evidence of hours ago, nor is the server sampled densely all the while.
func TestObserveAfterTheConfirmation(t *testing.T) {
	h, s := newSampled(t, key.Policy{Observe: 10 * time.Second, Confirm: rotation.ConfirmManual})
	id := h.rotate("db")
	h.until(id, rotation.Soaking)
	for range 200 {
		h.round()
		h.clock.advance(time.Second)
	}
	for _, d := range s.taken {
		if d > 0 {
			t.Fatalf("dense samples while it waits for the confirmation: %v", s.taken)
		}
	}
	s.taken = nil
	_, err := h.engine.Confirm(t.Context(), id, testActor, "")
	h.ok(err)
	s.uses = func(from, to time.Time) int {
		if to.After(from) {
			return 1 // only a dense sample sees it
		}
		return 0
	}
	for range 100 {
		h.round()
		h.clock.advance(time.Second)
	}
	if view := h.view(id); view.State != rotation.Soaking {
		t.Fatalf("%s: %v", view.State, s.taken)
	}
	s.uses = func(_, _ time.Time) int { return 0 }
	h.until(id, rotation.Done)
}

// A server that cannot be asked holds the old version back, and so does one that was away meanwhile.
func TestObserveAServerThatIsAway(t *testing.T) {
	h, s := newSampled(t, key.Policy{Observe: 5 * time.Second})
	s.fail["in-use"] = errors.New("connection refused")
	id := h.rotate("db")
	for range 30 {
		h.round()
		h.clock.advance(time.Second)
	}
	if view := h.view(id); view.State != rotation.Soaking || !strings.Contains(view.Waits(), "connection refused") {
		t.Fatalf("%s: %s", view.State, view.Waits())
	}
	delete(s.fail, "in-use")
	mended := h.clock.Now()
	h.until(id, rotation.Done)
	if took := h.clock.Now().Sub(mended); took < 5*time.Second {
		t.Errorf("retired %s after the server was back", took)
	}
}

// A compromised key does not wait for a window.
func TestObserveCompromised(t *testing.T) {
	h, s := newSampled(t, key.Policy{Observe: time.Hour})
	view, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"db"}, By: testActor, Compromised: true})
	h.ok(err)
	h.until(view.ID, rotation.Done)
	for _, d := range s.taken {
		if d > 0 {
			t.Errorf("samples are %v", s.taken)
		}
	}
}
