// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"slices"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// A revert waits for workloads of which an instance was given something new, and for no others.
func TestRevertWaitsForThoseWhoTookPart(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	api := WorkloadFact{Workload: workload.Workload{Name: "api", MinInstances: 1, MaxUnavailable: "1", Keys: map[string]workload.Role{"k": {Verifies: true}}}}
	agents := WorkloadFact{Workload: workload.Workload{Name: "agents", MinInstances: 1, MaxUnavailable: "1", Keys: map[string]workload.Role{"k": {Presents: true}}}}
	absent := Facts{Now: now, Workloads: []WorkloadFact{agents, api}}
	present := absent
	there := api
	there.Instances = []workload.Instance{{Workload: "api", ID: "api-1", Healthy: true}}
	present.Workloads = []WorkloadFact{agents, there}

	for _, protects := range [][]key.Column{nil, {{Table: "t", Column: "c", Layout: key.TagFirst}}} {
		r := Rotation{ID: "r", Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2, Protects: protects}}, State: Accepting, Step: StepLoad, Since: now, Clock: now, Reached: []string{}}
		r, _, _ = Further(r, absent)
		back, err := Revert(r, absent, testActor, "")
		if err != nil {
			t.Fatal(err)
		}
		back, _, _ = Further(back, absent)
		if back.Step != StepUnstage {
			t.Errorf("protects %v: nobody took part, and the revert waits in %s: %v", protects, back.Step, checkMinInstances(back, absent))
		}
		r, _, _ = Further(r, present) // api-1 has come, and accepts both
		if !slices.Equal(r.Reached, []string{"api"}) {
			t.Fatalf("reached %v", r.Reached)
		}
		if back, err = Revert(r, absent, testActor, ""); err != nil { // it is gone, for now
			t.Fatal(err)
		}
		back, _, _ = Further(back, absent)
		if reasons := checkMinInstances(back, absent); back.Step != StepLoad || len(reasons) != 1 {
			t.Errorf("api took part, and the revert is in %s: %v", back.Step, reasons)
		}
	}
}

// Records of earlier releases do not say who took part: a revert waits for all.
func TestRevertOfAnEarlierRecord(t *testing.T) {
	r := Rotation{ID: "r", Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2}}, State: Accepting, Step: StepLoad}
	for _, reached := range [][]string{nil, {}} {
		r.Reached = reached
		data, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		read, err := Decode(data)
		if err != nil || (read.Reached == nil) != (reached == nil) || (read.Clone().Reached == nil) != (reached == nil) {
			t.Errorf("%#v is read as %#v: %v", reached, read.Reached, err)
		}
	}
	r.Reached, r.State = nil, Reverting
	if !r.awaits("api") {
		t.Error("a revert does not wait for a workload that may have taken part")
	}
}
