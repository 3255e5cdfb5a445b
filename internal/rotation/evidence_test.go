// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Over the bound, details go that nothing reads, and no more than that: rows, finds and the place are shown and compared as before.
func TestEvidenceKeepsWhatIsRead(t *testing.T) {
	c := Change{Key: "k", Env: "K", From: 1, To: 2, Protects: []key.Column{{Table: "t", Column: "c"}, {Table: "t", Column: "d"}}}
	r := Rotation{ID: "r", State: Presenting, Step: StepStageRows, Changes: []Change{c}}.Clone()
	at := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	for _, p := range table {
		if p.phase == "" || p.state == Reverting {
			continue
		}
		r.State, r.Step = p.state, p.name
		at = at.Add(time.Minute)
		report := BoundedLook(flood(1), p.phase, nil)
		report.ID, report.Columns = r.WorkID(c), []workload.ColumnReport{good, {Column: "t.d", Total: 1, Rotated: 1}}
		if p.phase == workload.PhaseWipe {
			report.Columns, report.Place = nil, nil
		}
		r.Work[report.ID] = Evidence{Report: report, At: at, Instance: "w/i"}
		for n := range MaxWitnesses {
			report.Error = strings.Repeat("x", maxReason)
			r.Witnesses[report.ID] = append(r.Witnesses[report.ID], Evidence{Report: report, At: at, Instance: fmt.Sprintf("w/%d", n)})
		}
	}
	r.State, r.Step = Retiring, StepErase
	before, _ := r.LastRows(c)
	placed, _ := r.reencryptedAt(c)
	size := r.evidenceSize()
	b := r.Bounded()
	after, _ := b.LastRows(c)
	still, ok := b.reencryptedAt(c)
	if b.evidenceSize() > maxEvidence || size < 2*maxEvidence || r.evidenceSize() != size {
		t.Errorf("of %d bytes are left %d", size, b.evidenceSize())
	}
	if len(after.Columns) != 2 || len(after.Finds) != len(before.Finds) || after.MoreFinds != before.MoreFinds || !ok || !still.at.Equal(placed.at) || b.saidDone(c) != r.saidDone(c) {
		t.Errorf("left are %d columns, %d finds and %d more, %v", len(after.Columns), len(after.Finds), after.MoreFinds, still)
	}
	if n := len(b.WitnessesOf(c)); n < leastWitnesses {
		t.Errorf("%d witnesses are left", n)
	}
}

// The engine's own word stays longest, and where there is nothing else, the oldest goes.
func TestWeakestWitnessGoes(t *testing.T) {
	r := Rotation{ID: "r", State: Retiring, Step: StepErase, Changes: []Change{{Key: "k", Env: "K", From: 1, To: 2, Protects: []key.Column{{Table: "t", Column: "c"}}}}}
	for n := range 2 * MaxWitnesses {
		r = r.Witnessed(r.Changes[0], Evidence{Connection: fmt.Sprintf("c-%d", n)})
	}
	all := r.Witnesses[r.WorkID(r.Changes[0])]
	if len(all) != MaxWitnesses || all[0].Connection != fmt.Sprintf("c-%d", MaxWitnesses) {
		t.Errorf("%d, the first %+v", len(all), all[0])
	}
	sound := workload.WorkReport{Done: true, Place: here()}
	all = withoutWeakest([]Evidence{{Connection: "c"}, {Instance: "w/1", Report: sound}, {Instance: "w/2"}, {Instance: "w/3", Report: sound}})
	if len(all) != 3 || all[1].Instance != "w/1" || all[2].Instance != "w/3" {
		t.Errorf("left are %+v", all)
	}
}
