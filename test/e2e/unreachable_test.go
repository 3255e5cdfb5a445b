// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// A server that is down shows in a plan, in its connection and in the status, without a rotation and before the next check is due;
// and so does that it is back.
func TestUnreachableServerIsVisible(t *testing.T) {
	t.Parallel()
	w := startCache(t)
	redis := w.redis
	w.write("hyvve/workloads/app", map[string]any{"presents": "redis-url", "min_instances": 0})
	plan := func() string {
		return fmt.Sprint(w.write("hyvve/rotate", map[string]any{"key": "redis-url", "dry_run": true}))
	}
	if text := plan(); strings.Contains(text, "refused") {
		t.Fatalf("before: %s", text)
	}
	redis.Kill()
	if text := plan(); !strings.Contains(text, "refused") {
		t.Errorf("the plan does not say that the server is down: %s", text)
	}
	if status := fmt.Sprint(w.read("hyvve/status")["redis-url"]); !strings.Contains(status, "PROBLEM") || !strings.Contains(status, "refused") {
		t.Errorf("the status after the plan: %s", status)
	}
	kit.Until(t, "the connection says that its server is down", func() bool {
		return strings.Contains(fmt.Sprint(w.read("hyvve/connections/cache")["problem_01"]), "refused")
	})
	if status := fmt.Sprint(w.read("hyvve/status")["connection cache"]); !strings.Contains(status, "PROBLEM") {
		t.Errorf("the status of the connection: %s", status)
	}
	if err := redis.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the connection says that its server is back", func() bool {
		return w.read("hyvve/connections/cache")["problems"] == "none"
	})
}

// cacheWorld is a Vault whose mount has one key, redis-url, and its Redis. No workload has the key.
type cacheWorld struct {
	t     *testing.T
	bed   *bed.Bed
	redis *bed.Redis
	vault *bed.Vault
}

func startCache(t *testing.T) cacheWorld {
	t.Helper()
	b := bed.ForTest(t)
	redis, errRedis := b.Redis(t.Context())
	vault, errVault := b.Vault(t.Context(), bed.VaultOptions{})
	if err := errors.Join(errRedis, errVault); err != nil {
		t.Fatal(err)
	}
	if _, err := redis.Do(t.Context(), "ACL", "SETUSER", "app", "on", ">secret-of-the-app", "~*", "&*", "+@all"); err != nil {
		t.Fatal(err)
	}
	w := cacheWorld{t, b, redis, vault}
	w.write("hyvve/connections/cache", map[string]any{"kind": "redis", "url": redis.AdminURL()})
	w.write("hyvve/keys/redis-url", map[string]any{"kind": "redis", "connection": "cache", "value": redis.UserURL("app", "secret-of-the-app")})
	return w
}

func (w cacheWorld) write(path string, data map[string]any) map[string]any {
	w.t.Helper()
	secret, err := w.vault.Client.Logical().WriteWithContext(w.t.Context(), path, data)
	if err != nil {
		w.t.Fatal(err)
	}
	if secret == nil {
		return nil
	}
	return secret.Data
}

func (w cacheWorld) read(path string) map[string]any {
	w.t.Helper()
	secret, err := w.vault.Client.Logical().ReadWithContext(w.t.Context(), path)
	if err != nil {
		w.t.Fatal(err)
	}
	return secret.Data
}

// A Redis that hangs when all keys rotate, and was looked at just before, holds up its own key alone. That key continues in a rotation
// of its own, and ends when the server is back.
func TestHangingServerHoldsUpItsOwnKeysAlone(t *testing.T) {
	t.Parallel()
	w := startCache(t)
	w.write("hyvve/keys/token", map[string]any{"kind": "token", "generate": true})
	w.write("hyvve/workloads/app", map[string]any{"presents": "token,redis-url", "min_instances": 0})
	w.write("hyvve/connections/cache", map[string]any{"url": w.redis.AdminURL()})
	if err := w.redis.Pause(); err != nil {
		t.Fatal(err)
	}
	resumed := false
	t.Cleanup(func() {
		if !resumed {
			_ = w.redis.Resume()
		}
	})
	begun := time.Now()
	rotation := w.write("hyvve/rotate", map[string]any{"keys": "all", "compromised": true, "detailed": true})
	if keys := fmt.Sprint(rotation["keys"]); keys != "[redis-url token]" {
		t.Fatalf("rotates %s: %v", keys, rotation)
	}
	path := fmt.Sprintf("hyvve/rotations/%s", rotation["id"])
	kit.Until(t, "the token is rotated", func() bool { return w.read(path)["state"] == "done" })
	t.Logf("the token is rotated after %s", time.Since(begun).Round(time.Second))
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("the token waited %s", took)
	}
	if text := fmt.Sprint(w.read(path)); !strings.Contains(text, "REDIS_URL, does not hold up the others any longer") {
		t.Errorf("the rotation says %s", text)
	}
	if text := fmt.Sprint(w.read("hyvve/rotations/redis-url")); !strings.Contains(text, "accepting stage") && !strings.Contains(text, "state:accepting") {
		t.Errorf("that of the Redis says %s", text)
	}
	resumed = true
	if err := w.redis.Resume(); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the login is rotated", func() bool { return w.read("hyvve/rotations/redis-url")["state"] == "done" })
	if _, err := w.redis.DoAs(t.Context(), "app", "secret-of-the-app", "PING"); err == nil {
		t.Error("the leaked password still logs in")
	}
}
