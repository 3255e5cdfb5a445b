// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// Somebody follows a rotation by its key and as the newest one: each answer has news, or has waited. The answer to the write that
// started it says what has come of it.
func TestRotationIsFollowed(t *testing.T) {
	w := start(t, small(true))
	secret, err := w.Server.Client.Logical().WriteWithContext(t.Context(), bed.Mount+"/rotate", map[string]any{
		"key": "agent-service-token", "confirm": "manual", "wait": "1s",
	})
	if err != nil {
		t.Fatal(err)
	}
	if secret.Data["outcome"] != "running" || !strings.Contains(strings.Join(secret.Warnings, "\n"), "has not ended") {
		t.Errorf("%v, warnings %q", secret.Data, secret.Warnings)
	}
	id := idOf(secret.Data)
	answers := 0
	r := api.Rotation{}
	for deadline := time.Now().Add(time.Minute); r.Outcome == "" || r.Outcome == "running"; answers++ {
		if r, err = w.Engine.Follow(t.Context(), "agent-service-token", r.Revision, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		if r.ID != id || len(r.Instances) > 0 || time.Now().After(deadline) {
			t.Fatalf("%+v", r)
		}
		if strings.HasSuffix(r.NextGate, "/confirm") {
			w.write("hyvve/rotations/latest/confirm", nil)
		}
	}
	if r.Outcome != "done" || answers > 30 {
		t.Errorf("it is %s after %d answers", r.Outcome, answers)
	}
	w.conclude()
}
