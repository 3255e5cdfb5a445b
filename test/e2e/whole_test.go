// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
)

const metricsKey = "METRICS_API_KEY"

// The platform's own way of holding keys, unchanged: api has one token, read when it starts, and is never restarted; agents
// reads its keys from the environment, and its metrics are behind one of them. With the sidecar's proxy before each, and
// agents under exec, both keys rotate together, and nobody is refused, at 300 requests a second and more.
func TestWholeRotationUnderLoad(t *testing.T) {
	n := rotations(t, 2)
	w := start(t, small(true))
	api, err := w.StartProxy(t.Context(), 3, guard(t, w.Initial[agentToken].Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	name, agents, err := w.StartScraped(t.Context(), 3, api)
	if err != nil {
		t.Fatal(err)
	}
	w.write("hyvve/workloads/prometheus", map[string]any{"presents": "metrics-api-key"})
	begun := time.Now()
	calls, stopCalls := w.presents("agents", "agents-9", agentToken, asking(api+"/call"))
	scrapes, stopScrapes := w.presents("prometheus", "prometheus-1", metricsKey, asking(agents+"/metrics"))
	for range n {
		w.follow(w.rotate("agent-service-token", "metrics-api-key"), "done")
	}
	took := time.Since(begun)
	called, callsRefused := calls()
	scraped, scrapesRefused := scrapes()
	stopCalls()
	stopScrapes()
	rate := float64(called+scraped) / took.Seconds()
	t.Logf("%d rotations in %s; %d calls, %d scrapes: %.0f a second; %d and %d refused", n, took.Round(time.Second), called, scraped, rate, callsRefused, scrapesRefused)
	if callsRefused+scrapesRefused != 0 || called < 100 || scraped < 100 {
		t.Errorf("%d of %d calls and %d of %d scrapes were refused", callsRefused, called, scrapesRefused, scraped)
	}
	if os.Getenv("HYVVE_ROTATIONS") != "" && rate < 300 {
		t.Errorf("only %.0f requests a second", rate) // in other runs the machine may have other things to do
	}
	w.conclude()
	w.restarts(name, 2*n) // metrics-api-key is accepted, agent-service-token presented; a shorter list is no change for it
}

// restarts ends an instance under exec, and looks in its log that it was restarted so often, and that none of its own calls
// failed.
func (w *world) restarts(name string, wanted int) {
	w.t.Helper()
	if err := w.Sidecars[name].Stop(); err != nil {
		w.t.Fatal(err)
	}
	data, err := os.ReadFile(w.Sidecars[name].LogPath)
	if err != nil {
		w.t.Fatal(err)
	}
	log := string(data)
	starts, ends := strings.Count(log, "workload started"), strings.Count(log, "calls made, 0 failed")
	if starts != 1+wanted || ends != starts || strings.Contains(log, "\n0 calls made") {
		w.t.Errorf("%d starts for %d changes, %d of them without a failed call; log:\n%s", starts, wanted, ends, log)
	}
}

var gapLength = regexp.MustCompile(`for at most about (\S+), the longest`)

// Without the proxy, a workload that verifies one value at a time refuses requests while the rotation switches. The plan says
// so before; the gap is within that step, and about as long as the plan says at most.
func TestGapWithoutProxy(t *testing.T) {
	w := start(t, small(true))
	w.write("hyvve/workloads/agents", map[string]any{"single_value": "metrics-api-key"})
	w.write("hyvve/workloads/prometheus", map[string]any{"presents": "metrics-api-key"})
	if _, err := w.StartExec(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var refusals []time.Time
	ask := asking(w.Agents[len(w.Agents)-1] + "/metrics")
	calls, _ := w.presents("prometheus", "prometheus-1", metricsKey, func(ctx context.Context, token string) int {
		at := time.Now() // of the request
		status := ask(ctx, token)
		if status/100 != 2 {
			mu.Lock()
			defer mu.Unlock()
			refusals = append(refusals, at, time.Now())
		}
		return status
	})
	for n := range 3 {
		plan := w.ask(map[string]any{"key": "metrics-api-key", "dry_run": true, "detailed": true})
		gaps, _ := plan["gaps"].([]any)
		if len(gaps) != 1 || !strings.Contains(gaps[0].(string), metricsKey) {
			t.Fatalf("the plan has gaps %v", gaps)
		}
		predicted := time.Duration(0)
		if m := gapLength.FindStringSubmatch(gaps[0].(string)); m != nil {
			var err error
			if predicted, err = time.ParseDuration(m[1]); err != nil {
				t.Fatal(err)
			}
		}
		if (predicted > 0) != (n > 0) {
			t.Errorf("after %d rotations the plan says %s", n, gaps[0])
		}
		r := w.follow(w.rotate("metrics-api-key"), "done")
		mu.Lock()
		gap := time.Duration(0)
		if len(refusals) > 0 {
			gap = refusals[len(refusals)-1].Sub(refusals[0])
		}
		step := switched(r)
		if len(refusals) == 0 {
			t.Error("nobody was refused: this measures nothing")
		} else if refusals[0].Before(step[0].Add(-slack)) || refusals[len(refusals)-1].After(step[1].Add(slack)) {
			t.Errorf("requests were refused from %s to %s, the rotation switched from %s to %s", refusals[0], refusals[len(refusals)-1], step[0], step[1])
		}
		refusals = nil
		mu.Unlock()
		t.Logf("rotation %d: predicted at most %s, measured %s, the step took %s", n+1, predicted, gap.Round(time.Millisecond), step[1].Sub(step[0]).Round(time.Millisecond))
		if predicted > 0 && gap > 2*predicted+slack {
			t.Errorf("the plan says at most %s, and it was %s", predicted, gap)
		}
	}
	if made, refused := calls(); refused == 0 || refused > made/2 {
		t.Errorf("%d of %d requests were refused", refused, made)
	}
}

// slack is for a request that is under way when the step ends, and for clocks that are read at different moments.
const slack = 500 * time.Millisecond

// switched is when a rotation began and ended to switch.
func switched(r api.Rotation) (step [2]time.Time) {
	for n, e := range r.Timeline {
		if e.State == "presenting" && e.Step == "switch" && n+1 < len(r.Timeline) {
			step = [2]time.Time{e.Time.Time, r.Timeline[n+1].Time.Time}
		}
	}
	return step
}
