// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// as makes a request with the token of an accessor and an entity.
func (b *backendTest) as(accessor, entity string, operation logical.Operation, path string, data map[string]any) *logical.Response {
	b.t.Helper()
	resp, err := b.backend.HandleRequest(b.t.Context(), &logical.Request{
		Operation: operation, Path: path, Data: data, Storage: b.storage, DisplayName: "kubernetes-" + entity, ClientToken: "salted-" + accessor,
		ClientTokenAccessor: accessor, EntityID: entity,
	})
	if err != nil && resp == nil {
		b.t.Fatalf("%s: %v", path, err)
	}
	return resp
}

func TestCredsOfAnothersInstance(t *testing.T) {
	b := hyvve(t)
	mine := b.as("canary-accessor", "e-1", logical.UpdateOperation, "creds/api", map[string]any{"instance": "api-1", "pod": "api-0", "node": "n-1"})
	if mine.IsError() {
		t.Fatal(mine.Error())
	}
	for _, says := range []map[string]any{{}, {"one_line": ""}} { // nothing: it can carry no value of several lines
		says["instance"] = "api-1"
		if resp := b.as("canary-accessor", "e-1", logical.UpdateOperation, "creds/api", says); resp.IsError() {
			t.Fatal(resp.Error())
		}
		if got := b.read("workloads/api/instances/api-1").Data["one_line"].([]string); len(got) != 1 || got[0] != "all" {
			t.Errorf("a reader that says %v is taken for one that carries all but %q", says, got)
		}
	}
	mine = b.as("canary-accessor", "e-1", logical.UpdateOperation, "creds/api", map[string]any{"instance": "api-1", "pod": "api-0", "node": "n-1"})
	secret := mine.Data["instance_secret"].(string)
	theirs := b.as("other", "e-1", logical.ReadOperation, "creds/api", map[string]any{"instance": "api-1"})
	if !theirs.IsError() || !strings.Contains(theirs.Error().Error(), "belongs to another login (kubernetes-e-1)") || !strings.Contains(theirs.Error().Error(), "in 30s") {
		t.Errorf("another login: %v", theirs)
	}
	if inURL := b.as("other", "e-1", logical.ReadOperation, "creds/api", map[string]any{"instance": "api-1", "instance_secret": secret}); !inURL.IsError() || strings.Contains(inURL.Error().Error(), secret) {
		t.Errorf("a secret in a URL: %v", inURL)
	}
	watched := b.as("canary-accessor", "e-1", logical.ReadOperation, "watch/api", map[string]any{"instance": "api-1", "etag": mine.Data["etag"], "wait": 0})
	if watched.IsError() || watched.Data["changed"].(bool) {
		t.Errorf("its watch: %v", watched)
	}
	if spied := b.as("other", "e-1", logical.ReadOperation, "watch/api", map[string]any{"instance": "api-1", "etag": mine.Data["etag"], "wait": 5}); spied.Data["etag"] != "" || spied.Data["changed"] != true {
		t.Errorf("another login's watch: %v", spied.Data)
	}
	seen := b.read("workloads/api/instances/api-1", map[string]any{"detailed": true}).Data
	login := seen["login"].(map[string]any)
	if login["display_name"] != "kubernetes-e-1" || login["entity"] != "e-1" || len(login["accessor_fingerprint"].(string)) != shortLogin ||
		seen["says_pod"] != "api-0" || seen["says_node"] != "n-1" || seen["sidecar"] != true || seen["free_in"].(int64) < 29 || seen["login_since"] == "" {
		t.Errorf("%v", seen)
	}
	if next := b.as("other", "e-2", logical.UpdateOperation, "creds/api", map[string]any{"instance": "api-1", "instance_secret": secret}); next.IsError() {
		t.Errorf("with its secret: %v", next.Error())
	}
	for path, text := range b.stored() {
		if strings.Contains(text, "canary-accessor") || strings.Contains(text, "salted-") {
			t.Errorf("%s has a token's accessor, or its id", path)
		}
	}
	if strings.Contains(b.log.String()+b.answers.String(), "canary-accessor") {
		t.Error("an answer or the log has an accessor")
	}
	for _, bad := range []map[string]any{{"pod": "a\nb"}, {"node": "N"}} {
		bad["instance"] = "api-2"
		if resp := b.as("other", "e-2", logical.UpdateOperation, "creds/api", bad); !resp.IsError() {
			t.Errorf("%v is taken", bad)
		}
	}
}

func TestInstancesPath(t *testing.T) {
	b := hyvve(t)
	b.write("config", map[string]any{"max_instances_per_login": 1})
	if resp := b.as("one", "e-1", logical.ReadOperation, "creds/api", map[string]any{"instance": "api-1"}); resp.IsError() {
		t.Fatal(resp.Error())
	}
	if resp := b.as("one", "e-1", logical.ReadOperation, "creds/api", nil); !resp.IsError() || !strings.Contains(resp.Error().Error(), "max_instances_per_login") {
		t.Fatalf("beyond the limit: %v", resp)
	}
	if got := b.list("workloads/api/instances"); len(got) != 1 || got[0] != "api-1" {
		t.Errorf("listed %v", got)
	}
	const hit = "1 reads were refused"
	if line, _ := b.read("status").Data["workload api"].(string); !strings.Contains(line, hit) {
		t.Errorf("status says %q", line)
	}
	if all := b.read("status", map[string]any{"detailed": true}).Data["limits_hit"].(map[string]any); len(all) != 1 {
		t.Errorf("status says %v in detail", all)
	}
	if line, _ := b.read("workloads/api").Data["limit_hit"].(string); !strings.Contains(line, hit) {
		t.Errorf("workloads/api says %q", line)
	}
	if resp := b.call(logical.DeleteOperation, "workloads/api/instances/api-1", nil); resp.IsError() {
		t.Fatal(resp.Error())
	}
	if got := b.list("workloads/api/instances"); len(got) != 0 {
		t.Errorf("after its removal there are %v", got)
	}
	if resp := b.call(logical.ReadOperation, "workloads/api/instances/api-1", nil); resp != nil {
		t.Errorf("after its removal it is %v", resp.Data)
	}
	b.refuses(logical.DeleteOperation, "workloads/nobody/instances/x", nil, `workload "nobody" is not known`)
	b.refuses(logical.UpdateOperation, "workloads/api", map[string]any{"max_instances": -1}, "max_instances -1 is negative")
	b.refuses(logical.UpdateOperation, "workloads/api", map[string]any{"max_instances": 1, "min_instances": 2}, "below min_instances")
	b.refuses(logical.UpdateOperation, "config", map[string]any{"max_instances_per_login": -1}, "is negative")
	b.refuses(logical.UpdateOperation, "config", map[string]any{"takeover_after": "9s"}, "use at least 10s")
}
