// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/kinds"
)

// A bare number below an hour is refused in every duration of every path but wait, which is never longer than a minute.
func TestShortDurationsNeedAUnit(t *testing.T) {
	b := newBackendTest(t)
	paths := newBackend(kinds.All())
	tried := 0
	for _, path := range paths.Paths {
		for name, schema := range path.Fields {
			if schema.Type != framework.TypeDurationSecond && schema.Type != framework.TypeSignedDurationSecond || name == fieldWait {
				continue
			}
			tried++
			for _, value := range []any{"90", 90, 90.0, "3599", 1} {
				if withoutUnit(schema.Type, value) == "" {
					t.Errorf("%s: %s=%v is taken for seconds", path.Pattern, name, value)
				}
			}
			for _, value := range []any{"90s", "90m", "30d", "1h30m", "0", 0, "-1", -1, 3600, "7776000", nil} {
				if bare := withoutUnit(schema.Type, value); bare != "" {
					t.Errorf("%s: %s=%v needs a unit: %q", path.Pattern, name, value, bare)
				}
			}
		}
	}
	if tried < 20 {
		t.Errorf("only %d durations were found", tried)
	}
	b.write("keys/jwt-secret", map[string]any{"format": "hex", "length": 32})
	b.refuses(logical.UpdateOperation, "keys/jwt-secret", map[string]any{"rotation_period": "90"}, `"rotation_period" is 90 without a unit, which would be 90 seconds; write rotation_period=90s for that, or rotation_period=90m`)
	b.refuses(logical.UpdateOperation, "config", map[string]any{"lease_ttl": 5}, "write lease_ttl=5s for that")
	b.refuses(logical.UpdateOperation, "rotate", map[string]any{"key": "jwt-secret", "deadline": "10"}, "deadline=10m")
}

// Each write of a key says when it rotates next, and none makes up for a time before it was written.
func TestWritesSayTheNextRotation(t *testing.T) {
	b := newBackendTest(t)
	data := b.write("keys/jwt-secret", map[string]any{"format": "hex", "length": 32, "rotation_period": "90d"})
	if data["next_rotation"] != "" || data["rotation_period"] != "90d" {
		t.Errorf("without a version: next rotation %v, period %v", data["next_rotation"], data["rotation_period"])
	}
	for _, fields := range []map[string]any{{"generate": true}, {"soak": "1m"}, {"rotation_period": "60d"}, {"rotation_period": 0, "rotation_schedule": "0 3 * * *"}} {
		data := b.write("keys/jwt-secret", fields)
		next, err := time.Parse(time.RFC3339Nano, data["next_rotation"].(string))
		if err != nil || next.Before(time.Now()) {
			t.Errorf("%v: next rotation %q, %v", fields, data["next_rotation"], err)
		}
	}
	if data := b.write("keys/jwt-secret", map[string]any{"disable_automated_rotation": true}); data["next_rotation"] != "" {
		t.Errorf("disabled, next rotation %v", data["next_rotation"])
	}
}

// What is allowed and rarely meant produces a warning in the answer of the write that sets it, and in no other.
func TestRiskyTimesWarn(t *testing.T) {
	b := newBackendTest(t)
	b.write("keys/jwt-secret", map[string]any{"format": "hex", "length": 32, "generate": true})
	for _, c := range []struct {
		path   string
		fields map[string]any
		want   string
	}{
		{"config", map[string]any{"lease_ttl": "1s"}, "lease_ttl=1s: an instance counts as gone"},
		{"config", map[string]any{"lease_ttl": "2h"}, "holds up rotations for so long"},
		{"config", map[string]any{"lease_ttl": "5m"}, ""},
		{"config", map[string]any{"retain": 0}, "retain=0s"},
		{"config", map[string]any{"retain": "24h", "retain_rows": "24h"}, "retain_rows=24h"},
		{"config", map[string]any{"look_every": 0}, "look_every=0s"},
		{"config", map[string]any{"deadline": "5s"}, "deadline=5s: one slow restart"},
		{"config", map[string]any{"deadline": 0, "compromised_deadline": "1s"}, "are cut off"},
		{"config", map[string]any{"compromised_deadline": "1h"}, "stays accepted"},
		{"config", map[string]any{"soak": 0, "observe": 0}, "soak=0s and observe=0s"},
		{"config", map[string]any{"soak": "30s", "observe": "10s"}, ""},
		{"keys/jwt-secret", map[string]any{"rotation_period": "20s"}, "rotation_period=20s is shorter than soak=30s and observe=10s together"},
		{"config", map[string]any{"soak": "30s"}, "rotation_period of these keys is shorter than soak and observe together, so that a rotation may still run when the next is due: jwt-secret"},
		{"keys/jwt-secret", map[string]any{"rotation_period": "2m"}, "shorter than lease_ttl=5m"},
		{"keys/jwt-secret", map[string]any{"env": "JWT_SECRET"}, ""},
		{"keys/jwt-secret", map[string]any{"rotation_period": "30d"}, ""},
		{"keys/jwt-secret", map[string]any{"confirm": "manual"}, "until somebody confirms it"},
		{"keys/jwt-secret", map[string]any{"disable_automated_rotation": true}, "start nothing"},
		{"keys/jwt-secret", map[string]any{"soak": 0}, "A fault that shows late"},
		{"keys/jwt-secret", map[string]any{"retain": 0}, "nothing brings it back"},
		{"keys/jwt-secret", map[string]any{"rotation_period": 0, "rotation_schedule": "0 3 * * *", "rotation_window": "2m"}, "rotation_window=2m"},
	} {
		warnings := b.call(logical.UpdateOperation, c.path, c.fields).Warnings
		if found := slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, c.want) }); c.want != "" && !found || c.want == "" && len(warnings) > 0 {
			t.Errorf("%s %v: warnings are %q, want %q", c.path, c.fields, warnings, c.want)
		}
	}
}

// People read 5m, programs 300; a plan that was not asked to retain says nothing of it.
func TestDurationsForPeopleAndPrograms(t *testing.T) {
	b := newBackendTest(t)
	read := func(path string, detailed bool) map[string]any {
		return b.read(path, map[string]any{"detailed": detailed}).Data
	}
	b.write("keys/jwt-secret", map[string]any{"format": "hex", "length": 32, "generate": true, "rotation_period": "30d"})
	for _, c := range []struct {
		path, field, text string
		number            int64
	}{
		{"config", "lease_ttl", "5m", 300},
		{"journal/config", "min_age", "90d", 7776000},
		{"keys/jwt-secret", "rotation_period", "30d", 2592000},
	} {
		if got := read(c.path, false)[c.field]; got != c.text {
			t.Errorf("%s %s is %v, want %s", c.path, c.field, got, c.text)
		}
		if got := read(c.path, true)[c.field]; got != c.number {
			t.Errorf("%s %s is %v with detailed=true, want %d", c.path, c.field, got, c.number)
		}
	}
	b.write("workloads/api", map[string]any{"presents": "jwt-secret", "min_instances": 0})
	plan := b.write("rotate", map[string]any{"key": "jwt-secret", "dry_run": true})
	if _, there := plan["retain"]; there || plan["soak"] != "30s" {
		t.Errorf("plan: retain %v, soak %v", plan["retain"], plan["soak"])
	}
}
