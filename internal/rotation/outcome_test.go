// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// An outcome is one word, and all but done have a text that names the next command.
func TestOutcome(t *testing.T) {
	cut := Receipt{Cuts: []Cut{{Gate: "soak"}}}
	for _, c := range []struct {
		r    Rotation
		want Outcome
		text string
	}{
		{Rotation{State: Accepting, Step: StepLoad}, OutcomeRunning, "accepting load and waits for: loaded; follow it with: vault read hyvve/rotations/r1 wait=5s"},
		{Rotation{State: Retiring, Step: StepErase}, OutcomeRunning, "follow it"},
		{Rotation{State: Soaking, Paused: &Pause{By: "bob", Reason: "lunch"}}, OutcomePaused, "by bob: lunch; mend that and continue it with: vault write -f hyvve/rotations/r1/resume"},
		{Rotation{State: Reverting, Step: StepSwitch, Paused: &Pause{}}, OutcomePaused, "/resume"},
		{Rotation{State: Reverting, Step: StepSwitch}, OutcomeReverting, "follow it"},
		{Rotation{State: Reverted}, OutcomeReverted, "the old version is in use"},
		{Rotation{State: Done}, OutcomeDone, ""},
		{Rotation{State: Done, Receipt: cut}, OutcomeDoneWithCuts, "did not wait for: soak"},
		{Rotation{State: Retiring, Receipt: cut}, OutcomeRunning, "follow it"},
	} {
		c.r.ID = "r1"
		got, text := c.r.Outcome(), c.r.OutcomeText([]GateResult{{Name: "loaded", Reason: "loaded"}})
		if got != c.want || !strings.Contains(text, c.text) || (text == "") != (c.want == OutcomeDone) {
			t.Errorf("%s %s: %s, %q; want %s, %q", c.r.State, c.r.Step, got, text, c.want, c.text)
		}
	}
}

// The gates that a compromised rotation cuts are what makes its outcome done_with_cuts.
func TestOutcomeOfACut(t *testing.T) {
	begun := time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)
	r := Rotation{State: Soaking, Step: StepSoak, Acted: true, Clock: begun, SoakFrom: begun, Compromised: true, Soak: time.Hour, Deadline: time.Second, Changes: []Change{{Key: "one", Env: "ONE", From: 1, To: 2}}}
	next, results, changed := Next(r, Facts{Now: begun.Add(time.Minute)})
	next.State = Done
	if !changed || next.Outcome() != OutcomeDoneWithCuts {
		t.Errorf("%s: %+v, %+v", next.Outcome(), next.Timeline, results)
	}
}

// Where a gate was cut before those that verify drop the old version, the timeline does not say that nobody uses it.
func TestTimelineOfACut(t *testing.T) {
	begun := time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)
	r := Rotation{State: Soaking, Step: StepUnused, Clock: begun, Compromised: true, Deadline: time.Second, Changes: []Change{{Key: "one", Env: "ONE", From: 1, To: 2}}}
	for _, least := range []int{0, 1} {
		f := Facts{Now: begun.Add(time.Minute), Workloads: []WorkloadFact{{Workload: workload.Workload{Name: "api", MinInstances: least, Keys: map[string]workload.Role{"one": {Verifies: true}}}}}}
		next, results, changed := Next(r, f)
		if !changed || next.State != Retiring {
			t.Fatalf("%s: %+v", next.State, results)
		}
		event := next.Timeline[len(next.Timeline)-1]
		if cut := least > 0; strings.Contains(event.Text, "nobody uses") == cut || (event.Reason != "") != cut || !strings.Contains(event.Text, "those that verify drop") {
			t.Errorf("of %d instances: %q, %q", least, event.Text, event.Reason)
		}
	}
}
