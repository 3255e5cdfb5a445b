// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	engineapi "github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// A sidecar renders files, reloads nothing and checks nothing, so that nobody knows whether its workload uses them. A rotation of a
// workload that requires a health check waits, names it, and says what to do; it continues when the workload requires less.
func TestRotationWaitsForProof(t *testing.T) {
	w := start(t, small(true))
	name, dir, err := w.Place("api", 8)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.StartSidecar(t.Context(), "api", 8, fmt.Sprintf("render \"json\" { path = \"%s/secrets.json\" }\n", dir)); err != nil {
		t.Fatal(err)
	}
	read := func(path string) map[string]any {
		t.Helper()
		secret, err := w.Server.Client.Logical().ReadWithDataWithContext(t.Context(), path, map[string][]string{"detailed": {"true"}})
		if err != nil || secret == nil {
			t.Fatalf("%s: %v", path, err)
		}
		return secret.Data
	}
	instance := func(name string) map[string]any { return read("hyvve/workloads/api/instances/" + name) }
	kit.Until(t, "it has loaded its bundle", func() bool {
		secret, err := w.Server.Client.Logical().ReadWithContext(t.Context(), "hyvve/workloads/api/instances/"+name)
		return err == nil && secret != nil && secret.Data["etag_loaded"] != ""
	})
	if of := instance(name); of["proof"] != "none" || of["healthy"] != true {
		t.Errorf("%s: proof %v, healthy %v", name, of["proof"], of["healthy"])
	}
	if of := instance("api-1"); of["proof"] != "etag" {
		t.Errorf("api-1: proof %v", of["proof"])
	}
	const less = "api: 1 of 3 instances prove less than health: api-8 (none); add to their configuration what \"hyvve-sidecar validate\" says they lack, or: vault write hyvve/workloads/api require_proof=none"
	plan := w.ask(map[string]any{"key": "agent-service-token", "dry_run": true, "detailed": true})
	if blockers, _ := plan["blockers"].([]any); !slices.Contains(blockers, any(less)) {
		t.Errorf("the plan says %v", plan["blockers"])
	}
	id := w.rotate("agent-service-token")
	held := func(r engineapi.Rotation) bool {
		return slices.ContainsFunc(r.Gates, func(g engineapi.Gate) bool { return g.Gate == "proof" && !g.Holds && g.Reason == less })
	}
	w.until(id, "the gate proof to hold it back", held)
	select {
	case <-time.After(3 * time.Second):
	case <-t.Context().Done():
	}
	if r, err := w.Engine.Rotation(t.Context(), id); err != nil || r.State != "accepting" || !held(r) {
		t.Fatalf("it went on: %s %s, %v", r.State, r.Step, err)
	}
	w.write("hyvve/workloads/api", map[string]any{"require_proof": "none"})
	w.follow(id, "done")
	receipt := read("hyvve/rotations/" + id + "/receipt")
	if text := fmt.Sprint(receipt["proofs"]); !strings.Contains(text, "grade:etag") || !strings.Contains(text, "grade:none") {
		t.Errorf("the receipt says %s", text)
	}
	w.conclude()
}

// Two sidecars have one instance name. With another login, the second one is refused; with the same one, they take it from each other.
// Both logs say so, and so do status and the workload.
func TestTwoSidecarsOfOneName(t *testing.T) {
	w := start(t, small(true))
	token, err := w.Server.Client.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"agents"}, TTL: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	for name, auth := range map[string]func(dir string) string{
		"agents-7": func(string) string {
			return fmt.Sprintf("auth \"approle\" {\n role_id_file = \"%[1]s/role-id\"\n secret_id_file = \"%[1]s/secret-id\"\n}", filepath.Join(w.Bed.Dir, "agents-1"))
		},
		"agents-8": func(dir string) string {
			path := filepath.Join(dir, "token")
			if err := os.WriteFile(path, []byte(token.Auth.ClientToken), 0o600); err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("auth \"token_file\" { path = %q }", path)
		},
	} {
		var both []*bed.Program
		for n := range 2 {
			dir := filepath.Join(w.Bed.Dir, fmt.Sprintf("%s-%d", name, n))
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			config := fmt.Sprintf("workload = \"agents\"\ninstance = %q\nvault {\n address = %q\n %s\n}\nrender \"json\" { path = \"%s/secrets.json\" }\n", name, w.Server.Addr, auth(dir), dir)
			path := filepath.Join(dir, "sidecar.hcl")
			if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			p, err := w.Bed.Program(fmt.Sprintf("%s-%d-sidecar", name, n), bed.Tool("bin", "hyvve-sidecar"), []string{"agent", "--config=" + path}, nil)
			if err != nil {
				t.Fatal(err)
			}
			both = append(both, p)
		}
		says := func(p *bed.Program) bool {
			return strings.Contains(p.Tail(), "another process uses the name") || strings.Contains(p.Tail(), "two processes use the name "+name)
		}
		kit.Until(t, name+": both logs say so", func() bool { return says(both[0]) && says(both[1]) }, both[0].Tail, both[1].Tail)
		for path, field := range map[string]string{"hyvve/status": "workload agents", "hyvve/workloads/agents": "name_conflict_01", "hyvve/workloads/agents/instances/" + name: "name_conflict"} {
			secret, err := w.Server.Client.Logical().ReadWithContext(t.Context(), path)
			if err != nil || !strings.Contains(fmt.Sprint(secret.Data[field]), "two processes use the name") {
				t.Errorf("%s: %s says %v, %v", path, field, secret.Data[field], err)
			}
			if strings.HasSuffix(path, "/agents") && !strings.Contains(strings.Join(secret.Warnings, "\n"), "two processes use the name") {
				t.Errorf("%s warns of %q", path, secret.Warnings)
			}
		}
		for _, p := range both {
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
		}
	}
}
