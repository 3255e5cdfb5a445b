// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"testing"
	"time"
)

// await polls until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for !so() {
		select {
		case <-deadline:
			t.Fatalf("waiting for %s", what)
		case <-ticker.C:
		}
	}
}
