// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/tripwire"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// sidecar reads the bundle of an instance as a sidecar does.
func (h *harness) sidecar(workloadName, id string) Reading {
	h.t.Helper()
	r := h.readers[workloadName+"/"+id]
	reading, err := h.engine.Read(h.t.Context(), fleet.Reader{Workload: workloadName, Instance: id, Heartbeat: true, Token: fleet.Token{Accessor: r.login}}, time.Hour)
	h.ok(err)
	r.reading = reading
	h.report(r)
	return reading
}

// trips reports what a proxy of an instance has seen.
func (h *harness) trips(workloadName, id string, all ...workload.Trip) {
	h.t.Helper()
	r := h.readers[workloadName+"/"+id]
	_, err := h.engine.Report(h.t.Context(), Report{
		Workload: workloadName, Instance: id, Secret: r.reading.Secret, Etag: r.reading.Bundle.Holding.Etag, Healthy: true, Trips: all,
	})
	h.ok(err)
}

// trip is what a proxy says.
func (h *harness) trip(version, count int, from ...string) workload.Trip {
	now := h.engine.Now()
	return workload.Trip{Env: "SERVICE_TOKEN", Version: version, Run: "run", Count: count, First: now, Last: now, From: from}
}

func recognizes(t workload.Tripwire, value string) bool {
	return hmac.Equal([]byte(workload.TripDigest(t.Salt, sha256.Sum256([]byte(value)))), []byte(t.Digest))
}

func (h *harness) statusTrips(name string) string {
	h.t.Helper()
	for _, s := range h.engine.Status() {
		if s.Key.Name == name {
			return s.Trips
		}
	}
	h.t.Fatalf("no status of %s", name)
	return ""
}

// entriesOn returns the journal's entries that say something.
func (h *harness) entriesOn(text string) (all []string) {
	h.t.Helper()
	page, err := h.engine.journal.Page(h.t.Context(), journal.Query{Limit: 1000})
	h.ok(err)
	for _, n := range page.Entries {
		if strings.Contains(n.What, text) {
			all = append(all, n.What)
		}
	}
	return all
}

// A proxy gets digests of retired versions, which recognize their values and no others, with the first bundle that does not
// accept them, and none of what it accepts.
func TestTripwiresComeWithTheBundle(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	values := map[int]string{1: h.value("service-token", 1)}
	for n := 2; n <= 7; n++ {
		id := h.rotate("service-token")
		values[n] = h.value("service-token", n)
		h.until(id, rotation.Retiring)
		early := h.sidecar("api", "api-1")
		for _, w := range early.Bundle.Tripwires["SERVICE_TOKEN"] {
			for _, accepted := range early.Bundle.AcceptVersions["SERVICE_TOKEN"] {
				if w.Version == accepted {
					t.Errorf("version %d is accepted, and a tripwire", accepted)
				}
			}
		}
		h.until(id, rotation.Done)
	}
	wires := h.sidecar("api", "api-1").Bundle.Tripwires["SERVICE_TOKEN"]
	if len(wires) != tripwire.MaxHanded {
		t.Fatalf("%d tripwires", len(wires))
	}
	for n, w := range wires {
		if w.Version != 6-n || !recognizes(w, values[6-n]) || recognizes(w, values[7]) || recognizes(w, values[5-n]) {
			t.Errorf("tripwire %d is of version %d, and does not recognize its value alone", n, w.Version)
		}
	}
	if wires := h.sidecar("agents", "agents-1").Bundle.Tripwires; len(wires) != 0 {
		t.Errorf("a workload that only presents gets %d tripwires", len(wires))
	}
	if reading, err := h.engine.Read(t.Context(), fleet.Reader{Workload: "api", Instance: "by-hand"}, time.Hour); err != nil || reading.Bundle.Tripwires != nil {
		t.Errorf("a reader that is no sidecar gets tripwires: %v", err)
	}
	for path, data := range h.store.data {
		if strings.HasPrefix(path, pathTripwires) && (strings.Contains(string(data), values[6]) || strings.Contains(string(data), wires[0].Salt)) {
			t.Errorf("%s holds a value or a salt", path)
		}
	}
	h.clock.advance(31 * 24 * time.Hour)
	if wires := h.sidecar("api", "api-1").Bundle.Tripwires["SERVICE_TOKEN"]; len(wires) != 0 {
		t.Errorf("%d tripwires after their retention", len(wires))
	}
}

// The bundle that withdraws a version brings its tripwire, before the version's record says that it has ended.
func TestTripwireOfAVersionThatLeaves(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	one := h.value("service-token", 1)
	id := h.rotate("service-token")
	for {
		reading := h.sidecar("api", "api-1")
		accepts := fmt.Sprint(reading.Bundle.AcceptVersions["SERVICE_TOKEN"])
		wires := reading.Bundle.Tripwires["SERVICE_TOKEN"]
		if accepts == "[2]" {
			if len(wires) != 1 || wires[0].Version != 1 || !recognizes(wires[0], one) {
				t.Errorf("%s: tripwires %+v", h.states("service-token"), wires)
			}
			break
		}
		if len(wires) != 0 {
			t.Errorf("accepts %s: tripwires %+v", accepts, wires)
		}
		if h.view(id).Finished() {
			t.Fatal("the rotation has ended, and the instance was given nothing")
		}
		h.round()
		h.clock.advance(time.Second)
	}
	h.trips("api", "api-1", h.trip(1, 1, "10.0.0.7"))
	if h.statusTrips("service-token") == "" {
		t.Error("a version that leaves was presented, and is not counted")
	}
	h.until(id, rotation.Done)
	if h.statusTrips("service-token") == "" {
		t.Error("what was seen is lost at the end of the rotation")
	}
}

// What a proxy has seen is in the status until somebody acknowledges it, and in the journal once at first and then as it doubles.
func TestTripsAreShownAndJournaled(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.until(h.rotate("service-token"), rotation.Done)
	h.sidecar("api", "api-1")
	h.sidecar("api", "api-2")
	h.trips("api", "api-1", h.trip(1, 1, "10.0.0.7"))
	h.engine.Tick(t.Context())
	const text = "retired version 1 of SERVICE_TOKEN was presented "
	if all := h.entriesOn(text); len(all) != 1 || !strings.Contains(all[0], "once, last at 2026-") || !strings.Contains(all[0], " from 10.0.0.7 (seen by api/api-1): a forgotten job or an intruder") {
		t.Errorf("journal: %q", all)
	}
	for n := 2; n <= 100; n++ { // one a second, from two addresses
		h.clock.advance(time.Second)
		h.trips("api", "api-1", h.trip(1, n, "10.0.0.8", "10.0.0.7"))
		h.trips("api", "api-1", h.trip(1, n, "10.0.0.8", "10.0.0.7")) // once more, as after a lost answer
		h.engine.Tick(t.Context())
	}
	if all := h.entriesOn(text); len(all) != 2 {
		t.Errorf("journal: %q", all)
	}
	h.trips("api", "api-2", h.trip(1, 5, "10.0.0.9"))
	h.clock.advance(time.Minute)
	h.engine.Tick(t.Context())
	h.open() // what was seen is stored
	h.sidecar("api", "api-1")
	if got := h.statusTrips("service-token"); !strings.Contains(got, text+"105 times, last at") || !strings.Contains(got, "vault write -f hyvve/keys/service-token/acknowledge") {
		t.Errorf("status: %q", got)
	}
	trips := h.engine.Trips("service-token")
	if len(trips) != 1 || trips[0].Version != 1 || trips[0].Count != 105 || len(trips[0].Clients) != 3 || trips[0].Last.Sub(trips[0].First) < 99*time.Second {
		t.Errorf("%+v", trips)
	}
	h.trips("api", "api-1", h.trip(1, 100, "10.0.0.8")) // the same run has seen nothing more
	if got := h.engine.Trips("service-token")[0].Count; got != 105 {
		t.Errorf("counted twice: %d", got)
	}
	counts := func() (t Tripped) {
		for _, s := range h.engine.Status() {
			t = s.Tripped
		}
		return t
	}
	if got := counts(); got != (Tripped{105, 105}) {
		t.Errorf("%+v", got)
	}
	versions, err := h.engine.Acknowledge(t.Context(), "service-token", 0, "the nightly job", testActor)
	h.ok(err)
	if got := counts(); got != (Tripped{All: 105}) {
		t.Errorf("after it was acknowledged: %+v", got)
	}
	if got := h.statusTrips("service-token"); got != "" || fmt.Sprint(versions) != "[1]" || len(h.entriesOn("acknowledged: "+text)) != 1 {
		t.Errorf("after it was acknowledged (%v): %q", versions, got)
	}
	h.trips("api", "api-1", h.trip(1, 101, "10.0.0.8"))
	if got := h.statusTrips("service-token"); !strings.Contains(got, "106 times") {
		t.Errorf("presented again: %q", got)
	}
	if _, err := h.engine.Acknowledge(t.Context(), "service-token", 9, "", testActor); err == nil {
		t.Error("a version that is not there is acknowledged")
	}
	h.clock.advance(31 * 24 * time.Hour)
	if got := h.statusTrips("service-token"); got != "" {
		t.Errorf("after the retention: %q", got)
	}
}

// An instance is believed about retired versions of keys that its workload verifies, and within bounds.
func TestHostileTrips(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.key("other", "token")
	h.workload(workload.Workload{Name: "web", Keys: map[string]workload.Role{"other": {Verifies: true}}})
	h.join("web", "web-1")
	h.until(h.rotate("service-token", "other"), rotation.Done)
	for _, name := range []string{"api/api-1", "agents/agents-1", "web/web-1"} {
		w, id, _ := strings.Cut(name, "/")
		h.sidecar(w, id)
	}
	h.trips("agents", "agents-1", h.trip(1, 5, "10.0.0.1")) // presents the key, and verifies it nowhere
	h.trips("web", "web-1", h.trip(1, 5, "10.0.0.1"))       // has nothing to do with it
	for _, version := range []int{2, 3, 99} {               // current, or not there
		h.trips("api", "api-1", h.trip(version, 5, "10.0.0.1"))
	}
	if got := h.statusTrips("service-token"); got != "" {
		t.Errorf("believed: %q", got)
	}
	writes := func() int {
		h.store.mu.Lock()
		defer h.store.mu.Unlock()
		return h.store.writes
	}
	before := writes()
	for n := range 500 { // each from another run and address, in one second
		trip := h.trip(1, 1_000_000_000_000, fmt.Sprintf("10.0.%d.%d", n/250, n%250))
		trip.Run, trip.Last, trip.First = fmt.Sprint(n), h.engine.Now().Add(1000*time.Hour), time.Time{}
		h.trips("api", "api-1", trip)
		h.engine.Tick(t.Context())
	}
	if n := writes() - before; n > 5 {
		t.Errorf("%d writes of a flood", n)
	}
	trips := h.engine.Trips("service-token")
	if len(trips) != 1 || trips[0].Count != 1_000_000_000 || len(trips[0].Clients) > 8 || len(trips[0].Sources) > 32 || trips[0].Last.After(h.engine.Now()) || trips[0].First.IsZero() {
		t.Errorf("%+v", trips)
	}
	for range 120 {
		h.clock.advance(time.Second)
		h.trips("api", "api-1", h.trip(1, 1, "10.0.0.1"))
		h.engine.Tick(t.Context())
	}
	if all := h.entriesOn("was presented"); len(all) > 2 {
		t.Errorf("%d entries in the journal", len(all))
	}
	for path, data := range h.store.data {
		if strings.HasPrefix(path, pathTripwires) && len(data) > 16<<10 {
			t.Errorf("%s has %d bytes", path, len(data))
		}
	}
}

// A report in another form is refused: what it says is shown to operators.
func TestTripsAreChecked(t *testing.T) {
	good := workload.Trip{Env: "X", Version: 1, Run: "r1", Count: 1, From: []string{"10.0.0.7", "2001:db8::1"}}
	changed := func(change func(*workload.Trip)) []workload.Trip {
		bad := good
		change(&bad)
		return []workload.Trip{good, bad}
	}
	for name, all := range map[string][]workload.Trip{
		"too many":      make([]workload.Trip, untrusted.MaxTrips+1),
		"no name":       changed(func(t *workload.Trip) { t.Env = "" }),
		"long name":     changed(func(t *workload.Trip) { t.Env = strings.Repeat("X", 1000) }),
		"no version":    changed(func(t *workload.Trip) { t.Version = 0 }),
		"negative":      changed(func(t *workload.Trip) { t.Count = -1 }),
		"run with text": changed(func(t *workload.Trip) { t.Run = "a b" }),
		"long run":      changed(func(t *workload.Trip) { t.Run = strings.Repeat("a", 33) }),
		"no address":    changed(func(t *workload.Trip) { t.From = []string{"call 555"} }),
		"zone":          changed(func(t *workload.Trip) { t.From = []string{"fe80::1%call-555"} }),
		"many":          changed(func(t *workload.Trip) { t.From = make([]string, 5) }),
	} {
		if err := untrusted.CheckTrips(all); err == nil || !strings.Contains(err.Error(), "tripped: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := untrusted.CheckTrips([]workload.Trip{good}); err != nil {
		t.Error(err)
	}
}

// A damaged record is no reason to refuse the mount, and is made again when its key is stored.
func TestDamagedTripwires(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.store.data[pathTripwires+"service-token"] = []byte("{")
	h.open()
	for _, r := range h.readers {
		h.read(r)
	}
	h.until(h.rotate("service-token"), rotation.Done)
	if wires := h.sidecar("api", "api-1").Bundle.Tripwires["SERVICE_TOKEN"]; len(wires) != 1 || wires[0].Version != 1 {
		t.Errorf("%+v", wires)
	}
}

// An undeleted version is no tripwire; when it ends, it is one again.
func TestUndeletedVersionIsNoTripwire(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.retains("service-token", 24*time.Hour)
	h.until(h.rotate("service-token"), rotation.Done)
	wired := func() int { return len(h.sidecar("api", "api-1").Bundle.Tripwires["SERVICE_TOKEN"]) }
	if n := wired(); n != 1 {
		t.Fatalf("%d tripwires", n)
	}
	_, _, err := h.engine.Undelete(t.Context(), Undeletion{Key: "service-token", Version: 1, For: time.Hour, By: testActor})
	h.ok(err)
	if n := wired(); n != 0 {
		t.Errorf("%d tripwires of a version that is accepted", n)
	}
	h.trips("api", "api-1", h.trip(1, 1, "10.0.0.1"))
	if got := h.statusTrips("service-token"); got != "" {
		t.Errorf("an accepted version: %q", got)
	}
	h.ok(h.engine.RetireVersion(t.Context(), "service-token", 1, true, "", testActor))
	if n := wired(); n != 1 {
		t.Errorf("%d tripwires after the version was retired again", n)
	}
}

// With tripwire_retention=0s nothing is handed out, and nothing is counted; a key that was deleted leaves nothing to its successor.
func TestTripwiresAreSwitchedOffAndDeleted(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.until(h.rotate("service-token"), rotation.Done)
	c := h.engine.Config()
	c.Tripwires = 0
	h.ok(h.engine.PutConfig(t.Context(), c, testActor))
	if wires := h.sidecar("api", "api-1").Bundle.Tripwires; len(wires) != 0 {
		t.Errorf("%d tripwires", len(wires))
	}
	h.trips("api", "api-1", h.trip(1, 1, "10.0.0.1"))
	if got := h.statusTrips("service-token"); got != "" {
		t.Errorf("switched off: %q", got)
	}
	h.readers = map[string]*reader{}
	h.clock.advance(5 * time.Hour)
	h.rounds(3)
	for _, name := range []string{"agents", "api"} {
		h.ok(h.engine.DeleteWorkload(t.Context(), name, false, testActor))
	}
	h.ok(h.engine.DeleteKey(t.Context(), "service-token", testActor))
	for path := range h.store.data {
		if strings.HasPrefix(path, pathTripwires) {
			t.Errorf("%s is left", path)
		}
	}
}

// Killed at any write, what was seen is counted once when the proxy repeats it, and the journal has it.
func TestTripsSurviveACrashAtEveryWrite(t *testing.T) {
	atEveryWrite(t, 3, func(at int, after bool) bool {
		h := newHarness(t)
		h.hyvve()
		h.until(h.rotate("service-token"), rotation.Done)
		h.sidecar("api", "api-1")
		h.failAt(at, after)
		crashed := false
		for n := 1; n <= 130; n++ {
			if h.reopened() {
				crashed = true
				h.sidecar("api", "api-1")
			}
			r := h.readers["api/api-1"]
			_, _ = h.engine.Report(t.Context(), Report{Workload: "api", Instance: "api-1", Secret: r.reading.Secret, Etag: r.reading.Bundle.Holding.Etag, Healthy: true, Trips: []workload.Trip{h.trip(1, n, "10.0.0.7")}})
			h.engine.Tick(t.Context())
			h.clock.advance(time.Second)
		}
		h.reopened()
		h.sidecar("api", "api-1")
		h.trips("api", "api-1", h.trip(1, 130, "10.0.0.7"))
		h.engine.Tick(t.Context())
		if got := h.engine.Trips("service-token"); len(got) != 1 || got[0].Count != 130 {
			t.Errorf("crash at write %d (after %v): %+v", at, after, got)
		}
		if n := len(h.entriesOn("was presented")); n < 2 || n > 4 {
			t.Errorf("crash at write %d (after %v): %d entries", at, after, n)
		}
		h.expectWholeJournal(fmt.Sprintf("crash at write %d", at))
		return crashed
	})
}

// Killed at any write, a key that is deleted leaves no tripwires when that was done once more.
func TestDeletedTripwiresSurviveACrashAtEveryWrite(t *testing.T) {
	atEveryWrite(t, 3, func(at int, after bool) bool {
		h := newHarness(t)
		h.key("alone", "token")
		h.failAt(at, after)
		_ = h.engine.DeleteKey(t.Context(), "alone", testActor)
		crashed := h.reopened()
		h.ok(h.engine.DeleteKey(t.Context(), "alone", testActor))
		for path := range h.store.data {
			if strings.HasPrefix(path, pathTripwires) || strings.HasPrefix(path, pathKeys) {
				t.Errorf("crash at write %d (after %v): %s is left", at, after, path)
			}
		}
		return crashed
	})
}
