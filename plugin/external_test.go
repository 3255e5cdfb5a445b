// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// Values that come from elsewhere are asked for, and the plan says what its evidence rests on.
func TestExternalKey(t *testing.T) {
	b := newBackendTest(t)
	b.write("config", map[string]any{"soak": 0, "observe": 0})
	const update logical.Operation = logical.UpdateOperation
	b.refuses(update, "keys/stripe", map[string]any{"kind": "external", "rotation_period": 3600}, "cannot rotate by itself")
	b.refuses(update, "keys/stripe", map[string]any{"kind": "external", "pattern": "("}, "pattern")
	b.refuses(update, "keys/stripe", map[string]any{"kind": "external", "generate": true}, "come from elsewhere")
	b.write("keys/stripe", map[string]any{"kind": "external", "pattern": "sk_[a-z]+", "value": "sk_one"})
	b.write("workloads/api", map[string]any{"presents": "stripe"})
	b.refuses(update, "rotate", map[string]any{"key": "stripe"}, "value=-")
	b.refuses(update, "rotate", map[string]any{"key": "stripe", "value": "canary"}, "does not match")
	plan := b.write("rotate", map[string]any{"key": "stripe", "value": "sk_two", "dry_run": true, "detailed": true})
	if notes := strings.Join(plan["notes"].([]string), "; "); !strings.Contains(notes, "no server says whether the old value is in use") {
		t.Errorf("notes: %s", notes)
	}
	b.instance("api", "api-1")
	started := b.write("rotate", map[string]any{"key": "stripe", "value": "sk_two"})
	if started["versions_stripe"] != "1 -> 2" || strings.Contains(b.answers.String(), "sk_two") || strings.Contains(b.answers.String(), "canary") {
		t.Errorf("started: %v", started)
	}
}
