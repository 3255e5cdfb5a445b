// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// Of many who write the same definition at the same time, each changes what they name, and nothing that another one has written.
func TestWritersOfOneDefinition(t *testing.T) {
	b := newBackendTest(t)
	b.mount = "hyvve/"
	const writers = 16
	var keys []string
	for n := range writers {
		keys = append(keys, fmt.Sprintf("key-%02d", n))
		b.write("keys/"+keys[n], map[string]any{"kind": "token"})
	}
	b.write("workloads/api", map[string]any{"presents": keys[0]})
	writes := []struct {
		path string
		data map[string]any
	}{
		{"keys/key-00", map[string]any{"confirm_by": "other"}},
		{"keys/key-00", map[string]any{"soak": "1h"}},
		{"config", map[string]any{"lease_ttl": "10m"}},
		{"config", map[string]any{"soak": "2h"}},
	}
	for _, name := range keys[1:] {
		writes = append(writes, struct {
			path string
			data map[string]any
		}{"workloads/api", map[string]any{"add_presents": name}})
	}
	var group sync.WaitGroup
	for _, w := range writes {
		group.Go(func() {
			if resp := b.call(logical.UpdateOperation, w.path, w.data); resp.IsError() {
				t.Errorf("%s %v: %v", w.path, w.data, resp.Error())
			}
		})
	}
	group.Wait()
	if presents := b.read("workloads/api").Data["presents"]; !slices.Equal(presents.([]string), keys) {
		t.Errorf("the workload presents %v", presents)
	}
	k, c := b.read("keys/key-00").Data, b.read("config").Data
	if got := fmt.Sprint([]any{k["confirm_by"], k["soak"], c["lease_ttl"], c["soak"]}); got != "[other 3600 10m 2h]" {
		t.Errorf("the settings are %s", got)
	}
}

// A delete takes no parameter that it would not use: asked for a dry run, it would erase a key's values.
func TestDeletesTakeNoParameters(t *testing.T) {
	b := newBackendTest(t)
	b.mount = "hyvve/"
	b.write("keys/service-token", map[string]any{"kind": "token", "generate": true})
	b.write("workloads/api", map[string]any{"presents": "service-token", "min_instances": 0})
	b.instance("api", "api-1")
	for _, path := range []string{"workloads/api", "keys/service-token", "workloads/api/instances/api-1"} {
		b.refuses(logical.DeleteOperation, path, map[string]any{"dry_run": "true"}, `parameter "dry_run" has no meaning where something is deleted`)
	}
	b.refuses(logical.DeleteOperation, "keys/service-token", map[string]any{"drop": "true"}, `parameter "drop" has no meaning`)
	b.refuses(logical.DeleteOperation, "workloads/api", nil, "vault delete hyvve/workloads/api drop=true")
	if resp := b.call(logical.DeleteOperation, "workloads/api", map[string]any{"drop": "true"}); resp.IsError() {
		t.Error(resp.Error())
	}
}
