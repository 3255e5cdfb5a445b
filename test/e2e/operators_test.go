// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// What operators do to rotations, under load: look ahead, pause, resume, confirm, cut. Nobody notices.
func TestOperatorsUnderLoad(t *testing.T) {
	w := start(t, small(true))
	w.follow(w.rotate("agent-service-token"), "done")

	plan := w.ask(map[string]any{"key": "agent-service-token", "dry_run": true})
	if line, _ := plan["step_04"].(string); !strings.Contains(strings.Join(strings.Fields(line), " "), "wave 1: agents agents-1; wave 2: agents agents-2; about") {
		t.Errorf("the plan says %q", line)
	}
	if ids, err := w.Engine.Rotations(t.Context()); err != nil || len(ids) != 1 {
		t.Errorf("rotations after a dry run: %v, %v", ids, err)
	}

	id := idOf(w.ask(map[string]any{"key": "agent-service-token", "confirm": "manual"}))
	w.write("hyvve/rotations/"+id+"/pause", map[string]any{"reason": "lunch"})
	w.until(id, "a pause", func(r api.Rotation) bool { return strings.Contains(r.NextGate, "lunch") })
	w.write("hyvve/rotations/"+id+"/resume", nil)
	w.until(id, "a confirmation that lacks", func(r api.Rotation) bool { return strings.HasSuffix(r.NextGate, "/confirm") })
	w.write("hyvve/rotations/"+id+"/confirm", map[string]any{"reason": "looks well"})
	w.follow(id, "done")

	// A list that lacks a key would take it from live processes. One that is added comes to them in waves.
	_, err := w.Server.Client.Logical().WriteWithContext(t.Context(), bed.Mount+"/workloads/agents", map[string]any{"presents": "jwt-secret"})
	if err == nil || !strings.Contains(err.Error(), "would lose key agent-service-token, which these live instances hold: agents/agents-1, agents/agents-2") {
		t.Errorf("a list that drops a key: %v", err)
	}
	w.write(bed.Mount+"/workloads/agents", map[string]any{"add_presents": "jwt-secret"})
	kit.Until(t, "all agents have followed", func() bool {
		read, err := w.Server.Client.Logical().ReadWithContext(t.Context(), bed.Mount+"/workloads/agents")
		return err == nil && read.Data["change"] == ""
	}, func() string { return "" })

	// All follow in time, so that nobody is cut off: as fast as can be, and still without a failed request.
	leaked := w.newest()["JWT_SECRET"].Reveal()
	w.identifies("JWT_SECRET=\""+leaked+"\"", "YES: ", "vault write hyvve/rotate key=jwt-secret compromised=true dry_run=true")
	begun := time.Now()
	w.follow(idOf(w.ask(map[string]any{"keys": "jwt-secret,agno-api-key", "compromised": true, "reason": "in a public log"})), "done")
	t.Logf("two compromised keys were rotated in %s", time.Since(begun).Round(time.Millisecond))
	w.identifies(leaked, "no: ", "nothing at this mount")
	w.journalIsWhole()
	w.conclude()
}

// An instance freezes when it should load the new version: the rotation reverts by itself.
func TestUnhealthyInstanceTakesTheRotationBack(t *testing.T) {
	w := start(t, small(true))
	id := idOf(w.ask(map[string]any{"keys": "encryption-master-key,agent-service-token", "on_failure": "revert"}))
	w.reach(id, "presenting", "stage-rows")
	frozen := w.Apps["agents-2"].PID()
	if err := syscall.Kill(frozen, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.until(id, "its way back", func(r api.Rotation) bool { return r.State == "reverting" })
	if err := syscall.Kill(frozen, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r := w.follow(id, "reverted")
	said := false
	for _, e := range r.Timeline {
		said = said || e.State == "reverting" && strings.Contains(e.Reason, "agents/agents-2 is not healthy")
	}
	if !said {
		t.Errorf("the timeline does not say why: %+v", r.Timeline)
	}
	for env, v := range w.newest() {
		if !v.Equal(w.Initial[env]) {
			t.Errorf("%s has another value after the revert", env)
		}
	}
	w.journalIsWhole()
}

// ask writes to rotate, and returns the answer.
func (w *world) ask(data map[string]any) map[string]any {
	w.t.Helper()
	secret, err := w.Server.Client.Logical().WriteWithContext(w.t.Context(), bed.Mount+"/rotate", data)
	if err != nil {
		w.t.Fatal(err)
	}
	return secret.Data
}

// identifies asks what a value is, and wants to hear whether it is accepted, and what to do.
func (w *world) identifies(value, accepted, do string) {
	w.t.Helper()
	secret, err := w.Server.Client.Logical().WriteWithContext(w.t.Context(), bed.Mount+"/identify", map[string]any{"value": value})
	if err != nil {
		w.t.Fatal(err)
	}
	said := func(line, want string) bool {
		text, _ := secret.Data["value_01_"+line].(string)
		return strings.Contains(text, want)
	}
	if !said("1_is", "(key jwt-secret)") || !said("2_accepted", accepted) || !said("4_do", do) && !said("4_do_1", do) {
		w.t.Errorf("identify says %v", secret.Data)
	}
}

func idOf(answer map[string]any) string {
	id, _ := answer["id"].(string)
	return id
}

// until waits for something to be so of a rotation.
func (w *world) until(id, what string, so func(api.Rotation) bool) {
	w.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		r, err := w.Engine.Rotation(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if so(r) {
			return
		}
		select {
		case <-deadline.C:
			w.t.Fatalf("waiting for %s: the rotation is %s %s: %s", what, r.State, r.Step, r.NextGate)
		case <-ticker.C:
		}
	}
}

func (w *world) journalIsWhole() {
	w.t.Helper()
	secret, err := w.Server.Client.Logical().ReadWithContext(w.t.Context(), bed.Mount+"/journal/verify")
	if err != nil {
		w.t.Fatal(err)
	}
	if entries, ok := secret.Data["entries"].(json.Number); secret.Data["whole"] != true || !ok || entries.String() == "0" {
		w.t.Errorf("journal: %v", secret.Data)
	}
}
