// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// An answer that was waited for says what has come of the rotation, and warns unless it is done.
func TestOutcomeIsSaid(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	b.instance("api", "api-1")
	ask := func(path string, data map[string]any, outcome, warning string) string {
		t.Helper()
		resp := b.call(logical.UpdateOperation, path, data)
		if resp.IsError() || resp.Data["outcome"] != outcome {
			t.Errorf("%s: %v, want outcome %s", path, resp.Data, outcome)
		}
		if all := strings.Join(resp.Warnings, "\n"); warning == "" && all != "" || !strings.Contains(all, warning) {
			t.Errorf("%s warns %q, want %q", path, all, warning)
		}
		id, _ := resp.Data["id"].(string)
		return id
	}
	id := ask("rotate/agno-api-key", map[string]any{"wait": "1s", "confirm": "manual"}, "running", "has not ended, it is accepting load and waits for:")
	ask("rotations/"+id+"/pause", nil, "paused", "")
	ask("rotations/latest/resume", nil, "running", "")
	b.write("rotations/agno-api-key/revert", nil)
	b.finish(id)
	if data := b.read("rotations/latest").Data; data["outcome"] != "reverted" || data["id"] != id {
		t.Errorf("%v", data)
	}
	b.refuses(logical.UpdateOperation, "rotations/"+id[:1]+"x/pause", nil, `is not known; name one by its id`)
}

// A read with the newest revision is answered without the instances when there is news, or after the wait.
func TestReadFollowsARotation(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	b.instance("api", "api-1")
	id := b.write("rotate/agno-api-key", map[string]any{"confirm": "manual"})["id"].(string)
	b.awaitConfirm(id)
	known := b.read("rotations/latest", map[string]any{"wait": "0s", "detailed": true}).Data
	done := make(chan map[string]any)
	go func() {
		done <- b.read("rotations/agno-api-key", map[string]any{"since": known["revision"], "wait": "5s", "detailed": true}).Data
	}()
	b.write("rotations/"+id+"/pause", nil)
	now := <-done
	if now["revision"] == known["revision"] || now["outcome"] != "paused" {
		t.Errorf("%v after %v", now, known)
	}
	if len(now["gates"].([]map[string]any)) == 0 || len(now["instances"].([]map[string]any)) != 0 {
		t.Errorf("%v", now)
	}
	if again := b.read("rotations/latest", map[string]any{"since": now["revision"], "wait": "1s"}).Data; again["revision"] != now["revision"] {
		t.Errorf("%v, though nothing has changed since %v", again, now)
	}
	b.refuses(logical.ReadOperation, "rotations/latest", map[string]any{"wait": "2h"}, "is not between 0s and 1m")
}
