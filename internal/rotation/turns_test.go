// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Whoever waits for a rotation's end hears of that, and of nothing else.
func TestEndedIsHeardOnce(t *testing.T) {
	h := newHarness(t)
	h.key("one", "server")
	h.key("two", "server")
	h.workload(workload.Workload{Name: "both", Keys: map[string]workload.Role{"one": {Presents: true}, "two": {Presents: true}}})
	one, two := h.rotate("one"), h.rotate("two")
	first, second := h.view(one), h.view(two)
	ended := func(v View) bool {
		select {
		case <-v.Ended:
			return true
		default:
			return false
		}
	}
	_, err := h.engine.Pause(t.Context(), two, testActor, "")
	h.ok(err)
	h.until(one, Done)
	if !ended(first) || !ended(h.view(one)) || ended(second) {
		t.Error("the end of one rotation is not heard, or is heard by those who wait for another")
	}
	h.engine.Close()
	if !ended(second) || !ended(h.view(two)) {
		t.Error("whoever waits is not told that the engine is closed")
	}
}
