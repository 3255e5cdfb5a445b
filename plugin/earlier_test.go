// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// earlierMount is what testdata/mount-436b301.json holds: all records of a mount as commit 436b301 stored them, with throw-away
// values. It has keys of several kinds, one of which protects rows; workloads with live instances; a journal; four rotations
// that have ended, one that is paused, and one that had come to where rows flip when Vault was stopped.
type earlierMount struct {
	Paused  string                       `json:"paused"`
	Active  string                       `json:"active"`
	Values  map[string]map[string]string `json:"values"` // by workload, as its instance was given them last
	Secrets map[string]string            `json:"instance_secrets"`
	Storage map[string]string            `json:"storage"`
}

func openEarlier(t *testing.T) (*backendTest, earlierMount) {
	t.Helper()
	text, err := os.ReadFile("testdata/mount-436b301.json")
	if err != nil {
		t.Fatal(err)
	}
	var m earlierMount
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	b := newBackendTest(t)
	for path, value := range m.Storage {
		if err := b.storage.Put(t.Context(), &logical.StorageEntry{Key: path, Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	return b, m
}

// works is an instance that takes what it is given, and does what it is asked.
func (b *backendTest) works(of, id string) map[string]any {
	b.t.Helper()
	resp := b.read("creds/"+of, map[string]any{"instance": id})
	var asked []workload.Work
	text, err := json.Marshal(resp.Data["work"])
	if err == nil {
		err = json.Unmarshal(text, &asked)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	var work []any
	for _, w := range asked {
		var columns []map[string]any
		for _, c := range w.Columns {
			columns = append(columns, map[string]any{"column": c.String(), "total": 7, "rotated": 7})
		}
		work = append(work, map[string]any{"id": w.ID, "done": true, "columns": columns})
	}
	b.write("report/"+of, map[string]any{
		"instance": id, "instance_secret": resp.Data["instance_secret"], "etag": resp.Data["etag"], "healthy": true, "work": work,
	})
	values, _ := resp.Data["values"].(map[string]any)
	return values
}

// ends runs the engine until a rotation is done.
func (b *backendTest) ends(id string) {
	b.t.Helper()
	deadline := time.After(time.Minute)
	for {
		for _, i := range []string{"api/api-1", "api/api-2", "agents/agents-1", "billing/billing-1"} {
			of, name, _ := strings.Cut(i, "/")
			b.works(of, name)
		}
		data := b.read("rotations/" + id).Data
		switch {
		case data["state"] == "done":
			return
		case strings.Contains(fmt.Sprint(data["next_gate"]), "/accept-witness"): // these sidecars do not say where they have looked
			b.write("rotations/"+id+"/accept-witness", map[string]any{"reason": "these sidecars do not say where"})
		case strings.HasPrefix(fmt.Sprint(data["next_gate"]), "somebody has to confirm"):
			b.write("rotations/"+id+"/confirm", nil)
		}
		select {
		case <-deadline:
			b.t.Fatalf("rotation %s is %v %v: %v", id, data["state"], data["step"], data["next_gate"])
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (b *backendTest) journalIsWhole(atLeast int) {
	b.t.Helper()
	verified := b.read("journal/verify").Data
	if n, _ := verified["entries"].(int); verified["whole"] != true || n < atLeast {
		b.t.Errorf("journal: %v", verified)
	}
}

// A mount that commit 436b301 has written opens with all that it held; what was under way continues and ends; and each key rotates.
func TestMountOf436b301(t *testing.T) {
	b, m := openEarlier(t)
	b.write("keys/metrics-api-key", map[string]any{"disable_automated_rotation": true}) // which is overdue as this file grows old
	entries := 0
	for path := range m.Storage {
		if strings.HasPrefix(path, "journal/") {
			entries++
		}
	}
	b.journalIsWhole(entries)
	if data := b.read("rotations/" + m.Active).Data; data["state"] != "presenting" {
		t.Errorf("the one under way is %v %v", data["state"], data["step"])
	}
	b.write("report/api", map[string]any{"instance": "api-1", "instance_secret": m.Secrets["api"], "healthy": true}) // of before
	for of, id := range map[string]string{"api": "api-1", "agents": "agents-1", "billing": "billing-1"} {
		was := map[string]any{}
		for env, value := range m.Values[of] {
			was[env] = value
		}
		if now := b.works(of, id); !maps.Equal(now, was) {
			t.Errorf("%s is given %d other values than before", of, len(now))
		}
	}
	if data := b.read("rotations/" + m.Paused).Data; data["paused"] != true || !strings.Contains(fmt.Sprint(data["next_gate"]), "lunch") {
		t.Errorf("the paused rotation: %v", data["next_gate"])
	}
	b.ends(m.Active)
	b.write("rotations/"+m.Paused+"/resume", nil)
	b.ends(m.Paused)
	for _, name := range b.list("keys") {
		data := map[string]any{"key": name}
		if name == "partner-key" {
			data["value"] = "throw-away-partner-value-3"
		}
		if protects, _ := b.read("keys/" + name).Data["protects"].([]string); len(protects) > 0 { // all sidecars have one login
			b.write("keys/"+name, map[string]any{"witness": "none"})
		}
		b.ends(b.write("rotate", data)["id"].(string))
	}
	b.journalIsWhole(entries + 40)
	for path, record := range b.stored() {
		if strings.HasPrefix(path, "keys/") && strings.Contains(record, `"schema":3`) {
			t.Errorf("%s is still as it was", path)
		}
	}
	for _, values := range m.Values {
		for env, value := range values {
			if strings.Contains(b.log.String()+b.answers.String(), value) {
				t.Errorf("a value of %s stands in the log or in an answer", env)
			}
		}
	}
}

// A key that an earlier release has stored under the name "all" loads, rotates by its own name, alone and with others, can be changed,
// and can be deleted, after which the name stands for every key. Until then keys=all is refused: it could mean either.
func TestKeyNamedAllOfAnEarlierRelease(t *testing.T) {
	earlier := newBackendTest(t)
	earlier.write("config", map[string]any{"soak": "0s", "observe": "0s"})
	for _, name := range []string{"older", "other"} {
		earlier.write("keys/"+name, map[string]any{"kind": "token", "generate": true})
	}
	earlier.write("workloads/api", map[string]any{"presents": "older,other"})
	b := newBackendTest(t)
	for path, record := range earlier.stored() {
		if !strings.HasPrefix(path, "journal/") { // whose hashes are over the name
			path, record = strings.Replace(path, "/older", "/all", 1), strings.ReplaceAll(record, `"older"`, `"all"`)
		}
		if err := b.storage.Put(t.Context(), &logical.StorageEntry{Key: path, Value: []byte(record)}); err != nil {
			t.Fatal(err)
		}
	}
	current := func(name string) any { return b.read("keys/" + name).Data["current_version"] }
	if names := b.list("keys"); !slices.Equal(names, []string{"all", "other"}) || fmt.Sprint(current("all")) != "1" {
		t.Fatalf("%q are there, and all has version %v", names, current("all"))
	}
	ends := func(started map[string]any) {
		t.Helper()
		kit.Until(t, "it ends", func() bool {
			b.instance("api", "api-1")
			return b.read("rotations/" + started["id"].(string)).Data["state"] == "done"
		})
	}
	for _, asked := range []map[string]any{{"keys": "all"}, {"keys": "all,other"}, {"keys": "all", "compromised": true}, {"keys": "all", "dry_run": true}} {
		b.refuses(logical.UpdateOperation, "rotate", asked, "that one with key=all")
	}
	ends(b.write("rotate", map[string]any{"key": "all"}))
	ends(b.write("rotate/all", nil))
	if one, two := fmt.Sprint(current("all")), fmt.Sprint(current("other")); one != "3" || two != "1" {
		t.Errorf("all has version %s, and other %s", one, two)
	}
	ends(b.write("rotate", map[string]any{"key": "all", "keys": "other"}))
	if one, two := fmt.Sprint(current("all")), fmt.Sprint(current("other")); one != "4" || two != "2" {
		t.Errorf("rotated together, all has version %s, and other %s", one, two)
	}
	b.write("keys/all", map[string]any{"rotation_period": "48h"})
	b.write("workloads/api", map[string]any{"remove_presents": "all", "drop": true})
	kit.Until(t, "the instance has dropped it", func() bool {
		b.instance("api", "api-1")
		return !b.call(logical.DeleteOperation, "keys/all", nil).IsError()
	})
	b.refuses(logical.UpdateOperation, "keys/all", map[string]any{"kind": "token"}, `key name "all" stands for all keys`)
	if started := b.write("rotate", map[string]any{"keys": "all"}); !slices.Equal(started["keys"].([]string), []string{"other"}) {
		t.Errorf("every key is %v", started["keys"])
	}
}
