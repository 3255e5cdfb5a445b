// SPDX-License-Identifier: Apache-2.0

package e2e

import "testing"

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
	w.restarts(name, rotations)
}
