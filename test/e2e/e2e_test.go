// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the scenarios: what a user does, on real parts, and what must then be so.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform"
)

// small is a world that starts in a few seconds.
func small(durable bool) platform.Size {
	return platform.Size{Instances: 2, Durable: durable, Seeding: bed.Seeding{Providers: 12, Servers: 6, Legacy: 2, Connections: 6, Users: 6, Salts: 6}}
}

// world is a running platform under load.
type world struct {
	*platform.World
	t      *testing.T
	load   *platform.Load
	newest func() map[string]key.Value
}

func start(t *testing.T, size platform.Size) *world {
	t.Helper()
	w, err := platform.Build(t.Context(), bed.ForTest(t), size)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.StartWorkloads(t.Context(), size.Instances); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	newest, err := w.Audit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	run := &world{World: w, t: t, newest: newest}
	run.load = w.StartLoad(ctx)
	t.Cleanup(run.load.Stop)
	return run
}

// follow waits for a rotation's end. A Vault that is away meanwhile is waited for.
func (w *world) follow(id, want string) api.Rotation {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 4*time.Minute)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	last, waits := "", ""
	for {
		r, err := w.Engine.Rotation(ctx, id)
		if err == nil {
			waits = r.NextGate
			if at := r.State + " " + r.Step; at != last {
				last = at
				w.t.Logf("%s: %s: %s", strings.Join(r.Keys, ","), at, platform.Short(r.NextGate))
			}
			if r.Ended() {
				if r.State != want {
					w.t.Fatalf("rotation ended as %s, want %s", r.State, want)
				}
				return r
			}
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("rotation %s is still %s (%v): %s", id, last, err, waits)
		case <-ticker.C:
		}
	}
}

// reach waits until a rotation is in a state.
func (w *world) reach(id, state, step string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		r, err := w.Engine.Rotation(ctx, id)
		if err != nil {
			w.t.Fatal(err)
		}
		if r.State == state && (step == "" || r.Step == step) {
			return
		}
		if r.Ended() {
			w.t.Fatalf("rotation ended as %s before it was seen %s %s", r.State, state, step)
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("rotation is %s %s, not %s: %s", r.State, r.Step, state, r.NextGate)
		case <-ticker.C:
		}
	}
}

func (w *world) rotate(keys ...string) string {
	w.t.Helper()
	r, err := w.Engine.Rotate(w.t.Context(), "scenario", keys...)
	if err != nil {
		w.t.Fatal(err)
	}
	return r.ID
}

// begin is rotate for a Vault that may go away while it is asked.
func (w *world) begin(keys ...string) string {
	w.t.Helper()
	for {
		r, err := w.Engine.Rotate(w.t.Context(), "scenario", keys...)
		if err == nil {
			return r.ID
		}
		if id := running(err); id != "" {
			return id
		}
		w.t.Logf("rotate %s: %v", strings.Join(keys, ","), err)
		select {
		case <-w.t.Context().Done():
			w.t.Fatal(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (w *world) write(path string, data map[string]any) {
	w.t.Helper()
	if _, err := w.Server.Client.Logical().WriteWithContext(w.t.Context(), path, data); err != nil {
		w.t.Fatal(err)
	}
}

// conclude checks that nobody noticed anything: no request failed, all rows open, no log holds a secret.
func (w *world) conclude() {
	w.t.Helper()
	counts, err := w.load.Counts(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if counts.Failures > 0 || counts.Calls == 0 || counts.Sessions == 0 || counts.Reads == 0 {
		w.t.Errorf("requests: %+v", counts)
	}
	w.t.Logf("%d requests, %d failed", counts.Total(), counts.Failures)
	w.load.Stop()
	columns, err := w.VerifyRows(w.t.Context(), w.newest())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range columns {
		if c.Current != c.Rows || c.Changed > 0 {
			w.t.Errorf("rows: %+v", c)
		}
	}
	found, places, secrets, err := w.Leaks(w.t.Context())
	if err != nil || len(found) > 0 || places == 0 || secrets < 10 {
		w.t.Errorf("secrets stand in %v (%d places and %d secrets searched, %v)", found, places, secrets, err)
	}
}

// countsRows waits until a plan knows how many rows there are, from what sidecars have counted while nothing was asked of them.
func (w *world) countsRows(name string, want map[string]int) {
	w.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		plan, err := w.Server.Client.Logical().WriteWithContext(w.t.Context(), "hyvve/rotate", map[string]any{"key": name, "dry_run": true, "detailed": true})
		if err != nil {
			w.t.Fatal(err)
		}
		rows, _ := plan.Data["rows"].(map[string]any)[name].(map[string]any)
		columns, _ := rows["columns"].([]any)
		got := map[string]int{}
		for _, c := range columns {
			column, _ := c.(map[string]any)
			total, _ := column["total"].(json.Number)
			n, _ := total.Int64()
			got[fmt.Sprint(column["column"])] = int(n)
		}
		if maps.Equal(got, want) {
			return
		}
		select {
		case <-deadline:
			w.t.Fatalf("the plan has rows %v, want %v", got, want)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestEveryKeyRotatesUnderLoad(t *testing.T) {
	w := start(t, small(true))
	w.countsRows("encryption-master-key", map[string]int{"ai_provider_configs.api_key_encrypted": 12, "mcp_server_configs.api_key_encrypted": 8, "integration_connections.encrypted_credentials": 6})
	for _, name := range []string{"agent-service-token", "better-auth-secret", "encryption-master-key"} {
		w.follow(w.rotate(name), "done")
	}
	w.follow(w.rotate("jwt-secret", "agno-api-key", "metrics-api-key"), "done")
	w.follow(w.rotate("database-url", "redis-url"), "done")
	w.follow(w.rotate("database-url", "encryption-master-key"), "done") // rows are re-encrypted at a URL that changes meanwhile
	w.conclude()
}

func TestRevertOfRowsAndTokens(t *testing.T) {
	w := start(t, small(true))
	w.write("hyvve/config", map[string]any{"soak": "1h"})
	before := w.Initial
	for _, at := range []struct{ state, step string }{{"presenting", ""}, {"soaking", "soak"}} {
		id := w.rotate("encryption-master-key", "agent-service-token", "database-url", "redis-url")
		w.reach(id, at.state, at.step)
		if _, err := w.Engine.Revert(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		w.follow(id, "reverted")
	}
	for env, v := range w.newest() {
		if !v.Equal(before[env]) {
			t.Errorf("%s has another value after two reverts", env)
		}
	}
	w.conclude()
}

// running takes the id of a rotation that was started although its reply was lost.
func running(err error) string {
	_, rest, ok := strings.Cut(err.Error(), "is being rotated by ")
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(rest, " ")
	return id
}

// Vault is killed and comes back, sealed first, in each move of a rotation.
func TestVaultIsKilledInEachMove(t *testing.T) {
	w := start(t, small(true))
	for _, at := range []string{"accepting", "presenting", "soaking", "retiring"} {
		id := w.rotate("encryption-master-key", "agent-service-token")
		reachOrPass(w, id, at)
		w.Vault.Kill()
		if err := w.Vault.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.follow(id, "done")
	}
	w.conclude()
}

// reachOrPass waits until a rotation is in a state, or beyond: a short one may not be seen.
func reachOrPass(w *world, id, state string) {
	order := map[string]int{"planned": 0, "accepting": 1, "presenting": 2, "soaking": 3, "retiring": 4, "done": 5}
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		r, err := w.Engine.Rotation(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if order[r.State] >= order[state] {
			return
		}
		select {
		case <-w.t.Context().Done():
			w.t.Fatal(w.t.Context().Err())
		case <-ticker.C:
		}
	}
}

// An instance is killed while its sidecar re-encrypts: the other one takes the work over, and the rotation waits for
// the lease of the dead one.
func TestSidecarIsKilledAtWork(t *testing.T) {
	size := small(true)
	size.Lease = 10 * time.Second // so long the instance that is gone counts as live
	w := start(t, size)
	w.write("hyvve/workloads/api", map[string]any{"min_instances": 1})
	id := w.rotate("encryption-master-key")
	w.reach(id, "presenting", "stage-rows")
	w.Sidecars["api-1"].Kill()
	w.Apps["api-1"].Kill()
	w.load.Stop() // half of its requests go to the instance that is gone
	r := w.follow(id, "done")
	if len(r.Rows) == 0 {
		t.Error("the rotation shows no rows")
	}
	columns, err := w.VerifyRows(t.Context(), w.newest())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range columns {
		if c.Current != c.Rows {
			t.Errorf("rows: %+v", c)
		}
	}
}

func TestDatabaseIsAwayDuringReencryption(t *testing.T) {
	w := start(t, small(true))
	w.load.Stop()
	if err := w.Postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Engine.Rotate(t.Context(), "", "encryption-master-key"); err == nil || !strings.Contains(err.Error(), "cannot look at the rows by connection rows") {
		t.Errorf("a rotation starts while its witness cannot look: %v", err)
	}
	w.write("hyvve/keys/encryption-master-key", map[string]any{"witness": "none"}) // as if the database went away just after the start
	id := w.rotate("encryption-master-key")
	w.write("hyvve/keys/encryption-master-key", map[string]any{"witness": "rows"})
	w.reach(id, "presenting", "stage-rows")
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		r, err := w.Engine.Rotation(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(r.NextGate, "cannot be reached") {
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("the rotation does not say that the database is away: %s", r.NextGate)
		case <-ticker.C:
		}
	}
	if err := w.Postgres.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.follow(id, "done")
}

// A second mount knows nothing of the first.
func TestOtherMount(t *testing.T) {
	b := bed.ForTest(t)
	v, err := b.Vault(t.Context(), bed.VaultOptions{})
	if err != nil {
		t.Fatal(err)
	}
	run := commands{t: t, vault: v}
	run.ok("secrets enable -path=other "+bed.PluginName, "Success")
	run.ok("write hyvve/presets/hyvve generate=true", "workload prometheus")
	run.fails("list other/keys", "No value found")
	run.ok("write other/keys/a-token generate=true format=hex", "current_version")
	for _, c := range []struct{ args, want string }{
		{"path-help hyvve/rotate", "accept    The new version is stored"},
		{"path-help hyvve", "presets/hyvve"},
		{"read hyvve/status", "agent-service-token"},
	} {
		run.ok(c.args, c.want)
	}
	for _, c := range []struct{ args, want string }{
		{"write hyvve/rotate key=nothing", `key "nothing" is not known`},
		{"write hyvve/rotate key=a/b", "contains a slash"},
		{"write -f hyvve/rotate", "key is missing"},
		{"write hyvve/keys/a/b generate=true", "contains a slash"},
		{"write hyvve/keys/x format=octal generate=true", `format "octal" is not known`},
		{"read hyvve/creds/nobody", `workload "nobody" is not known`},
		{"write hyvve/keys/x kind=token rule=encryption-master-key format=base64 value=c2hvcnQ=", "5 bytes"},
		{"write hyvve/keys/x value=", "value is empty"},
		{"write -f hyvve/rotations/r1/revert", `rotation "r1" is not known`},
	} {
		run.fails(c.args, c.want)
	}
	run.fails("read hyvve/keys/x", "No value found")
	run.ok("write hyvve/rotate key=agent-service-token", "next_gate")
	run.fails("write hyvve/rotate key=agent-service-token", "is being rotated by")
}
