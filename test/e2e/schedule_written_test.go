// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// An operator writes a period below the age of the version that is in use: nothing starts, and the answer says when something will.
// Then they start a rotation that nobody can take part in, and take it back at once.
func TestPolicyIsWrittenAndNobodyIsThere(t *testing.T) {
	t.Parallel() // it waits most of the time
	b := bed.ForTest(t)
	vault, err := b.Vault(t.Context(), bed.VaultOptions{})
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, data map[string]any) map[string]any {
		t.Helper()
		secret, err := vault.Client.Logical().WriteWithContext(t.Context(), path, data)
		if err != nil {
			t.Fatal(err)
		}
		return secret.Data
	}
	write("hyvve/keys/token", map[string]any{"kind": "token", "generate": true})
	write("hyvve/workloads/api", map[string]any{"verifies": "token", "presents": "token"})
	made := time.Now()
	kit.Until(t, "the version is older than the period", func() bool { return time.Since(made) > 11*time.Second })
	answer := write("hyvve/keys/token", map[string]any{"rotation_period": "10s"})
	next, err := time.Parse(time.RFC3339Nano, fmt.Sprint(answer["next_rotation"]))
	if err != nil || time.Until(next) < 5*time.Second {
		t.Errorf("next rotation %q: %v", answer["next_rotation"], err)
	}
	ids, err := vault.Client.Logical().ListWithContext(t.Context(), "hyvve/rotations")
	if err != nil || ids != nil && ids.Data["keys"] != nil {
		t.Errorf("a rotation has started: %v (%v)", ids, err)
	}
	write("hyvve/keys/token", map[string]any{"rotation_period": 0})
	if _, err := vault.Client.Logical().WriteWithContext(t.Context(), "hyvve/keys/token", map[string]any{"rotation_period": "90"}); err == nil || !strings.Contains(err.Error(), "rotation_period=90d") {
		t.Errorf("90 without a unit: %v", err)
	}
	id := fmt.Sprint(write("hyvve/rotate", map[string]any{"key": "token"})["id"])
	write("hyvve/rotations/"+id+"/revert", nil)
	kit.Until(t, "the rotation in which nobody took part is reverted", func() bool {
		secret, err := vault.Client.Logical().ReadWithContext(t.Context(), "hyvve/rotations/"+id)
		return err == nil && secret.Data["state"] == "reverted"
	})
}
