// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// hyvve is a mount with the preset and one instance of each workload that reports at once.
func hyvve(t *testing.T) *backendTest {
	b := newBackendTest(t)
	b.write("config", map[string]any{"soak": "0s", "observe": "0s", "lease_ttl": "1m"})
	b.write("presets/hyvve", map[string]any{"generate": true, "workloads": "api,agents"})
	return b
}

// instance reads its bundle and reports it as loaded, and returns its lease.
func (b *backendTest) instance(workload, id string) *logical.Response {
	b.t.Helper()
	resp := b.read("creds/"+workload, map[string]any{"instance": id})
	b.write("report/"+workload, map[string]any{
		"instance": id, "instance_secret": resp.Data["instance_secret"], "etag": resp.Data["etag"], "healthy": true, "proof": "health",
		"of_a_newer_release": true, // is no reason to refuse a sidecar's report
	})
	return resp
}

// finish runs the engine until a rotation has ended.
func (b *backendTest) finish(id string) map[string]any {
	b.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		for workload, instance := range map[string]string{"api": "api-1", "agents": "agents-1"} {
			b.instance(workload, instance)
		}
		data := b.read("rotations/" + id).Data
		if data["state"] == "done" || data["state"] == "reverted" {
			return data
		}
		select {
		case <-deadline:
			b.t.Fatalf("rotation is %v %v: %v", data["state"], data["step"], data["next_gate"])
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestMainJob(t *testing.T) {
	b := hyvve(t)
	before := b.instance("agents", "agents-1")
	b.instance("api", "api-1")
	started := b.write("rotate", map[string]any{"key": "agent-service-token", "reason": "leaked"})
	id, _ := started["id"].(string)
	if id == "" || started["state"] != "accepting" || !strings.Contains(fmt.Sprint(started["next_gate"]), "api") {
		t.Errorf("rotate answers %v", started)
	}
	gates := b.read("rotations/" + id).Data["gates"].([]map[string]any)
	if len(gates) == 0 {
		t.Error("a running rotation shows no gates")
	}
	for _, g := range gates {
		if g["holds"] == false && g["reason"] == "" {
			t.Errorf("gate %v does not hold and gives no reason", g["gate"])
		}
	}
	renew := &logical.Request{Operation: logical.RenewOperation, Storage: b.storage, Secret: before.Secret}
	if data := b.finish(id); data["state"] != "done" {
		t.Errorf("the rotation ended as %v", data["state"])
	}
	if resp, err := b.backend.HandleRequest(t.Context(), renew); err != nil || !resp.IsError() {
		t.Errorf("the lease on the old bundle is renewed: %v, %v", resp, err)
	}
	after := b.instance("agents", "agents-1")
	value := func(r *logical.Response) any { return r.Data["values"].(map[string]any)["AGENT_SERVICE_TOKEN"] }
	if value(before) == value(after) || value(after) == nil {
		t.Error("agents still presents the old value")
	}
	created := func(r *logical.Response) string {
		text, _ := r.Data["created_times"].(map[string]any)["AGENT_SERVICE_TOKEN"].(string)
		if _, err := time.Parse(time.RFC3339, text); err != nil {
			t.Errorf("created_times says %q", text)
		}
		return text
	}
	if created(after) < created(before) {
		t.Error("the new version was made before the old one")
	}
	renew.Secret = after.Secret
	if resp, err := b.backend.HandleRequest(t.Context(), renew); err != nil || resp.IsError() || resp.Secret.TTL > time.Minute {
		t.Errorf("the lease on the bundle of now is not renewed: %v, %v", resp, err)
	}
	revoke := &logical.Request{Operation: logical.RevokeOperation, Storage: b.storage, Secret: after.Secret}
	if resp, err := b.backend.HandleRequest(t.Context(), revoke); err != nil || resp.IsError() {
		t.Errorf("revocation: %v, %v", resp, err)
	}
	if instances := b.read("workloads/agents").Data["instances"].([]map[string]any); len(instances) != 0 {
		t.Errorf("%d instances are left after the lease was revoked", len(instances))
	}
}

func TestRevert(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	b.instance("api", "api-1")
	id := b.write("rotate/agent-service-token", nil)["id"].(string)
	b.write("rotations/"+id+"/revert", map[string]any{"reason": "changed my mind"})
	if data := b.finish(id); data["state"] != "reverted" {
		t.Errorf("the rotation ended as %v", data["state"])
	}
	b.refuses(logical.UpdateOperation, "rotations/"+id+"/revert", nil, "is reverted")
	if v := b.read("keys/agent-service-token").Data["current_version"]; v != 1 {
		t.Errorf("the current version is %v", v)
	}
}

// Nothing that any path but creds/ answers, and nothing in the log, holds a value.
func TestValuesAreReadNowhereElse(t *testing.T) {
	b := hyvve(t)
	secrets := map[string]bool{}
	learn := func(resp *logical.Response) {
		for _, v := range resp.Data["values"].(map[string]any) {
			secrets[v.(string)] = true
		}
		for _, list := range resp.Data["accepts"].(map[string]any) {
			for _, v := range list.([]string) {
				secrets[v] = true
			}
		}
		secrets[resp.Data["instance_secret"].(string)] = true
	}
	learn(b.instance("agents", "agents-1"))
	learn(b.instance("api", "api-1"))
	id := b.write("rotate", map[string]any{"keys": "agent-service-token,agno-api-key"})["id"].(string)
	for range 4 {
		learn(b.instance("agents", "agents-1"))
		learn(b.instance("api", "api-1"))
	}
	b.finish(id)
	learn(b.instance("agents", "agents-1"))
	for _, path := range []string{"config", "status", "presets/hyvve", "keys/agno-api-key", "workloads/api", "rotations/" + id} {
		b.read(path)
	}
	for _, list := range []string{"keys/", "workloads/", "rotations/", "journal/"} {
		resp := b.call(logical.ListOperation, list, nil)
		if list != "journal/" {
			continue
		}
		for _, entry := range resp.Data["keys"].([]string) {
			b.read("journal/" + entry)
		}
	}
	b.backend.Cleanup(t.Context())
	for secret := range secrets {
		if strings.Contains(b.answers.String(), secret) {
			t.Error("a value stands in an answer")
		}
		if strings.Contains(b.log.String(), secret) {
			t.Error("a value stands in the log")
		}
	}
	if len(secrets) < 10 || b.log.Len() == 0 {
		t.Errorf("only %d secrets and %d bytes of log were looked at", len(secrets), b.log.Len())
	}
}

func TestBadInputIsRefusedAndChangesNothing(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	b.instance("api", "api-1")
	b.write("keys/empty", map[string]any{"format": "hex"})
	b.write("keys/unused", map[string]any{"generate": true})
	b.write("keys/used", map[string]any{"generate": true})
	b.write("keys/used-external", map[string]any{"kind": "external", "value": "v"})
	b.write("workloads/reader", map[string]any{"presents": "used,used-external"})
	b.read("creds/reader")
	b.write("rotate", map[string]any{"key": "jwt-secret"})
	urlSafe := strings.ReplaceAll(base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\xfb\xff", 16))), "+", "-")
	type fields = map[string]any
	const update, read = logical.UpdateOperation, logical.ReadOperation
	master := func(value string) fields {
		return fields{"kind": "token", "format": "base64", "rule": "encryption-master-key", "value": value}
	}
	for _, c := range []struct {
		operation logical.Operation
		path      string
		data      fields
		want      string
	}{
		{update, "rotate", fields{"key": "agno-api-key", "dry_rn": true}, `parameter "dry_rn" is not known, and nothing was changed; use one of: compromised`},
		{update, "rotate/agno-api-key", fields{"compromissed": true}, `parameter "compromissed"`},
		{update, "keys/x", fields{"formatt": "hex"}, `parameter "formatt"`},
		{update, "keys/unused", fields{"soack": "1s"}, `parameter "soack"`},
		{update, "workloads/x", fields{"presents": "unused", "min_instance": 1}, `parameter "min_instance"`},
		{update, "connections/x", fields{"kindd": "redis"}, `parameter "kindd"`},
		{update, "config", fields{"soack": "1s"}, `parameter "soack"`},
		{update, "presets/hyvve", fields{"generat": true}, `parameter "generat"`},
		{update, "rotations/nothing/revert", fields{"raison": "x"}, `parameter "raison"`},
		{update, "rotate", fields{"key": "nothing"}, `key "nothing" is not known`},
		{update, "rotate", fields{"key": "a/b"}, "contains a slash"},
		{update, "rotate/a/b", nil, "contains a slash"},
		{update, "rotate", nil, "key is missing"},
		{update, "rotate", fields{"key": "jwt-secret"}, "/compromised"},
		{update, "rotate", fields{"key": "unused"}, "no workload uses"},
		{update, "rotate", fields{"key": "empty"}, "has no version yet"},
		{update, "rotate", fields{"key": "agno-api-key", "value": ""}, "value is empty"},
		{update, "rotate", fields{"key": "agno-api-key", "value": "a\nb"}, "line break"},
		{update, "rotate", fields{"keys": "agno-api-key,empty", "value": "x"}, "one by one"},
		{update, "rotate", fields{"keys": "agno-api-key,agno-api-key"}, "named twice"},
		{update, "rotate", fields{"key": "agno-api-key", "wait": "2m"}, "wait 2m"},
		{update, "rotate", fields{"key": "agno-api-key", "reason": strings.Repeat("x", 1025)}, "reason is 1025 bytes long"},
		{update, "rotations/nothing/pause", fields{"reason": strings.Repeat("x", 1025)}, "reason is 1025 bytes long"},
		{update, "rotate", fields{"key": "encryption-master-key", "value": base64.StdEncoding.EncodeToString(make([]byte, 31))}, "31 bytes"},
		{update, "rotate", fields{"key": "encryption-master-key", "value": urlSafe}, "url-safe"},
		{update, "keys/a/b", fields{"generate": true}, "contains a slash"},
		{update, "keys/databse-url", fields{"value": "postgresql://app:pw@db/app"}, "key databse-url is new;"},
		{update, "connections/main/rotate_root", nil, "contains a slash"},
		{update, "keys/Upper", fields{"generate": true}, "lower-case"},
		{update, "keys/x", fields{"format": "octal"}, `format "octal" is not known`},
		{update, "keys/x", fields{"kind": "tokn"}, `kind "tokn" is not known`},
		{update, "keys/agno-api-key", fields{"kind": "redis"}, "key agno-api-key is of kind token; a kind cannot be changed"},
		{update, "keys/agno-api-key", fields{"kind": "postgres", "owner": "app"}, "key agno-api-key is of kind token; a kind cannot be changed"},
		{update, "workloads/web", fields{"require_proof": ""}, "require_proof is empty; use etag, health, reload or none"},
		{update, "keys/x", fields{"length": "many"}, `length "many"`},
		{update, "keys/x", fields{"value": ""}, "value is empty"},
		{update, "keys/x", fields{"kind": "token", "value": "v", "generate": true}, "exclude each other"},
		{update, "keys/x", fields{"protects": "users"}, "protects:"},
		{update, "keys/x", fields{"protects": "users.c:tag-middle"}, `layout "tag-middle"`},
		{update, "keys/x", fields{"rotation_period": "1s"}, "rotation_period 1s"},
		{update, "keys/x", fields{"soak": "-5s"}, "soak"},
		{update, "keys/x", fields{"env": "lower"}, "env"},
		{update, "keys/x", fields{"env": "JWT_SECRET"}, "env JWT_SECRET"},
		{update, "keys/x", master(base64.StdEncoding.EncodeToString(make([]byte, 31))), "31 bytes"},
		{update, "keys/x", master(urlSafe), "url-safe"},
		{update, "keys/unused", fields{"generate": true}, "has 1 versions already; rotate it with: vault write hyvve/rotate key=unused"},
		{update, "keys/used", fields{"value": "v"}, "key used has version 1, which an import cannot replace, since an instance may have version 1; nothing was changed; rotate it with: vault write hyvve/rotate key=used; if a wrong value was imported"},
		{update, "keys/used-external", fields{"value": "v"}, "rotate it with: vault write hyvve/rotate key=used-external value=-; if a wrong"},
		{update, "rotate", fields{"key": "used,unused"}, "key names one key; to rotate several together, write keys=NAME,NAME"},
		{update, "rotate", fields{"key": "unusd"}, `key "unusd" is not known; did you mean unused? List the keys with: vault list hyvve/keys`},
		{update, "workloads/x", fields{"presents": "unusd"}, `key "unusd" is not known; did you mean unused? List the keys`},
		{update, "keys/unused", fields{"env": "OTHER"}, "env cannot be changed"},
		{logical.DeleteOperation, "keys/agno-api-key", nil, "is used by workload"},
		{update, "workloads/a/b", fields{"presents": "unused"}, "contains a slash"},
		{update, "workloads/x", nil, "has no keys"},
		{update, "workloads/x", fields{"presents": "nothing"}, `key "nothing" is not known`},
		{update, "workloads/x", fields{"presents": "unused", "after": "y"}, `workload "y" is not known`},
		{update, "workloads/x", fields{"presents": "unused", "after": "x"}, "after itself"},
		{update, "workloads/x", fields{"presents": "unused", "min_instances": -1}, "min_instances -1"},
		{update, "workloads/x", fields{"presents": "unused", "max_unavailable": "0"}, `max_unavailable "0"`},
		{update, "workloads/x", fields{"presents": "unused", "max_unavailable": "101%"}, `max_unavailable "101%"`},
		{update, "workloads/x", fields{"presents": "unused", "reencrypts": true}, "reencrypts needs a key"},
		{update, "workloads/api", fields{"verifies": "agno-api-key"}, "is being rotated by"},
		{read, "creds/nobody", nil, `workload "nobody" is not known`},
		{read, "creds/api", fields{"instance": "a b"}, `instance "a b"`},
		{read, "creds/api", fields{"instance": "lease-1"}, "stands for readers without a name"},
		{read, "watch/nobody", fields{"instance": "x"}, `workload "nobody" is not known`},
		{read, "watch/api", nil, "instance is missing"},
		{read, "watch/api", fields{"instance": "x", "wait": "61s"}, "wait 1m1s"},
		{update, "report/api", fields{"instance": "x", "instance_secret": "y", "healthy": true, "sightings": []any{`{"env":"A","version":1,"count":1,"last_seen":1e300}`}}, "last_seen"},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": "guess", "healthy": true}, "instance_secret"},
		{update, "report/api", fields{"instance": "api-9", "instance_secret": "guess", "healthy": true}, "is not known"},
		{update, "report/api", fields{"healthy": true}, "is missing"},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": "x", "healthy": true, "proof": "sure"}, `proof: "sure" is not known`},
		{update, "workloads/api", fields{"require_proof": "sure"}, `require_proof: "sure" is not known`},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": "x"}, "healthy is missing"},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": "x", "healthy": true, "work": []any{"garbage"}}, "work:"},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": "x", "healthy": true, "sightings": []any{"garbage"}}, "sightings:"},
		{update, "report/api", fields{"instance": "api-1", "instance_secret": "x", "healthy": true, "sightings": []any{map[string]any{"env": "X", "version": 1, "last_seen": -1}}}, "sightings:"},
		{update, "config", fields{"lease_ttl": 0}, "lease_ttl"},
		{update, "presets/hyvve", fields{"workloads": "apii"}, `"apii" is not one of`},
		{update, "presets/hyvve", fields{"min_instances": -1}, "min_instances -1"},
		{read, "rotations/nothing", nil, `rotation "nothing" is not known`},
		{update, "rotations/nothing/revert", nil, `rotation "nothing" is not known`},
	} {
		b.refuses(c.operation, c.path, c.data, c.want)
	}
	for _, path := range []string{"keys/nothing", "workloads/nothing", "journal/nothing"} {
		if resp := b.read(path); resp != nil {
			t.Errorf("%s is there: %v", path, resp.Data)
		}
	}
}

func TestPresetMayBeWrittenAgain(t *testing.T) {
	b := hyvve(t)
	before := len(b.stored())
	if made := b.write("presets/hyvve", map[string]any{"generate": true, "workloads": "api,agents"})["made"]; made != "none" {
		t.Errorf("made again: %v", made)
	}
	if after := len(b.stored()); after != before {
		t.Errorf("%d records became %d", before, after)
	}
	fresh := newBackendTest(t)
	resp := fresh.call(logical.UpdateOperation, "presets/hyvve", nil)
	if len(resp.Warnings) != 6 {
		t.Errorf("%d warnings on keys without a version", len(resp.Warnings))
	}
	if warned := fresh.read("creds/api", map[string]any{"instance": "x"}).Warnings; len(warned) != 4 {
		t.Errorf("a read warns of %v", warned)
	}
}

func TestImportByRotate(t *testing.T) {
	b := newBackendTest(t)
	b.write("keys/some-token", map[string]any{"format": "hex"})
	if data := b.write("rotate", map[string]any{"key": "some-token", "value": "in use today"}); data["version"] != 1 {
		t.Errorf("rotate with a value answers %v", data)
	}
	b.write("workloads/api", map[string]any{"presents": "some-token"})
	if v := b.read("creds/api").Data["values"].(map[string]any)["SOME_TOKEN"]; v != "in use today" {
		t.Error("another value was imported")
	}
}

func TestWatchWakesAndEnds(t *testing.T) {
	b := hyvve(t)
	b.instance("agents", "agents-1")
	etag := b.instance("api", "api-1").Data["etag"]
	watched := make(chan any)
	go func() {
		resp, err := b.backend.HandleRequest(t.Context(), &logical.Request{
			Operation: logical.ReadOperation, Path: "watch/api", Storage: b.storage,
			Data: map[string]any{"instance": "api-1", "etag": etag, "wait": "30s"},
		})
		if err != nil {
			watched <- err
			return
		}
		watched <- resp.Data["changed"]
	}()
	b.write("rotate", map[string]any{"key": "agent-service-token"})
	select {
	case changed := <-watched:
		if changed != true {
			t.Errorf("the watch says changed: %v", changed)
		}
	case <-time.After(10 * time.Second):
		t.Error("a rotation does not wake the watch")
	}
	if changed := b.read("watch/api", map[string]any{"instance": "gone", "etag": "x", "wait": "30s"}).Data["changed"]; changed != true {
		t.Error("an instance that is not known is not told to read")
	}
}

// Every path explains itself, and its operations have names for the OpenAPI document.
func TestEveryPathExplainsItself(t *testing.T) {
	b := newBackendTest(t)
	inner, ok := b.backend.(*backend)
	if !ok {
		t.Fatalf("the factory makes a %T", b.backend)
	}
	names := map[string]string{}
	for _, p := range inner.Paths {
		if len(p.HelpSynopsis) < 10 || len(p.HelpDescription) < 10 {
			t.Errorf("%s has no help", p.Pattern)
		}
		for operation, handler := range p.Operations {
			properties := handler.Properties()
			if properties.Summary == "" || properties.DisplayAttrs == nil {
				t.Errorf("%s %s lacks a summary or display attributes", operation, p.Pattern)
				continue
			}
			id := properties.DisplayAttrs.OperationVerb + "-" + properties.DisplayAttrs.OperationSuffix
			if other, twice := names[id]; twice {
				t.Errorf("%s is the operation id of %s and %s", id, other, p.Pattern)
			}
			names[id] = p.Pattern
		}
		for name, field := range p.Fields {
			if field.Description == "" {
				t.Errorf("%s: field %s has no description", p.Pattern, name)
			}
		}
	}
	for _, path := range []string{"", "rotate", "keys/x", "creds/x", "rotations/x/revert", "presets/hyvve"} {
		resp := b.call(logical.HelpOperation, path, nil)
		if resp == nil || resp.Data["help"] == "" {
			t.Errorf("no help on %q", path)
		}
	}
}

// A node that does not write forwards every request, and moves nothing on.
func TestStandbyForwards(t *testing.T) {
	active := hyvve(t)
	standby := &backendTest{t: t, storage: active.storage, log: active.log}
	var err error
	standby.backend, err = Factory(t.Context(), &logical.BackendConfig{
		Logger: hclog.NewNullLogger(), StorageView: active.storage, BackendUUID: "test",
		System: &logical.StaticSystemView{ReplicationStateVal: consts.ReplicationPerformanceStandby},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { standby.backend.Cleanup(context.Background()) })
	before := active.stored()
	if err := standby.backend.Initialize(t.Context(), &logical.InitializationRequest{Storage: active.storage}); err != nil {
		t.Fatal(err)
	}
	for path, operation := range map[string]logical.Operation{
		"status": logical.ReadOperation, "keys/": logical.ListOperation, "creds/api": logical.ReadOperation,
		"rotate/agent-service-token": logical.UpdateOperation, "watch/api": logical.ReadOperation,
	} {
		req := &logical.Request{Operation: operation, Path: path, Storage: active.storage, Data: map[string]any{"instance": "i"}}
		if _, err := standby.backend.HandleRequest(t.Context(), req); !errors.Is(err, logical.ErrReadOnly) {
			t.Errorf("%s: %v, want it forwarded", path, err)
		}
	}
	if !maps.Equal(before, active.stored()) {
		t.Error("a standby has written to storage")
	}
}
