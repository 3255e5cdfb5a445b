// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"runtime"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Whoever may write a row decides how long it is. Long rows are unreadable or read a few at a time, and never take the memory of the
// sidecar, whose pod has 96 MiB.
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
