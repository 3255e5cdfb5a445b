// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// After a cut, whatever an operator reads says who is locked out and what to do; the receipt agrees with the journal, and lines of
// it are for people.
func TestCutIsSaidEverywhere(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	b.instance("agents", "agents-2") // which reads nothing new
	b.instance("api", "api-1")
	running := b.call(logical.UpdateOperation, "rotate", map[string]any{"key": "agent-service-token", "compromised": true, "deadline": "1s", "retain": 0, "reason": "in a log"})
	id, _ := running.Data["id"].(string)
	if unfinished := b.read("rotations/" + id + "/receipt"); len(unfinished.Warnings) != 1 || unfinished.Data["line_002"] != "UNFINISHED: the rotation has not ended" {
		t.Errorf("the receipt of a rotation that runs: %v, %v", unfinished.Warnings, unfinished.Data["line_002"])
	}
	b.finish(id)

	const out = "presents version 1 of AGENT_SERVICE_TOKEN, which is destroyed"
	const remedy = "vault delete hyvve/workloads/agents/instances/agents-2"
	said := func(what, text string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%s lacks %q: %s", what, part, text)
			}
		}
	}
	read := b.read("rotations/" + id)
	said("the warning", strings.Join(read.Warnings, "\n"), "did not wait for: loaded of presenting switch", "agents/agents-2", out, remedy)
	if cuts, _ := read.Data["cuts"].([]map[string]any); len(cuts) == 0 || len(read.Data["proofs"].([]map[string]any)) == 0 {
		t.Errorf("the rotation shows no evidence: %v", read.Data)
	}
	status := b.read("status").Data
	said("the status of the workload", fmt.Sprint(status["workload agents"]), "WARNING: locked out: agents-2, which "+out, remedy)
	said("the status of the key", fmt.Sprint(status["agent-service-token"]), "WARNING: rotation "+id+" did not wait for")
	if busy := b.read("status", map[string]any{"busy": true}).Data; busy["agent-service-token"] == nil || busy["workload agents"] == nil {
		t.Errorf("busy=true leaves it out: %v", busy)
	}
	for _, i := range b.read("workloads/agents").Data["instances"].([]map[string]any) {
		if cut := i["instance"] == "agents-2"; i["healthy"] == cut || (i["locked_out"] == out) != cut {
			t.Errorf("%v", i)
		}
	}
	if i := b.read("workloads/agents/instances/agents-2").Data; i["healthy"] != false || i["locked_out"] != out {
		t.Errorf("%v", i)
	}

	receipt := b.read("rotations/"+id+"/receipt", map[string]any{"detailed": true}).Data
	sum := sha256.Sum256([]byte(receipt["evidence_json"].(string)))
	entries := receipt["journal"].([]map[string]any)
	last := entries[len(entries)-1]
	if changes := last["changes"].([]map[string]any); len(changes) != 1 || changes[0]["to"] != hex.EncodeToString(sum[:]) || changes[0]["field"] != "receipt_sha256" {
		t.Errorf("the journal says %v of the receipt, which has %x", last, sum)
	}
	for _, n := range entries {
		if stored := b.read("journal/" + n["id"].(string)).Data; stored["hash"] != n["hash"] || n["hash"] == "" {
			t.Errorf("the journal has %v, and the receipt %v", stored, n)
		}
	}
	lines := b.read("rotations/" + id + "/receipt").Data
	var text []string
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		line := lines[name].(string)
		text = append(text, line)
		if len(line) > 200 || strings.Contains(line, "map[") {
			t.Errorf("%s: %s", name, line)
		}
	}
	all := strings.Join(strings.Fields(strings.Join(text, " ")), " ")
	said("the receipt", all, "started at", "by tester", "reason: in a log", "key agent-service-token (AGENT_SERVICE_TOKEN): version 1", "gates that were cut",
		"- agents/agents-2, which "+out, "loaded of presenting switch: ", "proof none, agent-service-token presents 1: agents-2", "proof report health, agent-service-token presents 2: agents-1",
		"hash "+last["hash"].(string), hex.EncodeToString(sum[:]))

	b.instance("agents", "agents-2")
	kit.Until(t, "agents-2 is locked out no longer", func() bool { return b.read("status").Data["workload agents"] == nil }, func() string { return fmt.Sprint(b.read("status").Data) })
	said("the warning", strings.Join(b.read("rotations/"+id).Warnings, "\n"), "No instance with a lease is locked out now")
	b.refuses(logical.ReadOperation, "rotations/none/receipt", nil, "is not known")
}

// Lines of a receipt are read in their order, also where very many instances are locked out.
func TestLinesOfALongReceipt(t *testing.T) {
	var r api.Receipt
	for n := range 1000 {
		r.LockedOut = append(r.LockedOut, api.LockedOut{Workload: "agents", Instance: fmt.Sprint(n)})
	}
	text := receiptLines(r)
	lines := text.numbered()
	var read []string
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		read = append(read, lines[name].(string))
	}
	if len(text) < 1000 || !slices.Equal(read, text) {
		t.Errorf("%d lines are in another order", len(text))
	}
}
