// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func TestWorkIsDoneOnceAndSweepsAgain(t *testing.T) {
	done := make(chan string, 100)
	failures := 1
	r := startAgent(t, reencryptor(func(w workload.Work) (workload.WorkReport, error) {
		done <- w.ID
		if w.ID == "w-fails" && failures > 0 {
			failures--
			return workload.WorkReport{}, errors.New("no route to the database")
		}
		return workload.WorkReport{ID: w.ID, Done: true, Columns: []workload.ColumnReport{{Column: "t.c", Total: 1, Rotated: 1}}}, nil
	}))
	r.await("first", loaded("etag-1-0"))
	work := func(report map[string]any) map[string]any {
		list, _ := report["work"].([]any)
		if len(list) == 0 {
			return nil
		}
		first, _ := list[0].(map[string]any)
		return first
	}
	r.fake.change(func() { r.fake.work = []workload.Work{{ID: "w-fails", Phase: workload.PhaseFlip}} })
	r.await("failure", func(report map[string]any) bool {
		return strings.Contains(fmt.Sprint(work(report)["error"]), "no route to the database")
	})
	r.await("success", func(report map[string]any) bool { return work(report)["done"] == true })
	r.fake.change(func() {
		r.fake.work = []workload.Work{{ID: "w-a", Phase: workload.PhaseSweep}, {ID: "w-b", Phase: workload.PhaseWipe}}
	})
	counts := map[string]int{}
	deadline := time.After(30 * time.Second)
	for counts["w-a"] < 2 {
		select {
		case id := <-done:
			counts[id]++
		case <-deadline:
			t.Fatalf("the sweep is not repeated: %v", counts)
		}
	}
	if counts["w-b"] != 1 || counts["w-fails"] != 2 {
		t.Errorf("work was done %v times", counts)
	}
	if r.reloads.count() != 1 {
		t.Errorf("%d reloads although only work changed", r.reloads.count())
	}
}

func TestWorkWithoutADatabase(t *testing.T) {
	r := startAgent(t, nil)
	r.fake.change(func() { r.fake.work = []workload.Work{{ID: "w", Phase: workload.PhaseStage}} })
	r.await("what is missing", func(report map[string]any) bool {
		return strings.Contains(fmt.Sprint(report["work"]), "no reencrypt block")
	})
}

// A count of rows that nobody waits for is left out where there is no database. The sidecar is well.
func TestCountWithoutADatabase(t *testing.T) {
	r := startAgentWith(t, t.TempDir(), nil, func(r *running, _ *Config) {
		r.fake.work = []workload.Work{{ID: "w", Phase: workload.PhaseCount}}
	})
	r.await("loaded", loaded("etag-1-1"))
	r.until("well", func() bool { return r.agent.board.State().Well() })
	r.fake.change(func() { r.fake.version = 2 })
	if report := r.await("loaded", loaded("etag-2-1")); strings.Contains(fmt.Sprint(report["work"]), "reencrypt") {
		t.Errorf("reported: %v", report["work"])
	}
	if s := r.agent.board.State(); !s.Well() || len(s.Work) > 0 {
		t.Errorf("the status is %+v", s)
	}
}
