// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// A rotation does not retire what a proxy has just seen presented, and continues once nobody presents it any more.
func TestSightingsHoldTheOldVersion(t *testing.T) {
	h := newHarness(t)
	h.key("agent-token", "token")
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"agent-token": {Verifies: true}}})
	h.workload(workload.Workload{Name: "agents", MinInstances: 1, Keys: map[string]workload.Role{"agent-token": {Presents: true}}})
	verifier := h.join("api", "api-1")
	h.join("agents", "agents-1")
	sees := func(version int, ago time.Duration) {
		t.Helper()
		_, err := h.engine.Report(t.Context(), Report{
			Workload: "api", Instance: "api-1", Secret: verifier.reading.Secret, Etag: verifier.reading.Bundle.Holding.Etag, Healthy: true,
			Sightings: []workload.Sighting{{Env: "AGENT_TOKEN", Version: version, Count: 1, Last: h.engine.Now().Add(-ago), From: "10.0.0.7"}},
		})
		h.ok(err)
	}
	id := h.rotate("agent-token")
	for n := 0; h.view(id).State != rotation.Soaking || h.view(id).Step != rotation.StepUnused; n++ {
		if n > 50 {
			t.Fatalf("%s %s: %s", h.view(id).State, h.view(id).Step, h.view(id).Waits())
		}
		sees(1, 0)
		h.round()
		h.clock.advance(time.Second)
	}
	for range 10 { // seen all the time, it is never retired
		sees(1, 3*time.Second)
		h.clock.advance(2 * time.Second)
		h.round()
		if view := h.view(id); view.Step != rotation.StepUnused || !strings.Contains(view.Waits(), "api: api-1 has seen version 1 of AGENT_TOKEN ") || !strings.Contains(view.Waits(), "ago, from 10.0.0.7") {
			t.Fatalf("%s %s: %q", view.State, view.Step, view.Waits())
		}
	}
	// What was seen is known also after a restart of the engine.
	h.open()
	if view := h.view(id); !strings.Contains(view.Waits(), "api-1 has seen version 1") {
		t.Errorf("after a restart: %q", view.Waits())
	}
	sees(2, 0) // another version does not matter
	h.clock.advance(rotation.SightingAge)
	h.until(id, rotation.Done)
}

func TestSightingsAreChecked(t *testing.T) {
	good := workload.Sighting{Env: "X", Version: 1, From: "10.0.0.7"}
	many := make([]workload.Sighting, untrusted.MaxSightings+1)
	for n := range many {
		many[n] = good
	}
	for name, all := range map[string][]workload.Sighting{
		"too many": many, "no name": {{Version: 1}}, "no version": {{Env: "X"}}, "long": {{Env: "X", Version: 1, From: strings.Repeat("x", 1000)}},
	} {
		if err := untrusted.CheckSightings(all); err == nil || !strings.Contains(err.Error(), "sightings: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := untrusted.CheckSightings([]workload.Sighting{good}); err != nil {
		t.Error(err)
	}
}
