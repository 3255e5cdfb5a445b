// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// What an operator sees and types, from the retention of a version to its end.
func TestUndeletePaths(t *testing.T) {
	b := newBackendTest(t)
	value := strings.Repeat("ab", 32)
	b.write("keys/jwt-secret", map[string]any{"kind": "token", "format": "hex", "length": 32, "value": value, "soak": 0})
	b.write("workloads/api", map[string]any{"verifies": "jwt-secret", "min_instances": 0})
	if got := b.read("keys/jwt-secret", map[string]any{}).Data["retain"]; got != "24h" {
		t.Errorf("retain is %v", got)
	}
	plan := b.call(logical.UpdateOperation, "rotate", map[string]any{"key": "jwt-secret", "dry_run": true})
	if text := fmt.Sprint(plan.Data); !strings.Contains(text, "vault write hyvve/keys/jwt-secret/undelete version=1") {
		t.Errorf("the plan does not say that the value is retained: %s", text)
	}
	b.write("rotate", map[string]any{"key": "jwt-secret", "wait": 30})
	if line := fmt.Sprint(b.read("status").Data["jwt-secret"]); !strings.Contains(line, "version 1 retained until 20") {
		t.Errorf("status says %q", line)
	}
	for want, data := range map[string]map[string]any{
		"has no version 7; retained are: 1 (until": {"version": 7},
		"version 2 is current":                     {"version": 2},
		`parameter "force" is not known`:           {"version": 1, "force": true},
	} {
		if resp := b.call(logical.UpdateOperation, "keys/jwt-secret/undelete", data); !resp.IsError() || !strings.Contains(resp.Error().Error(), want) {
			t.Errorf("%v: %v", data, resp)
		}
	}
	for _, verb := range []string{"undelete", "retire", "erase"} {
		if resp := b.call(logical.UpdateOperation, "keys/jwt-secret/"+verb, nil); !resp.IsError() || !strings.Contains(resp.Error().Error(), "version is missing; give version=NUMBER") {
			t.Errorf("%s without a version: %v", verb, resp)
		}
	}
	answer := b.write("keys/jwt-secret/undelete", map[string]any{"version": 1, "for": "2h"})
	if answer["state"] != "undeleted" || answer["until"] == "" {
		t.Errorf("undelete answers %v", answer)
	}
	if line := fmt.Sprint(b.read("status").Data["jwt-secret"]); !strings.Contains(line, "version 1 is accepted again (undeleted) until 20") {
		t.Errorf("status says %q", line)
	}
	if accepts := fmt.Sprint(b.read("creds/api").Data["accepts"]); !strings.Contains(accepts, value) {
		t.Error("the version is in no bundle")
	}
	if answer := b.write("keys/jwt-secret/retire", map[string]any{"version": 1}); answer["state"] != "retained" {
		t.Errorf("retire answers %v", answer)
	}
	if answer := b.write("keys/jwt-secret/erase", map[string]any{"version": 1, "reason": "gone"}); answer["state"] != "destroyed" {
		t.Errorf("erase answers %v", answer)
	}
	b.write("rotate", map[string]any{"key": "jwt-secret", "retain": 0})
	b.write("keys/jwt-secret", map[string]any{"retain": "1h"})
	b.write("keys/jwt-secret", map[string]any{"retain": -1})
	if got := b.read("keys/jwt-secret", map[string]any{}).Data["retain"]; got != "24h" {
		t.Errorf("retain is %v after -1", got)
	}
	if strings.Contains(b.answers.String(), value) || strings.Contains(b.log.String(), value) {
		t.Error("the value is in an answer, or in the log")
	}
}
