// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Rows that are left again and again, as where an instance lies, do not let everybody load without end.
func TestPaceOfRowsThatAreLeft(t *testing.T) {
	now := time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)
	for _, state := range []State{Retiring, Reverting} {
		r := Rotation{ID: "r", State: state, Step: StepRows, Since: now, Clock: now, Changes: []Change{{Key: "k", From: 1, To: 2}}}
		for pass, want := range map[int]time.Duration{0: 0, 1: 0, 2: 5 * time.Second, 3: 10 * time.Second, 8: 320 * time.Second, 12: time.Hour, 1000: time.Hour} {
			r.Pass = pass
			if want == 0 {
				if reasons := checkPace(r, Facts{Now: now}); len(reasons) > 0 || !r.WakeAt().IsZero() {
					t.Errorf("pass %d waits: %s", pass, reasons)
				}
				continue
			}
			before, after := checkPace(r, Facts{Now: now.Add(want - time.Millisecond)}), checkPace(r, Facts{Now: now.Add(want)})
			if len(before) != 1 || len(after) != 0 || !r.WakeAt().Equal(now.Add(want)) || !slices.Contains(r.at().gates, gatePace) {
				t.Errorf("pass %d: %q, then %q, and it wakes at %s", pass, before, after, r.WakeAt())
			}
			resumed := r
			resumed.Clock = now.Add(time.Millisecond)
			if reasons := checkPace(resumed, Facts{Now: now.Add(2 * time.Millisecond)}); len(reasons) > 0 {
				t.Errorf("pass %d waits although it was resumed: %s", pass, reasons)
			}
		}
	}
}

// Who has said that no row is left is named, so that the one who errs is found.
func TestWhoSaidDone(t *testing.T) {
	c := Change{Key: "k", Env: "K", From: 1, To: 2}
	r := Rotation{ID: "r", State: Retiring, Step: StepErase, Changes: []Change{c}, Work: map[string]Evidence{}}
	column := []workload.ColumnReport{{Column: "t.c", Total: 3, Rotated: 3}}
	for n, name := range []string{"api/api-1", "api/liar"} {
		r.Work[fmt.Sprintf("r/k/phase-%d", n)] = Evidence{Report: workload.WorkReport{Done: true, Columns: column}, At: time.Unix(int64(n)+1, 0), Instance: name}
	}
	r.Work[r.WorkID(c)] = Evidence{Report: workload.WorkReport{Done: true, Columns: column}, At: time.Unix(9, 0), Instance: "api/api-1"}
	if text := r.saidDone(c); text != " (api/liar had reported that none was left)" {
		t.Error(text)
	}
}
