// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform"
)

// A replica of Redis is partitioned off in the middle of each step: the rotation of both servers' credentials waits, names
// the node, and ends when the partition does. Workloads, which use the master, notice nothing.
func TestCacheIsPartitionedOffInEachStep(t *testing.T) {
	w := startServers(t)
	part := func() {
		t.Helper()
		if err := w.replica.Pause(); err != nil {
			t.Fatal(err)
		}
	}
	join := func() {
		t.Helper()
		if err := w.replica.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	// No server is asked for anything while instances switch.
	waitsIn := map[string]string{"stage": "stage", "switch": "unused", "unused": "unused", "retire": "retire"}
	names := func(r api.Rotation) bool { return strings.Contains(r.NextGate, w.replica.Addr) }
	for n, step := range []string{"stage", "switch", "unused", "retire"} {
		var r api.Rotation
		if step == "stage" {
			part()
			r = w.begin(t, "database-url", "redis-url")
		} else {
			release := w.hold(t, step)
			r = w.begin(t, "database-url", "redis-url")
			w.until(t, r.ID, "in "+step, func(r api.Rotation) bool { return r.Step == step })
			part()
			if now, err := w.engine.Rotation(t.Context(), r.ID); err != nil || now.Step != step {
				t.Fatalf("it was not partitioned off in %s, but in %s %s (%v)", step, now.State, now.Step, err)
			}
			release()
		}
		held := w.until(t, r.ID, "held by the node", names)
		t.Logf("partitioned off in %s; then %s %s: %s", step, held.State, held.Step, platform.Short(held.NextGate))
		if want := waitsIn[step]; held.Step != want {
			t.Errorf("partitioned off in %s it waits for the node in %s, want %s", step, held.Step, want)
		}
		join()
		w.end(t, r.ID, "done")
		role, user := logins(n + 1)
		w.validLogins(t, "after a partition in "+step, role, user)
	}

	part()
	r := w.begin(t, "database-url", "redis-url")
	w.until(t, r.ID, "held by the node", names)
	if _, err := w.engine.Revert(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	w.until(t, r.ID, "held on its way back", func(r api.Rotation) bool { return r.State == "reverting" && names(r) })
	join()
	w.end(t, r.ID, "reverted")
	role, user := logins(len(waitsIn))
	w.validLogins(t, "after a revert", role, user)
	w.noFailures(t) // the logins of this turn stay, locked, where stage has not come to them: they are of an earlier version
}

// Somebody changes the administrator's password at Redis: the rotation waits with the reason, and continues as soon as the
// connection is mended; or it is taken back, and leaves nothing.
func TestCacheAdministratorIsLockedOut(t *testing.T) {
	w := startServers(t)
	lockOut := func(password string) {
		t.Helper()
		for _, args := range [][]string{{"ACL", "SETUSER", rootName, "resetpass", ">" + password}, {"CLIENT", "KILL", "USER", rootName}} {
			if _, err := w.redis.Do(t.Context(), args...); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.replica.Do(t.Context(), "ACL", "SETUSER", rootName, "resetpass", ">"+password); err != nil {
			t.Fatal(err)
		}
		w.secret(password)
	}
	mend := func(password string) {
		t.Helper()
		w.write(t, "hyvve/connections/cache", map[string]any{"password": password})
	}
	waits := func(r api.Rotation) bool {
		return strings.Contains(r.NextGate, "refuses user "+rootName)
	}
	lockOut("behind-our-back")
	r := w.begin(t, "database-url", "redis-url")
	w.until(t, r.ID, "held by the password", waits)
	mend("behind-our-back")
	w.end(t, r.ID, "done")
	w.validLogins(t, "when the connection is mended", "database_url_a", "redis_url_a")

	lockOut("once-more")
	r = w.begin(t, "database-url", "redis-url")
	w.until(t, r.ID, "held by the password", waits)
	if _, err := w.engine.Revert(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	w.until(t, r.ID, "held on its way back", func(r api.Rotation) bool { return r.State == "reverting" && waits(r) })
	mend("once-more")
	w.end(t, r.ID, "reverted")
	w.validLogins(t, "after a revert", "database_url_a", "redis_url_a")
	w.noStrays(t, "redis_url_b", "database_url_b")
	w.noFailures(t)
}

// A change that cannot be made is refused before anything is stored.
func TestChangeThatCannotBeMade(t *testing.T) {
	w := startServers(t)
	_, err := w.vault.Client.Logical().WriteWithContext(t.Context(), "hyvve/rotate", map[string]any{
		"key": "redis-url", "value": "redis://:another-password@" + w.redis.Addr + "/0",
	})
	if err == nil || !strings.Contains(err.Error(), "has the same user, default") || !strings.Contains(err.Error(), "nothing was changed") || strings.Contains(err.Error(), "another-password") {
		t.Errorf("the same user once more: %v", err)
	}
	if ids, err := w.engine.Rotations(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("rotations are %v (%v)", ids, err)
	}
	w.stop()
}

// noStrays wants no user and no role of these names, not even one that cannot log in.
func (w *serversWorld) noStrays(t *testing.T, user, role string) {
	t.Helper()
	if stray := w.ask(t, "SELECT coalesce(string_agg(rolname, ' '), '') FROM pg_roles WHERE rolname = '"+role+"'"); stray != "" {
		t.Errorf("role %s is left", stray)
	}
	for _, r := range []*bed.Redis{w.redis, w.replica} {
		if stray, err := r.Do(t.Context(), "ACL", "GETUSER", user); err != nil || stray != "" {
			t.Errorf("user %s is left at %s (%v)", user, r.Addr, err)
		}
	}
}
