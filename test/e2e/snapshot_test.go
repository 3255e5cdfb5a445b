// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// TestVaultRestoredFromSnapshots restores Vault from snapshots that are one, two and three rotations old. A client with the
// newest version that the server knows is never locked out, with or without an open session; reconcile makes Vault's version
// valid beside it; and the next rotation ends.
func TestVaultRestoredFromSnapshots(t *testing.T) {
	w := startSnapshots(t)
	for age := 1; age <= 3; age++ {
		postgres, redis := w.defineBoth(t, age)
		w.rotate(t, postgres, redis)
		snapshot := w.snapshot(t)
		for range age {
			w.rotate(t, postgres, redis)
		}
		newest := []string{w.value(t, postgres), w.value(t, redis)}
		open, err := pgx.Connect(t.Context(), newest[0])
		if err != nil {
			t.Fatal(err)
		}
		w.restore(t, snapshot)
		logsIn := func(when string) {
			t.Helper()
			w.logsIn(t, fmt.Sprintf("snapshot %d rotations old: the newest version %s", age, when), newest...)
			if err := open.Ping(t.Context()); err != nil {
				t.Errorf("snapshot %d rotations old: an open session %s: %v", age, when, err)
			}
		}
		logsIn("after the restore")
		for _, name := range []string{postgres, redis} {
			plan, err := w.vault.Client.Logical().WriteWithContext(t.Context(), "hyvve/rotate", map[string]any{"key": name, "dry_run": true, "detailed": true})
			if err != nil || len(plan.Data["blockers"].([]any)) == 0 {
				t.Errorf("snapshot %d rotations old: the plan of %s has no blocker: %v", age, name, err)
			}
			w.write(t, "hyvve/keys/"+name+"/reconcile", nil)
		}
		logsIn("after reconcile")
		w.logsIn(t, fmt.Sprintf("snapshot %d rotations old: Vault's version after reconcile", age), w.value(t, postgres), w.value(t, redis))
		if err := open.Close(t.Context()); err != nil {
			t.Error(err)
		}
		w.rotate(t, postgres, redis)
		w.logsIn(t, fmt.Sprintf("snapshot %d rotations old: the version after the next rotation", age), w.value(t, postgres), w.value(t, redis))
	}
}

// snapshotsWorld is a Vault on raft, a PostgreSQL and a Redis.
type snapshotsWorld struct {
	postgres *bed.Postgres
	redis    *bed.Redis
	vault    *bed.Vault
	engine   *client.Client
}

func startSnapshots(t *testing.T) *snapshotsWorld {
	t.Helper()
	return startSnapshotsOn(t, bed.PostgresOptions{})
}

func startSnapshotsOn(t *testing.T, o bed.PostgresOptions) *snapshotsWorld {
	t.Helper()
	ctx := t.Context()
	b := bed.ForTest(t)
	w := &snapshotsWorld{}
	var err error
	if w.postgres, err = b.PostgresWith(ctx, o); err != nil {
		t.Fatal(err)
	}
	if w.redis, err = b.Redis(ctx); err != nil {
		t.Fatal(err)
	}
	if w.vault, err = b.Vault(ctx, bed.VaultOptions{Durable: true}); err != nil {
		t.Fatal(err)
	}
	w.engine = client.New(w.vault.Client, bed.Mount)
	root, err := w.postgres.NewRole(ctx, rootName)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := w.postgres.NewDatabase(ctx, "hyvve")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // of a test
	if _, err := conn.Exec(ctx, "ALTER ROLE "+rootName+" SUPERUSER"); err != nil {
		t.Fatal(err)
	}
	w.write(t, "hyvve/config", map[string]any{"soak": "0s", "observe": "1s"})
	w.write(t, "hyvve/connections/main", map[string]any{"kind": "postgres", "url": w.postgres.URL("postgres", rootName, root)})
	w.write(t, "hyvve/connections/cache", map[string]any{"kind": "redis", "url": w.redis.AdminURL()})
	return w
}

func (w *snapshotsWorld) write(t *testing.T, path string, data map[string]any) {
	t.Helper()
	if _, err := w.vault.Client.Logical().WriteWithContext(t.Context(), path, data); err != nil {
		t.Fatal(err)
	}
}

// defineBoth makes a key at each server, from URLs in use.
func (w *snapshotsWorld) defineBoth(t *testing.T, n int) (postgres, redis string) {
	t.Helper()
	postgres, redis = fmt.Sprintf("postgres-%d", n), fmt.Sprintf("redis-%d", n)
	w.definePostgres(t, postgres, fmt.Sprintf("app_%d", n))
	const secret = "password-of-the-app"
	if _, err := w.redis.Do(t.Context(), "ACL", "SETUSER", fmt.Sprintf("app-%d", n), "on", ">"+secret, "~*", "&*", "+@all", "-@admin"); err != nil {
		t.Fatal(err)
	}
	w.write(t, "hyvve/keys/"+redis, map[string]any{"kind": "redis", "connection": "cache", "value": w.redis.UserURL(fmt.Sprintf("app-%d", n), secret) + "/0"})
	w.write(t, "hyvve/workloads/"+redis, map[string]any{"presents": redis, "min_instances": 0})
	return postgres, redis
}

// definePostgres makes a key from the URL of a role of the application.
func (w *snapshotsWorld) definePostgres(t *testing.T, name, role string) {
	t.Helper()
	password, err := w.postgres.NewRole(t.Context(), role)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "hyvve/keys/"+name, map[string]any{"kind": "postgres", "connection": "main", "value": w.postgres.URL("hyvve", role, password)})
	w.write(t, "hyvve/workloads/"+name, map[string]any{"presents": name, "min_instances": 0})
}

// rotate rotates keys, each by itself, until both are done.
func (w *snapshotsWorld) rotate(t *testing.T, names ...string) {
	t.Helper()
	var ids []string
	for _, name := range names {
		r, err := w.engine.Rotate(t.Context(), "scenario", name)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	for _, id := range ids {
		w.eventually(t, "done", func() string {
			r, err := w.engine.Rotation(t.Context(), id)
			switch {
			case err != nil:
				return err.Error()
			case r.State == "done":
				return ""
			}
			return fmt.Sprintf("%s %s: %s", r.State, r.Step, r.NextGate)
		})
	}
}

// eventually asks until nothing is wrong any more.
func (w *snapshotsWorld) eventually(t *testing.T, what string, wrong func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		text := wrong()
		if text == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it is not %s: %s", what, text)
		case <-ticker.C:
		}
	}
}

// value reads what Vault hands out, and gives the lease back.
func (w *snapshotsWorld) value(t *testing.T, name string) string {
	t.Helper()
	bundle, err := w.engine.Creds(t.Context(), name, "hand")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.engine.Leave(t.Context(), name, "hand", bundle.Secret); err != nil {
		t.Fatal(err)
	}
	return bundle.Values[strings.ToUpper(strings.ReplaceAll(name, "-", "_"))].Reveal()
}

func (w *snapshotsWorld) logsIn(t *testing.T, what string, urls ...string) {
	t.Helper()
	for _, url := range urls {
		login := loginToPostgres
		if strings.HasPrefix(url, "redis:") {
			login = loginToRedis
		}
		if err := login(t.Context(), url); err != nil {
			scheme, _, _ := strings.Cut(url, ":")
			t.Errorf("%s: a login at %s fails: %v", what, scheme, err)
		}
	}
}

func (w *snapshotsWorld) snapshot(t *testing.T) []byte {
	t.Helper()
	var data bytes.Buffer
	if err := w.vault.Client.Sys().RaftSnapshotWithContext(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}

// restore puts Vault back, and waits until the engine answers.
func (w *snapshotsWorld) restore(t *testing.T, snapshot []byte) {
	t.Helper()
	if err := w.vault.Client.Sys().RaftSnapshotRestoreWithContext(t.Context(), io.NopCloser(bytes.NewReader(snapshot)), true); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "restored", func() string {
		if _, err := w.vault.Client.Logical().ReadWithContext(t.Context(), "hyvve/status"); err != nil {
			return err.Error()
		}
		return ""
	})
}
