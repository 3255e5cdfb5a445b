// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// The plan of a compromised key has no soak time, neither in its steps nor in how long it may take, although earlier rotations have
// soaked.
func TestPlanOfACompromisedKeyDoesNotSoak(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "service-token", Kind: "token", Policy: key.Policy{Soak: time.Minute}}, testActor)
	h.ok(err)
	h.until(h.rotate("service-token"), rotation.Done)
	soaks := func(compromised bool) (bool, time.Duration) {
		plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"service-token"}, Compromised: compromised})
		h.ok(err)
		return slices.ContainsFunc(plan.Moves, func(m rotation.Move) bool { return strings.Contains(m.Text, "the soak time runs") }), plan.Expected
	}
	if text, expected := soaks(false); !text || expected < time.Minute {
		t.Errorf("%v, %s", text, expected)
	}
	if text, expected := soaks(true); text || expected >= time.Minute {
		t.Errorf("compromised: %v, %s", text, expected)
	}
}
