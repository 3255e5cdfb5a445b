// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"strings"
	"testing"
)

// A workload that reads its keys from the environment when it starts, as the platform's do, under exec and under load:
// one restart a rotation, and no call fails, since those that verify accept both values meanwhile.
func TestExecUnderLoad(t *testing.T) {
	const rotations = 3
	w := start(t, small(true))
	name, err := w.StartExec(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	for range rotations {
		w.follow(w.rotate("agent-service-token"), "done")
	}
	w.conclude()
	if err := w.Sidecars[name].Stop(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(w.Sidecars[name].LogPath)
	if err != nil {
		t.Fatal(err)
	}
	log := string(data)
	starts, ends := strings.Count(log, "workload started"), strings.Count(log, "calls made, 0 failed")
	if starts != 1+rotations || ends != starts || strings.Contains(log, "\n0 calls made") {
		t.Errorf("%d starts for %d rotations, %d of them without a failed call; log:\n%s", starts, rotations, ends, log)
	}
}
