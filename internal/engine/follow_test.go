// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// glance returns a glance at a rotation.
func (h *harness) glance(name string) View {
	h.t.Helper()
	view, err := h.engine.Glance(h.t.Context(), name)
	h.ok(err)
	return view
}

// A rotation is named by its id, by what the id begins with, by its key and as the newest one. A name that may be several is
// refused with all of them, and nothing is done to any.
func TestRotationsHaveNames(t *testing.T) {
	h := newHarness(t)
	if _, err := h.engine.View(t.Context(), Latest); !refused(err) || !strings.Contains(err.Error(), "no rotation yet") {
		t.Errorf("latest of none: %v", err)
	}
	h.hyvve()
	h.key("other", "token")
	h.workload(workload.Workload{Name: "web", Keys: map[string]workload.Role{"other": {Presents: true}}})
	if _, err := h.engine.View(t.Context(), "other"); !refused(err) || !strings.Contains(err.Error(), "rotate key=other") {
		t.Errorf("a key without rotations: %v", err)
	}
	first := h.rotate("service-token")
	h.until(first, rotation.Done)
	h.clock.advance(time.Hour)
	second := h.rotate("service-token")
	h.clock.advance(time.Hour)
	third := h.rotate("other")
	h.until(third, rotation.Done)

	same := 0
	for same < len(first) && first[same] == second[same] {
		same++
	}
	for name, want := range map[string]string{
		first: first, second: second, Latest: third, "service-token": second, "other": third, second[:same+1]: second, first[:same+1]: first,
	} {
		if got := h.view(name).ID; got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
		if got := h.glance(name).ID; got != want {
			t.Errorf("a glance at %s is one at %s, want %s", name, got, want)
		}
	}
	for name, want := range map[string][]string{
		first[:same]: {"ambiguous", first, second}, "x": {"not known", `"latest"`},
	} {
		_, err := h.engine.Pause(t.Context(), name, testActor, "")
		for _, part := range want {
			if !refused(err) || !strings.Contains(err.Error(), part) {
				t.Errorf("pausing %s: %v, want %q", name, err, part)
			}
		}
	}
	if h.view(second).Paused != nil {
		t.Error("a refused name has paused a rotation")
	}
	paused, err := h.engine.Pause(t.Context(), "service-token", testActor, "by its key")
	if err != nil || paused.ID != second || paused.Paused == nil {
		t.Errorf("%+v, %v", paused.Rotation, err)
	}
}

// A follower gets the rotation as it is when its revision is no longer the known one. It hears of each event and pause at
// once, of gates after a second, and of times that go by not at all.
func TestFollowedRotation(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	id := h.rotate("service-token")
	h.clock.advance(2 * shownEvery)
	h.engine.Tick(t.Context())
	known := h.glance(id)
	heard := func() bool {
		select {
		case <-known.Changed:
			return true
		default:
			return false
		}
	}
	if heard() || known.Waits() == "" {
		t.Fatalf("%d: %s", known.Revision, known.Waits())
	}
	before := known.Waits()
	h.clock.advance(5 * time.Second)
	h.engine.Tick(t.Context())
	if now := h.view(id).Waits(); now == before || heard() {
		t.Errorf("times go by (%q, %q), and the follower was woken: %v", before, now, heard())
	}
	if view, err := h.engine.Follow(t.Context(), id, new(known.Revision-1), time.Hour); err != nil || view.Revision != known.Revision {
		t.Errorf("an older revision: %d, %v", view.Revision, err)
	}
	h.read(h.readers["api/api-1"])
	h.engine.Tick(t.Context())
	if !heard() {
		t.Fatal("an instance has loaded its bundle, and the follower was not woken")
	}
	known = h.glance(id)
	h.read(h.readers["api/api-2"])
	_, err := h.engine.Pause(t.Context(), id, testActor, "")
	h.ok(err)
	if !heard() {
		t.Error("a pause was not heard at once")
	}
	known = h.glance(id)
	if known.Gates[0].Name != "paused" || known.Outcome() != rotation.OutcomePaused || known.Instances != nil {
		t.Errorf("%+v", known.Gates)
	}
	h.open()
	if again := h.glance(id); again.Revision == known.Revision || again.Gates[0].Name != "paused" {
		t.Errorf("the engine was opened again: %+v", again.Gates)
	}
	h.engine.Tick(t.Context())
	_, err = h.engine.Resume(t.Context(), id, testActor, "")
	h.ok(err)
	known = h.glance(id)
	h.until(id, rotation.Done)
	if !heard() {
		t.Error("the end was not heard")
	}
	if view, err := h.engine.Follow(t.Context(), id, new(h.glance(id).Revision), time.Hour); err != nil || view.Outcome() != rotation.OutcomeDone {
		t.Errorf("a rotation that has ended: %s, %v", view.State, err)
	}
	h.engine.Close()
}

// A follower waits no longer than a watch does, and nobody longer than Vault lets others in.
func TestFollowerDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		h.hyvve()
		id := h.rotate("service-token")
		known := h.glance(id)
		begun := time.Now()
		view, err := h.engine.Follow(t.Context(), id, &known.Revision, time.Hour)
		if took := time.Since(begun); err != nil || view.Revision != known.Revision || took != fleet.LongestWatch {
			t.Errorf("%d after %s, %v", view.Revision, took, err)
		}
		done := make(chan bool)
		go func() {
			_, interrupted, _ := h.engine.AwaitEnd(t.Context(), id, time.Hour)
			done <- interrupted
		}()
		synctest.Wait()
		h.engine.waiters.EndAll()
		if !<-done {
			t.Error("it was not interrupted")
		}
		go func() {
			view, interrupted, _ := h.engine.AwaitEnd(t.Context(), id, time.Hour)
			done <- !interrupted && view.Paused != nil
		}()
		synctest.Wait()
		_, err = h.engine.Pause(t.Context(), id, testActor, "")
		h.ok(err)
		if !<-done {
			t.Error("a rotation that is paused is still waited for")
		}
		h.engine.Close()
	})
}

// fleetOf3000 is a rotation that 3000 instances take part in.
func fleetOf3000(t *testing.T) (h *harness, id string) {
	t.Helper()
	h = newHarness(t)
	h.key("one", "token")
	h.workload(workload.Workload{Name: "api", MaxInstances: 5000, MaxUnavailable: "25%", Keys: map[string]workload.Role{"one": {Verifies: true}}})
	c := h.engine.Config()
	c.LoginInstances = 0
	h.ok(h.engine.PutConfig(t.Context(), c, testActor))
	for n := range 3000 {
		h.joinWith("api", fmt.Sprintf("api-%04d", n), "login")
	}
	return h, h.rotate("one")
}

// While 3000 instances load a bundle and report, a follower is woken about once a second, and what it then costs does not grow with
// them: less than 1 % of a core in all.
func TestFollowerOf3000Instances(t *testing.T) {
	h, id := fleetOf3000(t)
	follow, known, woken := h.glance(id), h.glance(id).Revision, 0
	begun := h.clock.Now()
	for n := range 1000 { // 100 a second
		h.read(h.readers[fmt.Sprintf("api/api-%04d", n)])
		if n%10 == 9 {
			h.engine.Tick(t.Context())
		}
		h.clock.advance(10 * time.Millisecond)
		select {
		case <-follow.Changed:
			follow = h.glance(id)
			woken++
		default:
		}
	}
	took := h.clock.Now().Sub(begun)
	if most := int(took/shownEvery) + len(h.view(id).Timeline) + 1; woken > most || woken < int(took/shownEvery)/2 {
		t.Errorf("woken %d times in %s, want about %d", woken, took, most)
	}
	if h.glance(id).Revision == known {
		t.Error("the revision has not changed")
	}
	glance := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			h.glance(id)
		}
	})
	if part := glance.NsPerOp() * int64(woken) * 100 / took.Nanoseconds(); part >= 1 || glance.AllocedBytesPerOp() > 16<<10 {
		t.Errorf("a glance takes %s and %d bytes: %d %% of a core", time.Duration(glance.NsPerOp()), glance.AllocedBytesPerOp(), part)
	}
	t.Logf("a glance: %s, %d bytes, %.1f a second", time.Duration(glance.NsPerOp()), glance.AllocedBytesPerOp(), float64(woken)/took.Seconds())
}
