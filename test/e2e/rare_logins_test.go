// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// rareClient is a client without a sidecar, which logs in for 20 ms now and then.
type rareClient struct {
	key   string
	every time.Duration
	login func(ctx context.Context, url string) error

	url     atomic.Pointer[string]
	logins  atomic.Int64
	refused atomic.Pointer[error]
}

// refusal is how its last login failed that did; nil: none did.
func (c *rareClient) refusal() error {
	if err := c.refused.Load(); err != nil {
		return *err
	}
	return nil
}

// run logs in until the context ends.
func (c *rareClient) run(ctx context.Context) {
	ticker := time.NewTicker(c.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := c.login(context.WithoutCancel(ctx), *c.url.Load()); err != nil {
			c.refused.Store(&err)
		}
		c.logins.Add(1)
	}
}

func loginToPostgres(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // of a test
	_, err = conn.Exec(ctx, "SELECT pg_sleep(0.02)")
	return err
}

func loginToRedis(ctx context.Context, url string) error {
	options, err := goredis.ParseURL(url)
	if err != nil {
		return err
	}
	options.Protocol, options.DisableIdentity = 2, true
	one := goredis.NewClient(options)
	defer one.Close() //nolint:errcheck // of a test
	// It blocks for the 20 ms that the client stays, and the session is seen all the while.
	if err := one.Do(ctx, "BLPOP", "nothing", "0.02").Err(); err != nil && err != goredis.Nil { //nolint:errorlint // it is that very value
		return err
	}
	return nil
}

// TestRareLogins has clients log in for 20 ms each second, and each five seconds, with the version that every rotation
// wants to retire. While they do, it waits; when they have the new version, it ends. None is ever refused. The window holds
// three logins of the rarest client: on a machine that is busy with other tests, samples are taken late.
func TestRareLogins(t *testing.T) {
	ctx := t.Context()
	w := startServers(t)
	w.stop() // the instances: these clients are all there is
	w.write(t, "hyvve/config", map[string]any{"observe": "15s", "soak": "0s"})
	var clients []*rareClient
	for _, every := range []time.Duration{time.Second, 5 * time.Second} {
		clients = append(clients, w.rarePostgres(t, every), w.rareRedis(t, every))
	}
	running, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	for _, c := range clients {
		c.renew(t, w)
		group.Go(func() { c.run(running) })
	}
	for n := range rotations(t, 1) {
		var ids []string
		for _, c := range clients {
			ids = append(ids, w.begin(t, c.key).ID)
		}
		over := time.After(25 * time.Second)
		for waiting := true; waiting; {
			select {
			case <-over:
				waiting = false
			case <-time.After(time.Second):
			}
			for i, c := range clients {
				r, err := w.engine.Rotation(ctx, ids[i])
				if err != nil || r.Ended() || r.State == "retiring" {
					t.Fatalf("rotation %d of %s is %s while a client uses the old version, after %d logins (refused: %v): %v", n+1, c.key, r.State, c.logins.Load(), c.refusal(), err)
				}
			}
		}
		for _, c := range clients {
			c.renew(t, w)
		}
		for i, id := range ids {
			end := w.until(t, id, "done", func(r api.Rotation) bool { return r.State == "done" })
			t.Logf("%d: %s is %s", n+1, clients[i].key, end.State)
		}
	}
	cancel()
	group.Wait()
	for _, c := range clients {
		if err := c.refusal(); err != nil {
			t.Errorf("%s was refused: %v", c.key, err)
		}
		t.Logf("%s: %d logins", c.key, c.logins.Load())
	}
}

// renew hands a client the current version, as a deployment without a sidecar does.
func (c *rareClient) renew(t *testing.T, w *serversWorld) {
	t.Helper()
	bundle, err := w.engine.Creds(t.Context(), c.key, "hand")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.engine.Leave(t.Context(), c.key, "hand", bundle.Secret); err != nil {
		t.Fatal(err)
	}
	url := bundle.Values[strings.ToUpper(strings.ReplaceAll(c.key, "-", "_"))].Reveal()
	c.url.Store(&url)
}

func (w *serversWorld) rarePostgres(t *testing.T, every time.Duration) *rareClient {
	t.Helper()
	c := &rareClient{key: fmt.Sprintf("rare-postgres-%d", int(every.Seconds())), every: every, login: loginToPostgres}
	password, err := w.postgres.NewRole(t.Context(), strings.ReplaceAll(c.key, "-", "_")+"_app")
	if err != nil {
		t.Fatal(err)
	}
	w.define(t, c.key, "postgres", "main", w.postgres.URL("hyvve", strings.ReplaceAll(c.key, "-", "_")+"_app", password))
	return c
}

func (w *serversWorld) rareRedis(t *testing.T, every time.Duration) *rareClient {
	t.Helper()
	c := &rareClient{key: fmt.Sprintf("rare-redis-%d", int(every.Seconds())), every: every, login: loginToRedis}
	const password = "password-of-a-rare-client"
	for _, r := range []*bed.Redis{w.redis, w.replica} {
		if _, err := r.Do(t.Context(), "ACL", "SETUSER", c.key+"-app", "on", ">"+password, "~*", "&*", "+@all", "-@admin"); err != nil {
			t.Fatal(err)
		}
	}
	w.define(t, c.key, "redis", "cache", w.redis.UserURL(c.key+"-app", password)+"/0")
	return c
}

// define makes a key of a URL, and a workload of its own that nobody runs by a sidecar.
func (w *serversWorld) define(t *testing.T, name, kind, connection, url string) {
	t.Helper()
	w.write(t, "hyvve/keys/"+name, map[string]any{"kind": kind, "connection": connection, "value": url})
	w.write(t, "hyvve/workloads/"+name, map[string]any{"presents": name, "min_instances": 0})
}
