// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// A user who may write a row decides how long it is. Long rows are unreadable or read a few at a time, and never exhaust the memory
// of the sidecar, whose pod has 96 MiB.
func TestAdversaryLongRows(t *testing.T) {
	f := newFixture(t)
	f.exec("INSERT INTO ai_provider_configs (id, workspace_id, api_key_encrypted) VALUES ('long', 'w', repeat('x', 100000000))")
	f.exec("INSERT INTO ai_provider_configs (id, workspace_id, api_key_encrypted) SELECT 'many-' || g, 'w', repeat('y', 500000) FROM generate_series(1, 200) g")
	runtime.GC()
	var most, before uint64
	stop, done := make(chan struct{}), make(chan struct{})
	held := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	before = held()
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				most = max(most, held())
			}
		}
	}()
	for _, phase := range []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep, workload.PhaseCheck} {
		report, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), f.work(phase), f.accepts())
		if err != nil {
			t.Fatalf("%s: %v", phase, err)
		}
		if left, bad := report.Left(); left != 0 && phase != workload.PhaseStage || bad != 201 {
			t.Errorf("%s: %d left and %d unreadable, want 0 and 201", phase, left, bad)
		}
	}
	close(stop)
	<-done
	if grown := (most - min(most, before)) >> 20; grown > 64 {
		t.Errorf("the heap has grown by %d MB", grown)
	}
	f.expect(f.newKey, f.oldAuth)
}

// Values that are no envelopes, however long or many, do not make the right key look wrong. A wrong key is refused behind them.
func TestAdversaryRowsBeforeTheProbe(t *testing.T) {
	for name, values := range map[string]string{
		"one long":       "SELECT '!1', 'w', '!' || repeat('x', 3000000)",
		"over the limit": "SELECT '!1', 'w', '!' || repeat('x', 5000000)",
		"several":        "SELECT '!' || g, 'w', '!' || repeat('y', 500000) FROM generate_series(1, 12) g",
		"short":          "SELECT '!' || g, 'w', 'damaged' FROM generate_series(1, 12) g",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.exec("INSERT INTO ai_provider_configs (id, workspace_id, api_key_encrypted) " + values)
			work := f.work(workload.PhaseStage)
			work.Columns = work.Columns[:1]
			if work.Columns[0].Table != "ai_provider_configs" {
				t.Fatalf("the column is %s", work.Columns[0])
			}
			wrong := f.accepts()
			wrong[work.Env] = []key.Value{f.newKey, newKeyValue(t, 32)}
			if _, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), work, wrong); err == nil || !strings.Contains(err.Error(), "any of the first 5 envelopes: the old key is not the one") {
				t.Errorf("a wrong key: %v", err)
			}
			report, err := NewWorker(f.url, Options{AllowSuperuser: true}).Do(t.Context(), work, f.accepts())
			if left, bad := report.Left(); err != nil || left != 8 || bad == 0 {
				t.Errorf("%d rows left and %d unreadable, want 8 and some: %v", left, bad, err)
			}
		})
	}
}

// The probe reads so many rows and no more.
func TestProbeEnds(t *testing.T) {
	f := newFixture(t)
	f.exec("INSERT INTO ai_provider_configs (id, workspace_id, api_key_encrypted) SELECT '!' || g, 'w', 'damaged' FROM generate_series(1, 300) g")
	j := f.prepared(workload.PhaseStage)
	j.tables = j.tables[:1]
	if opened, unreadable, err := j.probeColumn(t.Context(), j.tables[0]); opened+unreadable != 0 || err != nil {
		t.Errorf("%d opened and %d not, want 0 and 0: %v", opened, unreadable, err)
	}
}
