// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// A sidecar is stopped while its process lives on. A rotation waits for it, says until when, and continues once the sidecar is back. No
// request of the process fails meanwhile.
func TestRotationWaitsForAStoppedSidecar(t *testing.T) {
	w := start(t, small(true))
	w.write("hyvve/workloads/agents", map[string]any{"min_instances": 1})
	w.isBack("agents-2")
	if err := w.Sidecars["agents-2"].Stop(); err != nil {
		t.Fatal(err)
	}
	run := commands{t: t, vault: w.Vault}
	run.ok("read hyvve/status", "agents-2: its sidecar stopped at ")
	run.ok("read hyvve/workloads/agents", "agents-2: healthy, LEAVING: its sidecar stopped at ")
	id := w.rotate("agent-service-token")
	w.reach(id, "presenting", "switch")
	waits := ""
	kit.Until(t, "the rotation waits for agents-2 alone", func() bool {
		r, err := w.Engine.Rotation(t.Context(), id)
		waits = r.NextGate
		return err == nil && strings.Contains(waits, "agents: 1 of 2 instances not there yet: agents-2, still holds version 1 of AGENT_SERVICE_TOKEN; its sidecar stopped at ")
	}, func() string { return waits })
	if !strings.Contains(waits, "beside a process that may still run, so it counts until ") || !strings.Contains(waits, "vault delete hyvve/workloads/agents/instances/agents-2") {
		t.Errorf("it waits: %s", waits)
	}
	w.callsGoOn(5 * time.Second)
	if r, err := w.Engine.Rotation(t.Context(), id); err != nil || r.State != "presenting" {
		t.Fatalf("the rotation is %s, %v", r.State, err)
	}
	if err := w.StartSidecarAgain("agents-2"); err != nil {
		t.Fatal(err)
	}
	w.follow(id, "done")
	w.isBack("agents-2")
	w.conclude()
}

// callsGoOn waits for so long under load, in which no request may fail.
func (w *world) callsGoOn(long time.Duration) {
	w.t.Helper()
	for end := time.After(long); ; {
		select {
		case <-end:
			return
		case <-time.After(time.Second):
		}
		if counts, err := w.load.Counts(w.t.Context()); err != nil || counts.Failures > 0 {
			w.t.Fatalf("requests: %+v, %v", counts, err)
		}
	}
}

// All sidecars are upgraded one by one during rotations, also the one that runs its workload itself, and no request fails.
func TestSidecarsAreUpgradedDuringRotations(t *testing.T) {
	w := start(t, small(true))
	exec, err := w.StartExec(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range [][]string{{"agent-service-token"}, {"database-url", "redis-url"}, {"encryption-master-key", "agent-service-token"}} {
		id := w.rotate(keys...)
		for _, name := range []string{"api-1", "api-2", "agents-1", "agents-2"} {
			if err := w.Sidecars[name].Stop(); err != nil {
				t.Fatal(err)
			}
			if err := w.StartSidecarAgain(name); err != nil {
				t.Fatal(err)
			}
			w.isBack(name)
		}
		if err := w.Sidecars[exec].Stop(); err != nil {
			t.Fatal(err)
		}
		w.Agents = w.Agents[:len(w.Agents)-1]
		run := commands{t: t, vault: w.Vault}
		if said, err := run.run("list hyvve/workloads/agents/instances"); err != nil || strings.Contains(said, exec) {
			t.Errorf("the instance whose workload has ended is there: %s, %v", said, err)
		}
		if _, err := w.StartExec(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		w.follow(id, "done")
	}
	w.conclude()
}

// isBack waits until the sidecar of an instance has it, and has reported it healthy.
func (w *world) isBack(name string) {
	w.t.Helper()
	workload, _, _ := strings.Cut(name, "-")
	kit.Until(w.t, name+" is back", func() bool {
		secret, err := w.Server.Client.Logical().ReadWithContext(w.t.Context(), "hyvve/workloads/"+workload+"/instances/"+name)
		return err == nil && secret != nil && secret.Data["leaving"] == "" && secret.Data["healthy"] == true
	}, w.Sidecars[name].Tail)
}
