// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// Short names of what the golden calls do.
const (
	goldenRead   = logical.ReadOperation
	goldenList   = logical.ListOperation
	goldenWrite  = logical.UpdateOperation
	goldenDelete = logical.DeleteOperation
)

type given = map[string]any

// recordDefinitions writes and reads configuration, connections, keys and workloads.
func (g *golden) recordDefinitions() {
	g.record(goldenRead, "config", nil)
	g.record(goldenWrite, "config", given{
		"lease_ttl": "10m", "takeover_after": "1m", "max_instances_per_login": 7, "soak": 0, "observe": 0, "look_every": 0, "deadline": "1h",
		"on_failure": "pause", "confirm": "auto", "confirm_by": "any", "compromised_deadline": "2m", "retain": "2h", "retain_rows": "48h",
		"journal_max_entries": 50000, "journal_max_age": "3000h",
	})
	g.record(goldenWrite, "config", given{"on_failure": "ignore"})

	g.record(goldenList, "connections", nil)
	g.record(goldenWrite, "connections/main", given{"kind": "toy", "url": "toy://admin:root-password@directory"})
	g.record(goldenWrite, "connections/db", given{"kind": "postgres", "url": "postgresql://root:pw@127.0.0.1:1/postgres", "replicas": "127.0.0.1:2", "verify_connection": false})
	g.record(goldenWrite, "connections/cache", given{"kind": "redis", "url": "redis://root:pw@127.0.0.1:1", "verify_connection": false})
	g.record(goldenWrite, "connections/none", given{"url": "redis://root:pw@127.0.0.1:1"})
	g.record(goldenWrite, "connections/main/rotate-root", nil)
	g.record(goldenWrite, "connections/none/rotate-root", nil)
	g.record(goldenRead, "connections/main", nil)
	g.record(goldenRead, "connections/main", given{"detailed": true})
	g.record(goldenWrite, "connections/main/rotate-root", given{"detailed": true})
	g.record(goldenRead, "connections/none", nil)
	g.record(goldenList, "connections", nil)
	g.record(goldenDelete, "connections/cache", nil)

	g.record(goldenList, "keys", nil)
	g.record(goldenWrite, "keys/token", given{
		"kind": "token", "format": "hex", "length": 32, "value": strings.Repeat("ab", 32), "rotation_schedule": "CRON_TZ=Europe/Berlin 0 3 * * SUN", "rotation_window": "2h",
		"disable_automated_rotation": true, "soak": 0, "observe": 0, "deadline": 0, "on_failure": "revert", "confirm": "auto", "confirm_by": "any", "retain": "3h",
	})
	g.record(goldenWrite, "keys/partner", given{"kind": "external", "pattern": "sk_[a-z]+", "value": "sk_one", "env": "STRIPE"})
	g.record(goldenWrite, "keys/login", given{"kind": "toy", "connection": "main", "value": "toy://legacy:legacy-password@directory"})
	g.record(goldenWrite, "keys/empty", nil)
	g.record(goldenWrite, "keys/master", given{
		"kind": "token", "value": base64.StdEncoding.EncodeToString(make([]byte, 32)), "format": "base64", "rule": "encryption-master-key", "protects": "a.b:tag-first,c.d:tag-last where kind=key", "ignore_columns": "e.f", "witness": "none", "rotation_period": "720h",
	})
	g.record(goldenWrite, "keys/master", given{"witness": ""})
	g.record(goldenWrite, "keys/wrong", given{"format": "octal"})
	g.record(goldenRead, "keys/none", nil)
	g.record(goldenRead, "keys/token", nil)
	g.record(goldenRead, "keys/token", given{"detailed": true})
	g.record(goldenRead, "keys/master", given{"detailed": true})
	g.record(goldenList, "keys", nil)

	g.record(goldenList, "workloads", nil)
	g.record(goldenWrite, "workloads/api", given{"verifies": "token,master", "presents": "partner,login,empty", "single_value": "token", "reencrypts": true})
	g.record(goldenWrite, "workloads/agents", given{"presents": "token", "after": "api", "min_instances": 0, "max_instances": 9, "max_unavailable": "1"})
	g.record(goldenWrite, "workloads/agents", given{"presents": "partner"})
	g.record(goldenWrite, "workloads/agents", given{"presents": "token"})
	g.record(goldenWrite, "workloads/wrong", nil)
	g.record(goldenRead, "workloads/none", nil)
	g.record(goldenList, "workloads", nil)
	g.record(goldenDelete, "workloads/agents", nil)

	g.record(goldenWrite, "workloads/agents", given{"add_presents": "partner", "dry_run": true})
	g.record(goldenWrite, "workloads/api", given{"require_proof": "etag", "dry_run": true})
	g.record(goldenWrite, "workloads/agents", given{"add_presents": "partner", "presents": "token"})
	g.record(goldenWrite, "workloads/agents", given{"remove_presents": "master"})
	g.record(goldenDelete, "workloads/agents", nil)
	g.record(goldenWrite, "workloads/future", given{"presents": "token", "dry_run": true})
	g.record(goldenWrite, "workloads/future", given{"presents": "token", "dry_run": true, "detailed": true})
	g.record(goldenWrite, "keys/token", given{"soak": "5m", "dry_run": true})
	g.record(goldenWrite, "keys/future", given{"kind": "token", "generate": true, "dry_run": true})
	g.record(goldenWrite, "keys/tokn", given{"value": "x"})
	g.record(goldenWrite, "connections/db", given{"replicas": "127.0.0.1:3", "verify_connection": false, "dry_run": true})
	g.record(goldenWrite, "connections/future", given{"kind": "redis", "url": "redis://root:pw@127.0.0.1:1", "verify_connection": false, "dry_run": true})
	g.record(goldenWrite, "presets/hyvve", given{"database": "db", "dry_run": true})
	g.record(goldenRead, "presets/hyvve", given{"database": "db"})
	g.record(goldenRead, "presets/hyvve", given{"database": "db", "detailed": true})
	g.record(goldenWrite, "presets/hyvve", given{"database": "nope"})
}

// recordInstances reads bundles and reports on them.
func (g *golden) recordInstances() {
	g.record(goldenRead, "creds/none", nil)
	g.record(goldenRead, "creds/api", nil)
	read := g.record(goldenWrite, "creds/api", given{"instance": "api-1", "pod": "api-0", "node": "n-1", "one_line": "none"})
	etag, secret := read.Data["etag"], read.Data["instance_secret"]
	g.record(goldenRead, "watch/api", given{"instance": "api-1", "etag": etag, "wait": 0})
	g.record(goldenRead, "watch/api", given{"instance": "api-1", "etag": "other", "wait": 0})
	g.record(goldenRead, "watch/api", given{"instance": "api-2", "etag": etag, "wait": 0})
	g.record(goldenRead, "watch/api", nil)
	g.record(goldenWrite, "report/api", given{"instance": "api-1", "instance_secret": secret, "etag": etag, "healthy": true, "proof": "reload"})
	g.record(goldenWrite, "report/api", given{"instance": "api-1", "instance_secret": secret, "extend_lease": true})
	g.record(goldenWrite, "report/api", given{"instance": "api-1", "instance_secret": "wrong", "healthy": true})
	g.record(goldenWrite, "report/api", given{"instance": "api-1", "instance_secret": secret})
	g.record(goldenList, "workloads/api/instances", nil)
	g.record(goldenRead, "workloads/api/instances/api-1", nil)
	g.record(goldenRead, "workloads/api/instances/api-1", given{"detailed": true})
	g.record(goldenRead, "workloads/api/instances/none", nil)
	g.record(goldenRead, "workloads/api", nil)
	g.record(goldenRead, "workloads/api", given{"detailed": true})
	g.record(goldenDelete, "workloads/api/instances/none", nil)
	g.record(goldenDelete, "workloads/api/instances/lease-1-2", nil)
	stopped := g.call(goldenWrite, "creds/api", given{"instance": "api-4"})
	g.record(goldenWrite, "report/api", given{"instance": "api-4", "instance_secret": stopped.Data["instance_secret"], "leaving": true})
	g.record(goldenWrite, "report/api", given{"instance": "api-4", "instance_secret": stopped.Data["instance_secret"], "extend_lease": true})
	g.record(goldenRead, "workloads/api/instances/api-4", nil)
	g.record(goldenRead, "status", given{"detailed": true})
	g.record(goldenRead, "metrics", nil)
	g.record(goldenRead, "metrics", given{"format": "xml"})
	g.record(goldenRead, "status", nil)
	g.call(goldenWrite, "leave/api", given{"instance": "api-4", "instance_secret": stopped.Data["instance_secret"]})
	gone := g.call(goldenWrite, "creds/api", given{"instance": "api-3"})
	g.record(goldenWrite, "leave/api", given{"instance": "api-3", "instance_secret": "wrong"})
	g.record(goldenWrite, "leave/api", given{"instance": "api-3", "instance_secret": gone.Data["instance_secret"]})
}

// recordRotations rotates, and does to rotations what operators do.
func (g *golden) recordRotations() {
	g.record(goldenList, "rotations", nil)
	g.record(goldenWrite, "rotate", given{"key": "token", "dry_run": true, "retain": "1h"})
	g.record(goldenWrite, "rotate", given{"key": "login", "dry_run": true, "detailed": true})
	g.record(goldenWrite, "rotate", given{"key": "master", "dry_run": true})
	g.record(goldenWrite, "rotate", given{"key": "none"})
	g.record(goldenWrite, "rotate", given{"key": "empty", "value": "in use"})
	id := g.recordRotate("rotate", given{"key": "partner", "value": "sk_two", "reason": "quarterly", "confirm": "manual"})
	g.awaits(id, "switch")
	g.record(goldenRead, "rotations/"+id, nil)
	g.record(goldenRead, "rotations/"+id, given{"detailed": true})
	g.record(goldenRead, "status", nil)
	g.record(goldenRead, "status", given{"busy": true})
	g.record(goldenRead, "status", given{"detailed": true})
	g.record(goldenWrite, "identify", given{"value": "STRIPE=sk_one", "reason": "in a chat"})
	g.record(goldenWrite, "identify", given{"value": "sk_one", "detailed": true})
	g.record(goldenWrite, "identify", given{"value": "root-password"})
	g.record(goldenWrite, "identify", given{"value": "nobody's"})
	g.record(goldenWrite, "identify", nil)
	g.record(goldenWrite, "rotations/"+id+"/pause", given{"reason": "lunch"})
	g.record(goldenRead, "rotations/latest", nil)
	g.record(goldenRead, "rotations/partner", given{"wait": "0s"})
	g.record(goldenWrite, "rotations/"+id+"/resume", given{"detailed": true})
	g.record(goldenWrite, "rotations/"+id+"/confirm", nil)
	g.record(goldenWrite, "rotations/"+id+"/accept-witness", given{"reason": "one is enough"})
	g.record(goldenWrite, "rotations/"+id+"/revert", nil)
	g.reach(id, "reverted")
	g.record(goldenRead, "rotations/"+id, nil)
	g.record(goldenRead, "rotations/none", nil)
	g.record(goldenList, "rotations", nil)
	id = g.recordRotate("rotate/token", given{"reason": "leaked"})
	g.reach(id, "done")
	g.record(goldenRead, "rotations/"+id, nil)
	g.record(goldenRead, "rotations/"+id+"/receipt", nil)
	g.record(goldenRead, "rotations/"+id+"/receipt", given{"detailed": true})
	g.record(goldenRead, "rotations/none/receipt", nil)
}

// recordTripwires reports that a retired version was presented, and acknowledges that.
func (g *golden) recordTripwires() {
	read := g.record(goldenWrite, "creds/api", given{"instance": "api-1", "pod": "api-0", "node": "n-1", "one_line": "none"})
	says := func(tripped given) {
		g.record(goldenWrite, "report/api", given{"instance": "api-1", "instance_secret": read.Data["instance_secret"], "etag": read.Data["etag"], "healthy": true, "tripped": []any{tripped}})
	}
	seen := given{"env": "TOKEN", "version": 1, "run": "r1", "count": 4, "first_seen": 60, "last_seen": 0, "from": []any{"10.0.0.7", "10.0.0.8"}}
	says(seen)
	says(given{"env": "TOKEN", "version": 1, "count": 4, "from": []any{"ask 555 for help"}})
	g.record(goldenRead, "keys/token", nil)
	g.record(goldenRead, "keys/token", given{"detailed": true})
	g.record(goldenRead, "status", given{"busy": true})
	g.record(goldenRead, "rotations/token/receipt", given{"detailed": true})
	g.record(goldenRead, "rotations/token/receipt", nil)
	g.record(goldenWrite, "keys/token/acknowledge", given{"version": 9})
	g.record(goldenWrite, "keys/token/acknowledge", given{"version": -1})
	g.record(goldenWrite, "keys/token/acknowledge", given{"version": 1, "reason": "the nightly job"})
	g.record(goldenWrite, "keys/token/acknowledge", nil)
	g.record(goldenWrite, "keys/none/acknowledge", nil)
}

// recordEscalations tunes a rotation, and says that a version of it has leaked.
func (g *golden) recordEscalations() {
	g.record(goldenWrite, "rotate", given{"keys": "all", "compromised": true, "dry_run": true})
	g.record(goldenWrite, "rotate", given{"keys": "all", "dry_run": true, "detailed": true})
	g.record(goldenWrite, "rotate", given{"keys": "all,token"})
	g.record(goldenWrite, "rotate", given{"key": "all"})
	g.record(goldenWrite, "keys/all", given{"kind": "token"})
	id := g.recordRotate("rotate", given{"key": "token"})
	g.record(goldenWrite, "rotations/"+id+"/tune", given{"soak": "1h", "deadline": "2h", "reason": "a long look", "detailed": true})
	g.record(goldenWrite, "rotations/"+id+"/tune", given{"on_failure": "retry"})
	g.awaits(id, "switch")
	g.record(goldenWrite, "rotate", given{"keys": []string{"token", "login"}, "compromised": true})
	g.record(goldenWrite, "rotations/"+id+"/compromised", given{"which": "newest"})
	g.record(goldenWrite, "rotate", given{"key": "token", "compromised": true, "reason": "in a chat"})
	g.record(goldenWrite, "rotations/"+id+"/compromised", nil)
	next := g.record(goldenWrite, "rotations/"+id+"/compromised", given{"which": "new", "reason": "both", "detailed": true}).Data["followed_by"].(string)
	g.reach(id, "reverted")
	kit.Until(g.t, "the rotation that follows has started", func() bool {
		resp := g.call(goldenRead, "rotations/"+next, nil)
		return resp != nil && !resp.IsError()
	}, func() string { return next })
	g.reach(next, "done")
	g.record(goldenRead, "rotations/"+next, nil)
}

// recordRotate starts a rotation and returns its id.
func (g *golden) recordRotate(path string, data given) string {
	g.t.Helper()
	resp := g.record(goldenWrite, path, data)
	if resp.IsError() {
		g.t.Fatal(resp.Error())
	}
	return resp.Data["id"].(string)
}

// awaits waits until a rotation is in a step, which it goes to by itself.
func (g *golden) awaits(id, step string) {
	g.t.Helper()
	var now any
	kit.Until(g.t, "the rotation is in step "+step, func() bool {
		now = g.read("rotations/" + id).Data["step"]
		return now == step
	}, func() string { return fmt.Sprint(now) })
}

// reach lets api-1 hold what it should until a rotation has ended.
func (g *golden) reach(id, state string) {
	g.t.Helper()
	var data map[string]any
	kit.Until(g.t, "the rotation is "+state, func() bool {
		read := g.call(goldenWrite, "creds/api", given{"instance": "api-1", "pod": "api-0", "node": "n-1", "one_line": "none"})
		g.write("report/api", given{"instance": "api-1", "instance_secret": read.Data["instance_secret"], "etag": read.Data["etag"], "healthy": true})
		data = g.read("rotations/" + id).Data
		return data["state"] == state
	}, func() string { return fmt.Sprint(data["state"], data["step"], data["next_gate"]) })
}

// recordVersions brings retained versions back and ends them, and looks at servers.
func (g *golden) recordVersions() {
	g.record(goldenRead, "keys/token", nil)
	g.record(goldenWrite, "keys/token/undelete", given{"version": 1, "for": "2h"})
	g.record(goldenWrite, "keys/token/undelete", given{"version": 7})
	g.record(goldenRead, "status", given{"detailed": true})
	g.record(goldenWrite, "keys/token/retire", given{"version": 1})
	g.record(goldenWrite, "keys/token/retire", nil)
	g.record(goldenWrite, "keys/token/erase", given{"version": 1, "reason": "gone"})
	g.record(goldenWrite, "keys/token/erase", given{"version": 2})
	g.record(goldenWrite, "keys/login/reconcile", given{"dry_run": true})
	g.record(goldenWrite, "keys/login/reconcile", nil)
	g.record(goldenWrite, "keys/token/reconcile", nil)
	g.record(goldenDelete, "keys/token", nil)
	g.record(goldenRead, "creds/api", given{"instance": "api-1"})
	g.record(goldenDelete, "workloads/api", nil)
	g.record(goldenDelete, "workloads/api", given{"drop": true})
	g.record(goldenDelete, "keys/token", nil)
	g.record(goldenDelete, "keys/login", nil)
	g.record(goldenDelete, "connections/main", nil)
	g.record(goldenWrite, "presets/hyvve", given{"generate": true, "database": "db"})
	g.record(goldenWrite, "presets/hyvve", given{"generate": true, "database": "db", "detailed": true})
	g.record(goldenWrite, "presets/hyvve", given{"generate": true, "database": "db"})
	g.record(goldenRead, "presets/hyvve", given{"database": "db"})
}

// recordJournal reads the journal, of which some entries alone are in the same order in each run.
func (g *golden) recordJournal() {
	g.record(goldenRead, "journal/config", nil)
	g.record(goldenWrite, "journal/config", given{"min_entries": 5000, "min_age": "9000h"})
	g.record(goldenWrite, "journal/config", given{"min_entries": 9})
	g.record(goldenRead, "config", nil)
	g.record(goldenList, "journal", given{"limit": 3})
	g.record(goldenRead, "journal", given{"after": "3", "limit": 12})
	g.record(goldenRead, "journal", given{"after": "3", "limit": 12, "detailed": true})
	g.record(goldenRead, "journal", given{"key": "nothing"})
	g.record(goldenRead, "journal/export", given{"limit": 2})
	g.record(goldenRead, "journal/1", nil)
	g.record(goldenRead, "journal/1", given{"detailed": true})
	g.call(goldenRead, "journal/latest", nil)
	g.record(goldenRead, "journal/none", nil)
	g.record(goldenRead, "journal/head", nil)
	g.record(goldenRead, "journal/verify", nil)
	g.record(goldenRead, "journal/verify", given{"detailed": true})
}
