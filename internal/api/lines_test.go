// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// People get a line for each element, and programs the structure.
func TestLines(t *testing.T) {
	at := Time{time.Date(2026, 11, 30, 3, 0, 0, 5, time.UTC)}
	lines := Lines(Rotation{
		RotationSummary: RotationSummary{
			ID: "r1", Keys: []string{"a", "b"}, Versions: map[string]VersionChange{"a": {1, 2}, "b": {3, 4}}, NextGate: strings.Repeat("word ", 100),
		},
		Soak:      Seconds(90),
		Gates:     []Gate{{Gate: "loaded", Reason: "api-1 lacks"}, {Gate: "healthy", Holds: true}},
		Instances: []RotationInstance{{Workload: "api", Instance: "api-1", MayGoTo: "present new", Proof: "reload", Healthy: true, Seen: at}},
		Timeline:  []Event{{Time: at, State: "accepting", Step: "load", Text: "paused", By: "bob", Reason: "lunch"}},
		Rows:      map[string]Rows{"a": {Done: true, Columns: []ColumnRows{{Column: "t.c", Total: 3}}}},
	})
	for name, want := range map[string]string{
		"versions_a": "1 -> 2", "versions_b": "3 -> 4", "soak": "1m30s", "gate_01": "waits: loaded: api-1 lacks", "gate_02": "holds: healthy",
		"instance_01": "api/api-1: may go to: present new, NOT LOADED, proof reload, healthy", "timeline_01": "2026-11-30T03:00:00Z accepting load: paused, by bob: lunch",
		"rows_a": "done, columns (column t.c, total 3)", "waves": "none", "keys": "[a b]", "retain": "<nil>", "retention": "none",
	} {
		if got := fmt.Sprint(lines[name]); got != want && !strings.HasPrefix(got, want) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for line := range strings.Lines(lines["next_gate"].(string)) {
		if len(line) > MaxLine+5 {
			t.Errorf("a line has %d characters", len(line))
		}
	}
	many := Lines(Rotation{Instances: make([]RotationInstance, 3000)})
	if len(many) > 200 || many["instance_more"] != "2900 more; detailed=true has all" {
		t.Errorf("%d lines, %v", len(many), many["instance_more"])
	}
}

// A long text breaks where a part of it ends, and no character is lost.
func TestWrapped(t *testing.T) {
	text := "api: 1 of 2 instances not there yet: api-1, still holds version 1 of DATABASE_URL; agents: 1 of 3 instances are not healthy: agents-2: the process has exited with status 1; wait, or: vault write -f hyvve/rotations/20261130t134307.673-6aca12/revert"
	got := wrapped(text)
	if strings.ReplaceAll(got, "\n    ", " ") != text || !strings.Contains(got, "DATABASE_URL;\n") {
		t.Errorf("%s", got)
	}
	if long := strings.Repeat("x", 500); wrapped(long) != long {
		t.Error("what has no end was broken")
	}
}
