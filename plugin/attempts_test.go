// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Every path that an operator may write journals what came to nothing. Only what sidecars write does not.
func TestEveryWriteIsRecorded(t *testing.T) {
	b := newBackendTest(t).backend.(*backend)
	for _, path := range b.Paths {
		for _, operation := range []logical.Operation{logical.CreateOperation, logical.UpdateOperation, logical.DeleteOperation, logical.PatchOperation} {
			handler, ok := path.Operations[operation]
			sidecars := strings.HasPrefix(path.Pattern, "creds/") || strings.HasPrefix(path.Pattern, "report/") || strings.HasPrefix(path.Pattern, "leave/")
			if _, recorded := handler.(recordedOperation); ok && !recorded && !sidecars {
				t.Errorf("%s of %s is not recorded when it is refused", operation, path.Pattern)
			}
		}
	}
}

// A write that is refused, for whatever reason, leaves an entry that says who wanted to change what.
func TestRefusedWritesAreJournaled(t *testing.T) {
	b := hyvve(t)
	for _, c := range []struct {
		operation logical.Operation
		path      string
		data      map[string]any
		want      []string
	}{
		{logical.UpdateOperation, "config", map[string]any{"lease_ttl": 0, "soak": "7m"}, []string{"writing the configuration was refused", "lease_ttl 0s is too short", "soak", "7m"}},
		{logical.UpdateOperation, "config", map[string]any{"soak": "canary"}, []string{`writing "config" was refused`, `parameter "soak" is not a duration`}},
		{logical.UpdateOperation, "config", map[string]any{"sook": "canary"}, []string{`parameter "sook" is not known`}},
		{logical.UpdateOperation, "keys/jwt-secret", map[string]any{"confirm": "canary\n"}, []string{"writing a key was refused", "jwt-secret"}},
		{logical.DeleteOperation, "keys/jwt-secret", nil, []string{"deleting a key was refused", "jwt-secret", "is used by workload"}},
		{logical.UpdateOperation, "workloads/agents", map[string]any{"max_unavailable": "0", "after": "agents"}, []string{"writing a workload was refused", "agents", "max_unavailable"}},
		{logical.UpdateOperation, "workloads/agents", map[string]any{"single_value": "jwt-secret"}, []string{"writing a workload was refused", "does not verify"}},
		{logical.DeleteOperation, "workloads/api", nil, []string{"deleting a workload was refused", "comes after api"}},
		{logical.UpdateOperation, "connections/x", map[string]any{"url": "redis://u:canary@h"}, []string{"writing a connection was refused", "kind is empty", "(hidden)"}},
		{logical.UpdateOperation, "connections/x", map[string]any{"kind": "redis", "url": "redis://u:canary@h", "timeout": "never"}, []string{"writing a connection was refused", "redis://u@h", "never"}},
		{logical.UpdateOperation, "keys/x", map[string]any{"kind": "redis", "connection": "main", "rules": "~a +@all >canary"}, []string{"writing a key was refused", "~a +@all (hidden)"}},
		{logical.UpdateOperation, "keys/x", map[string]any{"kind": "token", "rules": "~a >canary"}, []string{"writing a key was refused", "(hidden)"}},
		{logical.UpdateOperation, "keys/x", map[string]any{"kind": "external", "verify_format": "Bearer canary"}, []string{"writing a key was refused", "(hidden)"}},
		{logical.UpdateOperation, "connections/x/rotate-root", nil, []string{"rotating an administrator's password was refused", `"x" is not known`}},
		{logical.UpdateOperation, "keys/jwt-secret/reconcile", nil, []string{"restoring a key at its server was refused", "nothing to reconcile"}},
		{logical.UpdateOperation, "presets/hyvve", map[string]any{"database": "nowhere"}, []string{"applying the preset was refused", "nowhere"}},
		{logical.UpdateOperation, "rotate", map[string]any{"key": "jwt-secret", "value": "canary", "confirm": "perhaps"}, []string{"starting a rotation was refused", "jwt-secret", "perhaps", "(given)"}},
		{logical.UpdateOperation, "rotations/nothing/confirm", map[string]any{"reason": "because"}, []string{"confirm of a rotation was refused", "because", "nothing"}},
	} {
		before := len(b.list("journal"))
		if resp := b.call(c.operation, c.path, c.data); !resp.IsError() {
			t.Errorf("%s %s %v is not refused", c.operation, c.path, c.data)
		}
		ids := b.list("journal")[before:]
		if len(ids) != 1 {
			t.Errorf("%s %s %v left %d entries", c.operation, c.path, c.data, len(ids))
			continue
		}
		entry := b.read("journal/" + ids[0]).Data
		for _, want := range append(c.want, "tester") {
			if !strings.Contains(fmt.Sprint(entry), want) {
				t.Errorf("%s %s %v: %v does not say %q", c.operation, c.path, c.data, entry, want)
			}
		}
		if c.path != "keys/jwt-secret" && strings.Contains(fmt.Sprint(entry), "canary") {
			t.Errorf("%s %s: the entry has what was given: %v", c.operation, c.path, entry)
		}
	}
	before := len(b.list("journal"))
	b.refuses(logical.UpdateOperation, "rotate", map[string]any{"key": "jwt-sekret", "dry_run": true}, "is not known")
	if n := len(b.list("journal")) - before; n != 0 {
		t.Errorf("a question left %d entries", n)
	}
	if v := b.read("journal/verify").Data; v["whole"] != true {
		t.Errorf("verify: %v", v)
	}
}

// failing is a storage that fails one write below a prefix.
type failing struct {
	logical.Storage
	prefix string
}

func (f *failing) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if f.prefix != "" && strings.HasPrefix(entry.Key, f.prefix) {
		f.prefix = ""
		return errors.New("storage is full")
	}
	return f.Storage.Put(ctx, entry)
}

// A write that failed may have taken effect or not; the journal says so.
func TestFailedWritesAreJournaled(t *testing.T) {
	b := hyvve(t)
	storage := &failing{Storage: b.storage}
	b.backend.(*backend).drop() // the next request opens an engine with this storage
	req := &logical.Request{Operation: logical.UpdateOperation, Path: "workloads/api", Data: map[string]any{"min_instances": 3}, Storage: storage, DisplayName: "tester", ClientToken: "t"}
	if _, err := b.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "config", Storage: storage}); err != nil {
		t.Fatal(err)
	}
	storage.prefix = "workloads/"
	if resp, err := b.backend.HandleRequest(t.Context(), req); err == nil {
		t.Fatalf("it did not fail: %v", resp)
	}
	ids := b.list("journal")
	intent, entry := b.read("journal/"+ids[len(ids)-2]).Data, b.read("journal/"+ids[len(ids)-1]).Data
	if intent["what"] != "workload written" || entry["what"] != "writing a workload failed" || entry["workload"] != "api" || !strings.Contains(entry["failed"].(string), "storage is full") {
		t.Errorf("%v\n%v", intent, entry)
	}
	if v := b.read("journal/verify").Data; v["whole"] != true {
		t.Errorf("verify: %v", v)
	}
}

var _ framework.OperationHandler = recordedOperation{}
