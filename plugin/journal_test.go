// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// pages reads all pages of a query, and returns the entries in the order in which they came.
func (b *backendTest) pages(query map[string]any) []map[string]any {
	b.t.Helper()
	var all []map[string]any
	query["detailed"] = true
	for range 1000 {
		data := b.read("journal", query).Data
		all = append(all, data["entries"].([]map[string]any)...)
		if data["next"] == "" {
			return all
		}
		query["after"] = data["next"]
	}
	b.t.Fatal("the pages do not end")
	return nil
}

func ids(entries []map[string]any) []string {
	var all []string
	for _, n := range entries {
		all = append(all, n["id"].(string))
	}
	return all
}

func TestJournalPages(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	b.instance("api", "api-1")
	id := b.write("rotate/agent-service-token", map[string]any{"reason": "pages"})["id"].(string)
	b.finish(id)
	whole := b.list("journal")
	if got := ids(b.pages(map[string]any{"limit": 7})); !slices.Equal(got, whole) {
		t.Errorf("pages of 7 are %v\nwant %v", got, whole)
	}
	backwards := slices.Clone(whole)
	slices.Reverse(backwards)
	if got := ids(b.pages(map[string]any{"limit": 7, "newest": true})); !slices.Equal(got, backwards) {
		t.Errorf("newest first: %v\nwant %v", got, backwards)
	}
	if got := b.call(logical.ListOperation, "journal", map[string]any{"after": "5", "limit": "3"}).Data; !slices.Equal(got["keys"].([]string), whole[5:8]) || got["next"] != whole[7] {
		t.Errorf("list after 5: %v", got)
	}
	for _, n := range b.pages(map[string]any{"rotation": id, "limit": 2}) {
		if n["rotation"] != id || n["reason"] != "pages" {
			t.Errorf("of the rotation: %v", n)
		}
	}
	if n := len(b.pages(map[string]any{"rotation": id, "limit": 2})); n < 8 {
		t.Errorf("%d entries of the rotation", n)
	}
	for _, n := range b.pages(map[string]any{"key": "jwt-secret"}) {
		if !strings.Contains(fmt.Sprint(n["keys"]), "jwt-secret") {
			t.Errorf("of the key: %v", n)
		}
	}
	if n := len(b.pages(map[string]any{"actor": "tester"})); n != len(whole) {
		t.Errorf("%d of %d entries are the tester's", n, len(whole))
	}
	if n := len(b.pages(map[string]any{"actor": "somebody"})); n != 0 {
		t.Errorf("%d entries are somebody's", n)
	}
	for _, limit := range []int{0, -1, 1001} {
		b.refuses(logical.ReadOperation, "journal", map[string]any{"limit": limit}, "is not between 1 and 1000")
		b.refuses(logical.ReadOperation, "journal/export", map[string]any{"after": "latest"}, `after "latest" is no id or number of an entry`)
	}
}

func TestJournalExport(t *testing.T) {
	b := hyvve(t)
	whole := b.list("journal")
	var got []string
	after := ""
	for {
		data := b.read("journal/export", map[string]any{"after": after, "limit": 5}).Data
		body := data[logical.HTTPRawBody].([]byte)
		if data[logical.HTTPContentType] != contentJSONLines || data[logical.HTTPStatusCode] != 200 || body == nil {
			t.Fatalf("%v", data)
		}
		if len(body) == 0 {
			break
		}
		for line := range bytes.Lines(body) {
			var entry struct{ ID, What, Hash string }
			if err := json.Unmarshal(line, &entry); err != nil || entry.What == "" || entry.Hash == "" {
				t.Fatalf("%s: %v", line, err)
			}
			got, after = append(got, entry.ID), entry.ID
		}
	}
	if !slices.Equal(got, whole) {
		t.Errorf("exported are %v\nwant %v", got, whole)
	}
}

// An operator can read count and head from hyvve/journal/head and from the log, to keep them elsewhere.
func TestJournalHeadIsExposed(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	b.instance("api", "api-1")
	b.finish(b.write("rotate/agent-service-token", nil)["id"].(string))
	head, verified := b.read("journal/head").Data, b.read("journal/verify").Data
	if head["head"] == "" || verified["head"] != head["head"] || verified["count"] != head["count"] || verified["last"] != head["count"] {
		t.Errorf("head %v, verified %v", head, verified)
	}
	ids := b.list("journal")
	if last := b.read("journal/" + ids[len(ids)-1]).Data; last["hash"] != head["head"] {
		t.Errorf("head %v is not the hash of %v", head, last)
	}
	if log := b.log.String(); !strings.Contains(log, fmt.Sprintf("journal head: count=%v head=%v", head["count"], head["head"])) {
		t.Errorf("the log does not have %v", head)
	}
}

func TestJournalFloor(t *testing.T) {
	b := newBackendTest(t)
	if data := b.read("journal/config", map[string]any{}).Data; data["min_entries"] != 10_000 || data["min_age"] != "90d" {
		t.Errorf("the floor of a fresh mount is %v", data)
	}
	b.refuses(logical.UpdateOperation, "config", map[string]any{"journal_max_age": "1s"}, "hyvve/journal/config")
	b.refuses(logical.UpdateOperation, "config", map[string]any{"journal_max_entries": 5000}, "hyvve/journal/config")
	b.refuses(logical.UpdateOperation, "journal/config", map[string]any{"min_entries": 99}, "use at least 100")
	b.write("journal/config", map[string]any{"min_age": "1h"})
	newest := b.read("journal", map[string]any{"newest": true, "limit": 1, "detailed": true}).Data["entries"].([]map[string]any)[0]
	if newest["what"] != "journal's floor lowered" || newest["kept_for_good"] != true || !strings.Contains(fmt.Sprint(newest["changes"]), "90d") {
		t.Errorf("%v", newest)
	}
	b.write("config", map[string]any{"journal_max_age": "2h"})
	b.write("journal/config", map[string]any{"min_age": "3h"})
	if resp := b.read("config"); len(resp.Warnings) != 1 {
		t.Errorf("no warning of a bound below the floor: %v", resp.Warnings)
	}
}
