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
	short bool                         // there are logins that no sample sees
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
	if n := s.uses(from, s.clock.Now()); n > 0 || !s.short {
		return n, "a session", s.fail["in-use"]
	}
	return 0, "", kind.Unattributed{Logins: 1, At: "the server"}
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

// Logins that are too short to see whose they were make the window longer, and do not hold a rotation up forever.
func TestObserveLogins(t *testing.T) {
	h, s := newSampled(t, key.Policy{Observe: 5 * time.Second})
	s.short = true
	id := h.rotate("db")
	begun := h.clock.Now()
	h.until(id, rotation.Done)
	if took := h.clock.Now().Sub(begun); took < 30*time.Second || took > 40*time.Second {
		t.Errorf("took %s, want 30s and little more", took)
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
