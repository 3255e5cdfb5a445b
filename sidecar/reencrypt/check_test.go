// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Right before a version goes, every row is opened under the one that stays, which is all that the bundle has by then:
// rows that do not open are counted, and nothing is written.
func TestCheckBeforeAVersionGoes(t *testing.T) {
	f := newFixture(t)
	check := func(stays ...key.Value) (workload.WorkReport, error) {
		accepts := f.accepts()
		accepts[platform.MasterKey] = stays
		return NewWorker(f.url, Options{AllowSuperuser: true, BatchSize: 4}).Do(t.Context(), f.work(workload.PhaseCheck), accepts)
	}
	expect := func(stays key.Value, total, rotated, other, bad int) {
		t.Helper()
		report, err := check(stays)
		if err != nil || !report.Done {
			t.Fatalf("%+v (%v)", report, err)
		}
		var sum workload.ColumnReport
		for _, c := range report.Columns {
			sum.Total += c.Total
			sum.Rotated += c.Rotated
			sum.Other += c.Other
			sum.Bad += c.Bad
		}
		if sum.Total != total || sum.Rotated != rotated || sum.Other != other || sum.Bad != bad {
			t.Errorf("%+v, want %d rows, %d under the key that stays, %d under another, %d closed", sum, total, rotated, other, bad)
		}
	}
	rows, legacy := 0, 3
	for _, c := range f.do(workload.PhaseStage).Columns {
		rows += c.Total
	}
	expect(f.newKey, rows, 0, legacy, rows-legacy)
	f.do(workload.PhaseFlip)
	f.do(workload.PhaseWipe)
	expect(f.newKey, rows, rows-legacy, legacy, 0)
	f.write(&f.rows[0], f.oldKey, "written by a process that nobody knows of")
	expect(f.newKey, rows, rows-legacy-1, legacy, 1)
	f.do(workload.PhaseFlip)
	f.do(workload.PhaseWipe)
	expect(f.newKey, rows, rows-legacy, legacy, 0)
	expect(f.oldKey, rows, 0, legacy, rows-legacy)
	if n := f.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'hyvve_reencrypt'"); n != 0 {
		t.Error("a check leaves a side schema behind")
	}
	report, err := check(f.oldKey, f.newKey) // version new is undeleted: its rows are no loss
	if left, bad := report.Left(); err != nil || left+bad != 0 {
		t.Errorf("%d rows left, %d closed under an undeleted version (%v)", left, bad, err)
	}
	if _, err := check(); err == nil {
		t.Error("a check without a value is done")
	}
}

// A worker that Vault cannot reach any more must not bring rows to a version that the rotation has gone back on, whether
// it begins late or is at it.
func TestLateWork(t *testing.T) {
	f := newFixture(t)
	f.do(workload.PhaseStage)
	f.do(workload.PhaseFlip)
	f.exec("ALTER TABLE hyvve_reencrypt.jobs DROP COLUMN rank") // as an earlier release made it
	late := f.prepared(workload.PhaseFlip)
	ctx, end, err := late.keep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	if err := late.claim(ctx); err != nil {
		t.Fatal(err)
	}
	f.exec("UPDATE hyvve_reencrypt.jobs SET until = '-infinity'") // as if it had stood still
	f.do(workload.PhaseRevert)
	if err := late.renew(t.Context(), late.db); err == nil || !strings.Contains(err.Error(), "has gone on") {
		t.Errorf("a claim that was taken over is renewed: %v", err)
	}
	if _, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), f.work(workload.PhaseFlip), f.accepts()); err == nil || !strings.Contains(err.Error(), "out of date") {
		t.Errorf("a late flip: %v", err)
	}
	f.expect(f.oldKey, f.oldAuth)
	again := f.work(workload.PhaseRevert)
	again.Pass = 1
	if _, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), again, f.accepts()); err != nil {
		t.Error(err)
	}
}
