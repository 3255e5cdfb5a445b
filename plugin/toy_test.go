// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/kinds"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest/toy"
)

// A kind that nothing of the engine or the mount knows is one line in the list: its connections, keys, help and rotations
// follow from that.
func TestKindIsAddedByALineInTheList(t *testing.T) {
	directory := toy.NewDirectory("canary-root", time.Millisecond)
	directory.Add("legacy", "canary-legacy")
	b := newBackendTestOf(t, func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
		made := newBackend(append(kinds.All(), toy.New(directory)))
		return made, made.Setup(ctx, conf)
	})
	b.write("config", map[string]any{"soak": "0s", "observe": "0s"})
	b.refuses(logical.UpdateOperation, "connections/main", map[string]any{"kind": "toy", "url": "toy://admin:wrong@directory"}, "refuses the administrator")
	b.write("connections/main", map[string]any{"kind": "toy", "url": "toy://admin:canary-root@directory"})
	b.write("connections/main/rotate-root", nil)
	b.refuses(logical.UpdateOperation, "keys/login", map[string]any{"kind": "toy", "connection": "main", "url": "toy://a:b@directory"}, "leave both out")
	b.refuses(logical.UpdateOperation, "keys/login", map[string]any{"kind": "toy", "connection": "main", "value": "toy://legacy:wrong@directory"}, "nothing was stored")
	b.write("keys/login", map[string]any{"kind": "toy", "connection": "main", "username": "app", "value": "toy://legacy:canary-legacy@directory"})
	b.write("workloads/api", map[string]any{"presents": "login"})

	present := func() *toy.Login { // what api does with what it holds
		t.Helper()
		values := b.instance("api", "api-1").Data["values"].(map[string]any)
		u, err := dsn.Parse(values["LOGIN"].(string), "toy")
		if err != nil {
			t.Fatal(err)
		}
		session, err := directory.Login(t.Context(), u.User, u.Password.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	held := present()
	id := b.write("rotate", map[string]any{"key": "login"})["id"].(string)
	b.until(id, "1 sessions of user legacy")
	if users := directory.Users(); !slices.Equal(users, []string{"app_a", "legacy"}) || !held.Alive() {
		t.Errorf("while the old version is in use %v can log in, and its session lives: %t", users, held.Alive())
	}
	held.End()
	held = present()
	b.until(id, "done")
	if users := directory.Users(); !slices.Equal(users, []string{"app_a"}) || !held.Alive() {
		t.Errorf("at the end %v can log in, and the new session lives: %t", users, held.Alive())
	}

	id = b.write("rotate", map[string]any{"key": "login"})["id"].(string)
	b.write("rotations/"+id+"/revert", nil)
	b.until(id, "reverted")
	if users := directory.Users(); !slices.Equal(users, []string{"app_a"}) || !held.Alive() {
		t.Errorf("after a revert %v can log in, and the session lives: %t", users, held.Alive())
	}
	if text := b.answers.String() + b.log.String(); strings.Contains(text, "canary") {
		t.Error("a password stands in an answer or a log")
	}
}

// until lets api-1 hold what it should until a rotation is in a state, or waits for what some words say.
func (b *backendTest) until(id, words string) {
	b.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		b.instance("api", "api-1")
		data := b.read("rotations/" + id).Data
		gate, _ := data["next_gate"].(string)
		if data["state"] == words || strings.Contains(gate, words) {
			return
		}
		select {
		case <-deadline:
			b.t.Fatalf("rotation is %v %v: %v", data["state"], data["step"], gate)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
