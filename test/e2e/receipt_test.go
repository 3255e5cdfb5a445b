// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// A token leaks while the sidecar of an instance stands still. The rotation cuts it, and the instance's process is locked out. The
// answer, the status and the workload say who that is and what to do, the receipt agrees with the journal, and when the
// sidecar runs again, all is well.
func TestCutSaysWhoIsLockedOut(t *testing.T) {
	w := start(t, small(true))
	frozen := w.Sidecars["agents-2"].PID()
	if err := syscall.Kill(frozen, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(frozen, syscall.SIGCONT) })
	secret, err := w.Server.Client.Logical().WriteWithContext(t.Context(), bed.Mount+"/rotate", map[string]any{
		"key": "agent-service-token", "compromised": true, "deadline": "2s", "wait": "40s", "retain": 0, "reason": "in a public log",
	})
	if err != nil {
		t.Fatal(err)
	}
	id := idOf(secret.Data)
	const out = "presents version 1 of AGENT_SERVICE_TOKEN, which is destroyed"
	const remedy = "vault delete hyvve/workloads/agents/instances/agents-2"
	if said := strings.Join(secret.Warnings, "\n"); secret.Data["state"] != "done" || !strings.Contains(said, "agents/agents-2, which "+out) || !strings.Contains(said, remedy) {
		t.Fatalf("the answer is %v, and warns: %s", secret.Data, said)
	}
	run := commands{t: t, vault: w.Vault}
	run.ok("read hyvve/status", "WARNING: locked out: agents-2, which "+out)
	run.ok("read -field=locked_out hyvve/workloads/agents/instances/agents-2", out)
	run.ok("read -field=healthy hyvve/workloads/agents/instances/agents-2", "false")
	run.ok("read hyvve/rotations/"+id, remedy)
	run.ok("read hyvve/rotations/"+id+"/receipt", "- agents/agents-2, which "+out)

	receipt, entries := w.receipt(id), w.exported()
	sum := sha256.Sum256([]byte(receipt.Evidence))
	last := receipt.Journal[len(receipt.Journal)-1]
	if digest := hex.EncodeToString(sum[:]); receipt.Digest != digest || len(last.Changes) != 1 || last.Changes[0].To != digest {
		t.Errorf("the evidence has SHA-256 %s, the receipt says %s, and the journal %+v", digest, receipt.Digest, last.Changes)
	}
	for _, n := range receipt.Journal {
		if e := entries[n.ID]; e.Hash != n.Hash || e.Prev != n.Prev || n.Hash == "" || e.Rotation != id {
			t.Errorf("entry %s has hash %s, and in the export %s", n.ID, n.Hash, e.Hash)
		}
	}
	if head := entries[fmt.Sprintf("%013d", receipt.Count)]; head.Hash != receipt.Head {
		t.Errorf("the head is %d %s, and the export has %+v", receipt.Count, receipt.Head, head)
	}
	if len(receipt.Cuts) == 0 || len(receipt.HeldBack) == 0 || receipt.Keys[0].ToFingerprint == "" || receipt.Reason != "in a public log" {
		t.Errorf("the receipt is %+v", receipt)
	}
	w.journalIsWhole()

	if err := syscall.Kill(frozen, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "agents-2 is locked out no longer", func() bool {
		said, err := run.run("read -field=locked_out hyvve/workloads/agents/instances/agents-2")
		return err == nil && strings.TrimSpace(said) == ""
	}, func() string { return w.Sidecars["agents-2"].Tail() })
	run.ok("read hyvve/rotations/"+id, "No instance with a lease is locked out now")
	counts, err := w.load.Counts(t.Context())
	if err != nil || counts.Calls == 0 {
		t.Errorf("there was no load: %+v, %v", counts, err)
	}
	t.Logf("%d requests, %d failed while agents-2 was locked out", counts.Total(), counts.Failures)
	w.load.Stop()
	found, places, _, err := w.Leaks(t.Context())
	if err != nil || len(found) > 0 || places == 0 {
		t.Errorf("secrets stand in %v (%d places searched, %v)", found, places, err)
	}
	if issued := w.newest()["AGENT_SERVICE_TOKEN"].Reveal(); issued == "" || strings.Contains(fmt.Sprint(receipt), issued) {
		t.Error("the receipt has a value")
	}
}

// receipt reads the receipt of a rotation.
func (w *world) receipt(id string) (r api.Receipt) {
	w.t.Helper()
	secret, err := w.Server.Client.Logical().ReadWithDataWithContext(w.t.Context(), bed.Mount+"/rotations/"+id+"/receipt", map[string][]string{"detailed": {"true"}})
	if err != nil {
		w.t.Fatal(err)
	}
	data, err := json.Marshal(secret.Data)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// exported are the entries of an export of the journal, by id.
func (w *world) exported() map[string]api.Entry {
	w.t.Helper()
	resp, err := w.Server.Client.Logical().ReadRawWithContext(w.t.Context(), bed.Mount+"/journal/export")
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	all := map[string]api.Entry{}
	for decoder := json.NewDecoder(resp.Body); ; {
		var n api.Entry
		if err := decoder.Decode(&n); err == io.EOF {
			return all
		} else if err != nil {
			w.t.Fatal(err)
		}
		all[n.ID] = n
	}
}
