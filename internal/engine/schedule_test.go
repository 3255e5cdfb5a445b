// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func TestPoliciesThatAreRefused(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	for want, p := range map[string]key.Policy{
		"never comes":                      {Schedule: "0 0 30 2 *"},
		"is not a cron expression of five": {Schedule: "every sunday"},
		"use rotation_period for that":     {Schedule: "@every 5m"},
		"exclude each other":               {Schedule: "@daily", Period: time.Hour},
		"needs a rotation_schedule":        {Window: time.Hour},
		"rotation_window 1s is too short":  {Schedule: "@daily", Window: time.Second},
		"rotation_period 1s is too short":  {Period: time.Second},
		"rotation_period -1s is too short": {Period: -time.Second},
		"deadline -2s is negative":         {Deadline: -2 * time.Second},
		`on_failure "hope" is not known`:   {OnFailure: "hope"},
		`confirm "maybe" is not known`:     {Confirm: "maybe"},
	} {
		if err := catalog.CheckPolicy(p, now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", p, err, want)
		}
	}
	for _, p := range []key.Policy{{}, {Period: time.Minute}, {Schedule: "CRON_TZ=Europe/Berlin 0 3 * * SUN", Window: time.Hour}, {Schedule: "@monthly"}} {
		if err := catalog.CheckPolicy(p, now); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

// scheduled makes a key with a policy that a live instance uses.
func (h *harness) scheduled(name string, p key.Policy) {
	h.t.Helper()
	_, err := h.engine.PutKey(h.t.Context(), catalog.Definition{Name: name, Kind: "token", Policy: p}, testActor)
	h.ok(err)
	_, _, err = h.engine.First(h.t.Context(), name, key.Value{}, testActor)
	h.ok(err)
	h.workload(workload.Workload{Name: "load-" + name, Keys: map[string]workload.Role{name: {Presents: true, Verifies: true}}})
}

func (h *harness) rotations() int {
	ids, err := h.engine.RotationIDs(h.t.Context())
	h.ok(err)
	return len(ids)
}

func TestScheduleWithZoneAndWindow(t *testing.T) {
	h := newHarness(t) // 2026-11-23 03:00 UTC, which is 04:00 in Berlin
	h.scheduled("a", key.Policy{Schedule: "CRON_TZ=Europe/Berlin 30 5 * * *", Window: time.Hour})
	if due, want := h.engine.Status()[0].Due, time.Date(2026, 11, 23, 4, 30, 0, 0, time.UTC); due.Before(want) || due.After(want.Add(3*time.Minute)) {
		t.Errorf("due at %s, want %s or shortly after", due, want)
	}
	h.clock.advance(89 * time.Minute)
	h.engine.Tick(t.Context())
	if n := h.rotations(); n != 0 {
		t.Errorf("%d rotations before the time", n)
	}
	h.clock.advance(5 * time.Minute)
	h.engine.Tick(t.Context())
	if n := h.rotations(); n != 1 {
		t.Errorf("%d rotations in the window", n)
	}
}

// A time that was missed is made up for without a window, and waits for the next with one that has closed.
func TestMissedTimes(t *testing.T) {
	for window, want := range map[time.Duration]int{0: 1, time.Hour: 0, 4 * time.Hour: 1} {
		h := newHarness(t)
		h.scheduled("a", key.Policy{Schedule: "30 3 * * *", Window: window})
		h.clock.advance(3 * time.Hour) // Vault was away
		h.open()
		h.rounds(90)
		if n := h.rotations(); n != want {
			t.Errorf("window %s: %d rotations, want %d", window, n, want)
		}
		if s := h.engine.Status()[0]; want == 0 && s.Due.Day() != 24 {
			t.Errorf("window %s: due at %s, want tomorrow", window, s.Due)
		}
	}
}

// A policy makes up for no time before it was written, after a restart, too.
func TestPoliciesMakeUpForNothing(t *testing.T) {
	h := newHarness(t)
	h.scheduled("a", key.Policy{})
	h.scheduled("b", key.Policy{})
	h.clock.advance(100 * time.Hour)
	for name, p := range map[string]key.Policy{"a": {Period: time.Hour}, "b": {Schedule: "0 3 * * *"}} {
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: name, Kind: "token", Policy: p}, testActor)
		h.ok(err)
	}
	h.rounds(70)
	h.open()
	h.rounds(70)
	if n := h.rotations(); n != 0 {
		t.Fatalf("%d rotations for times before the policies were written", n)
	}
	for _, s := range h.engine.Status() {
		if !s.Due.After(h.clock.Now()) {
			t.Errorf("%s is due at %s", s.Key.Name, s.Due)
		}
	}
	h.clock.advance(time.Hour)
	h.rounds(70)
	if n := h.rotations(); n != 1 {
		t.Errorf("%d rotations after a period", n)
	}
}

// What came due while Vault was away is no storm, and each key rotates once.
func TestCatchUpIsSpread(t *testing.T) {
	h := newHarness(t)
	for n := range 60 {
		h.scheduled(fmt.Sprintf("k%02d", n), key.Policy{Period: time.Hour})
	}
	h.clock.advance(5 * time.Hour)
	h.open()
	most := 0
	for range 70 {
		before := h.rotations()
		h.engine.Tick(t.Context())
		most = max(most, h.rotations()-before)
		h.clock.advance(time.Second)
	}
	if n := h.rotations(); n != 60 || most > 8 {
		t.Errorf("%d rotations, %d of them in one second", n, most)
	}
}

func TestDisabledAutomation(t *testing.T) {
	h := newHarness(t)
	h.scheduled("a", key.Policy{Period: time.Minute, Disabled: true})
	h.clock.advance(time.Hour)
	h.rounds(70)
	if n := h.rotations(); n != 0 || !h.engine.Status()[0].Due.IsZero() {
		t.Errorf("%d rotations of what is disabled", n)
	}
}

// Idle keys cost no writes, however often the engine looks.
func TestIdleKeysWriteNothing(t *testing.T) {
	h := newHarness(t)
	for n := range 50 {
		h.scheduled(fmt.Sprintf("k%02d", n), key.Policy{Period: 1000 * time.Hour})
	}
	h.engine.Tick(t.Context())
	writes := h.store.writes
	for range 3600 {
		h.engine.Tick(t.Context())
		h.clock.advance(time.Second)
	}
	if n := h.store.writes - writes; n != 0 {
		t.Errorf("%d writes in an hour", n)
	}
}

// What fails again and again becomes an orphan, which status shows, and is still tried now and then.
func TestOrphans(t *testing.T) {
	h := newHarness(t)
	h.key("db", "server")
	h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"db": {Presents: true}}})
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "unused", Kind: "token", Policy: key.Policy{Period: time.Minute}}, testActor)
	h.ok(err)
	_, _, err = h.engine.First(t.Context(), "unused", key.Value{}, testActor)
	h.ok(err)
	h.server.fail["stage"] = errors.New("connection refused")
	h.rotate("db")
	for range 3600 {
		h.round()
		h.clock.advance(time.Second)
	}
	for _, s := range h.engine.Status() {
		if !s.Orphan {
			t.Errorf("%s is no orphan after an hour: %s", s.Key.Name, s.Waits)
		}
		if late := h.clock.Now().Sub(s.Owed); s.Key.Name == "unused" && (late < 50*time.Minute || s.Due.Before(h.clock.Now())) {
			t.Errorf("it is owed since %s, and tried at %s", s.Owed, s.Due)
		}
	}
	if n := len(h.server.calls); n < schedule.OrphanAfter || n > 2*schedule.OrphanAfter {
		t.Errorf("the server was called %d times in an hour", n)
	}
	h.server.fail["stage"] = nil
	h.clock.advance(schedule.OrphanRetry)
	h.rounds(120)
	for _, s := range h.engine.Status() {
		if s.Key.Name == "db" && (s.Orphan || s.Rotation != nil) {
			t.Errorf("db is still an orphan: %s", s.Waits)
		}
	}
}
