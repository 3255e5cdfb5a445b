// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// What an operator may ask for wrongly: each refused, with what to do, and nothing changed.
func TestOperatorsMistakes(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	b.instance("api", "api-1")
	running := b.write("rotate/agno-api-key", map[string]any{"confirm": "manual"})["id"].(string)
	ended := b.write("rotate/agent-service-token", nil)["id"].(string)
	b.finish(ended)
	b.awaitConfirm(running) // from here on nothing moves by itself
	for _, c := range []struct {
		path string
		data map[string]any
		want string
	}{
		{"keys/jwt-secret", map[string]any{"rotation_schedule": "0 0 31 2 *"}, "never comes in the next five years"},
		{"keys/jwt-secret", map[string]any{"rotation_schedule": "at noon"}, "is not a cron expression of five fields"},
		{"keys/jwt-secret", map[string]any{"rotation_period": 0, "rotation_window": "1h"}, "rotation_window needs a rotation_schedule"},
		{"keys/jwt-secret", map[string]any{"rotation_period": "1h", "rotation_schedule": "@daily"}, "exclude each other"},
		{"keys/jwt-secret", map[string]any{"rotation_period": "9s"}, "use at least 10s"},
		{"keys/jwt-secret", map[string]any{"on_failure": "hope"}, "use pause or revert"},
		{"keys/jwt-secret", map[string]any{"confirm": "perhaps"}, "use auto or manual"},
		{"keys/jwt-secret", map[string]any{"deadline": "-5m"}, "is negative"},
		{"workloads/api", map[string]any{"after": "agents"}, "in a circle"},
		{"workloads/api", map[string]any{"max_unavailable": "0"}, "neither a number from 1"},
		{"workloads/api", map[string]any{"max_unavailable": "0%"}, "neither a number from 1"},
		{"workloads/agents", map[string]any{"single_value": "agent-service-token"}, "does not verify"},
		{"config", map[string]any{"journal_max_entries": 3}, "use at least 100"},
		{"config", map[string]any{"compromised_deadline": 0}, "too short"},
		{"config", map[string]any{"on_failure": ""}, "use pause or revert"},
		{"rotate", map[string]any{"keys": "jwt-secret,jwt-sekret"}, `"jwt-sekret" is not known`},
		{"rotate", map[string]any{"keys": "jwt-secret,jwt-secret"}, "named twice"},
		{"rotate", map[string]any{"key": "agno-api-key"}, "is being rotated by " + running},
		{"rotate", map[string]any{"keys": "agent-service-token,agno-api-key"}, "is being rotated by " + running},
		{"rotate", map[string]any{"key": "agno-api-key", "dry_run": true}, "is being rotated by " + running},
		{"rotate", map[string]any{"key": "agent-service-token", "on_failure": "retry"}, "use pause or revert"},
		{"rotate", map[string]any{"key": "agent-service-token", "confirm": "no"}, "use auto or manual"},
		{"rotations/" + ended + "/confirm", nil, "is done; there is nothing to confirm"},
		{"rotations/" + ended + "/revert", nil, "is done; to go back to an earlier value"},
		{"rotations/" + ended + "/pause", nil, "nothing to pause"},
		{"rotations/" + ended + "/resume", nil, "nothing to resume"},
		{"rotations/" + running + "/resume", nil, "is not paused"},
		{"rotations/nothing/pause", nil, "is not known; name one by its id"},
	} {
		b.refuses(logical.UpdateOperation, c.path, c.data, c.want)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	before := len(b.stored())
	plan := b.write("rotate", map[string]any{"keys": "agent-service-token,agno-api-key", "dry_run": true, "detailed": true})
	if after := len(b.stored()); after != before {
		t.Errorf("%d records became %d", before, after)
	}
	if blockers := strings.Join(plan["blockers"].([]string), "; "); !strings.Contains(blockers, "api: 0 of at least 1 instances are there") {
		t.Errorf("blockers are %q", blockers)
	}
	if moves := plan["moves"].([]map[string]any); len(moves) < 6 || moves[len(moves)-1]["state"] != "done" {
		t.Errorf("moves are %v", moves)
	}
	lines := b.write("rotate", map[string]any{"key": "agent-service-token", "dry_run": true})
	if line, _ := lines["step_04"].(string); line != "presenting switch: those that present switch to the new version; wave 1: agents agents-1" {
		t.Errorf("step_04 is %q of %v", line, lines)
	}
	if _, exists := plan["id"]; exists {
		t.Error("a plan has the id of a rotation")
	}
}

func TestPauseResumeConfirm(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	b.instance("api", "api-1")
	id := b.write("rotate/agent-service-token", map[string]any{"confirm": "manual"})["id"].(string)
	b.write("rotations/"+id+"/pause", map[string]any{"reason": "wait for ann"})
	data := b.read("rotations/" + id).Data
	if data["paused"] != true || !strings.Contains(data["next_gate"].(string), "wait for ann") {
		t.Errorf("paused: %v: %v", data["paused"], data["next_gate"])
	}
	if line := b.read("status").Data["agent-service-token"].(string); !strings.Contains(line, "wait for ann") {
		t.Errorf("status says %q", line)
	}
	b.write("rotations/"+id+"/resume", nil)
	b.awaitConfirm(id)
	b.write("rotations/"+id+"/confirm", nil)
	if data := b.finish(id); data["state"] != "done" || data["confirmed_by"] != "tester" {
		t.Errorf("it ended as %v, confirmed by %v", data["state"], data["confirmed_by"])
	}
	verified := b.read("journal/verify").Data
	if verified["whole"] != true || verified["entries"].(int) < 10 {
		t.Errorf("journal: %v", verified)
	}
}

// awaitConfirm runs the engine until a rotation waits for nothing but a confirmation.
func (b *backendTest) awaitConfirm(id string) {
	b.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		gate, _ := b.read("rotations/" + id).Data["next_gate"].(string)
		if strings.HasPrefix(gate, "somebody has to confirm") && strings.HasSuffix(gate, "/confirm") {
			return
		}
		select {
		case <-deadline:
			b.t.Fatalf("the rotation waits for: %s", gate)
		default:
		}
		b.instance("agents", "agents-1")
		b.instance("api", "api-1")
	}
}

// A write to storage fails, and nobody knows whether it took effect: the next request finds an engine that has read its
// records again.
func TestFailedWriteIsSurvived(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	b.storage.Underlying().FailPut(true)
	req := &logical.Request{Operation: logical.UpdateOperation, Path: "rotate/agent-service-token", Storage: b.storage, DisplayName: "tester"}
	if resp, err := b.backend.HandleRequest(t.Context(), req); err == nil && !resp.IsError() {
		t.Fatalf("a rotation starts without storage: %v", resp)
	}
	b.storage.Underlying().FailPut(false)
	b.instance("agents", "agents-1")
	b.instance("api", "api-1")
	id := b.write("rotate/agent-service-token", nil)["id"].(string)
	if data := b.finish(id); data["state"] != "done" {
		t.Errorf("it ended as %v", data["state"])
	}
}
