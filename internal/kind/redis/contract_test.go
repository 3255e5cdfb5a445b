// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kindtest"
)

func TestContract(t *testing.T) {
	for _, tt := range []struct{ name, strategy, first string }{
		{"alternating, adopted", alternating, "app"},
		{"alternating, adopted default", alternating, defaultUser},
		{"alternating, generated", alternating, ""},
		{"dual password, adopted", dualPassword, "app"},
		{"dual password, generated", dualPassword, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, bed.RedisOptions{})
			number := 0
			kindtest.Run(t, func(t testing.TB) kindtest.World {
				number++
				return contractWorld(t, r, number, tt.strategy, tt.first)
			})
		})
	}
}

func contractWorld(t testing.TB, r *bed.Redis, number int, strategy, first string) kindtest.World {
	root := fmt.Sprintf("root%d", number) // of its own, since the suite rotates its password
	w := newWorld(t, r, kind.Options{optionStrategy: strategy, kind.OptionUsername: fmt.Sprintf("key%d", number), login.OptionURL: "redis://" + r.Addr + "/2?family=4"})
	const password = "password-of-the-root"
	w.do(r, "ACL", "SETUSER", root, "on", ">"+password, "+@all")
	kd := kind.Kind(w.kind)
	sessions := &sessions{}
	if strategy == dualPassword {
		kd = counting{w.kind, sessions}
	}
	world := kindtest.World{
		Kind: kd, Key: w.key,
		Connection: kind.Connection{Name: "main", Options: kind.Options{login.FieldURL: r.UserURL(root, password)}},
		Stop:       func(testing.TB) { w.ok(r.Stop()) },
		Start:      func(testing.TB) { w.ok(r.Start(context.Background())) },
		Freeze: func(testing.TB) func() {
			w.ok(r.Pause())
			return func() { w.ok(r.Resume()) }
		},
		Valid: func(_ testing.TB, v key.Value) bool { return w.valid(r, key.Version{Value: v}) },
		Use: func(_ testing.TB, v key.Value) kindtest.Session {
			one := &held{value: v, client: w.reconnecting(r, v)}
			sessions.add(one)
			return kindtest.Session{Alive: one.alive, End: func() { _ = one.client.Close() }}
		},
		Credentials: func(testing.TB) []string { return w.users(r) },
	}
	if strategy == alternating { // with dual_password the login is the one in use
		world.Claim = func(_ testing.TB, v key.Value, by key.Key) {
			u, err := dsn.Parse(v.Reveal(), urls.Schemes...)
			w.ok(err)
			w.do(r, "ACL", "SETUSER", urls.UserOf(u), "#"+markOf(by, 1).digest())
		}
		world.Occupy = func(_ testing.TB, v key.Value) key.Value {
			u, err := dsn.Parse(v.Reveal(), urls.Schemes...)
			w.ok(err)
			const theirs = "somebody-else"
			w.do(r, "ACL", "SETUSER", u.User, "on", ">"+theirs, "~theirs:*", "+@all", "&*")
			w.do(r, "CONFIG", "REWRITE")
			return key.NewValue(r.UserURL(u.User, theirs))
		}
	}
	if first != "" {
		w.do(r, "ACL", "SETUSER", first, "reset", "on", ">"+appPassword, "~app:*", "+@all", "-@dangerous", "&*")
		world.First = key.NewValue(r.UserURL(first, appPassword))
	}
	w.do(r, "CONFIG", "REWRITE") // the suite stops the server
	return world
}

// reconnecting is a client that logs in again when its session has ended, as those of applications do.
func (w *world) reconnecting(r *bed.Redis, v key.Value) *goredis.Client {
	w.t.Helper()
	u, err := dsn.Parse(v.Reveal(), urls.Schemes...)
	w.ok(err)
	one := goredis.NewClient(&goredis.Options{
		Addr: r.Addr, Username: u.User, Password: u.Password.Reveal(), PoolSize: 1, MaxRetries: 2, DialerRetries: 1, DisableIdentity: true,
	})
	w.ok(one.Ping(context.Background()).Err())
	return one
}

// held is an application's client that the suite holds.
type held struct {
	value  key.Value
	client *goredis.Client
}

func (h *held) alive() bool { return h.client.Ping(context.Background()).Err() == nil }

type sessions struct {
	mu  sync.Mutex
	all []*held
}

func (s *sessions) add(one *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, one)
}

// counting adds to the kind what its server does not know: which password a session has used. The suite needs it;
// deployments know it from leases and reports.
type counting struct {
	*Kind
	suite *sessions
}

func (k counting) InUse(ctx context.Context, c kind.Change) (int, string, error) {
	if n, _, err := k.Kind.InUse(ctx, c); err != nil || n != 0 {
		return n, "what the server should not be able to tell", err
	}
	k.suite.mu.Lock()
	defer k.suite.mu.Unlock()
	k.suite.all = slices.DeleteFunc(k.suite.all, func(h *held) bool { return !h.alive() })
	n := 0
	for _, h := range k.suite.all {
		if h.value.Equal(c.From.Value) {
			n++
		}
	}
	return n, "sessions of the suite", nil
}

func (k counting) Sample(ctx context.Context, c kind.Change, d time.Duration) (int, string, error) {
	for begun := time.Now(); time.Since(begun) < d; {
		if n, what, err := k.InUse(ctx, c); n != 0 || err != nil {
			return n, what, err
		}
	}
	return 0, "", nil
}
