// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/platform/app"
)

// serversInstance is an instance of app: it follows its bundle, and works with pools of long-lived sessions at the URLs in
// it.
type serversInstance struct {
	world   *serversWorld
	id, env string // env: the name of its URL of the database
	pools   app.Pools
}

const (
	serversWorkers = 3                     // of an instance
	serversPace    = 20 * time.Millisecond // of a worker: an operation at each server
)

func (i *serversInstance) attend(ctx context.Context) {
	i.pools.Instance = i.id
	var workers sync.WaitGroup
	defer i.pools.Close()
	defer workers.Wait()
	for working := false; ctx.Err() == nil; {
		b, err := i.world.engine.Creds(ctx, "app", i.id)
		if err != nil {
			i.complain(ctx, err)
			return
		}
		i.world.given(b)
		if err := i.pools.Follow(b.Values[i.env].Reveal(), b.Values["REDIS_URL"].Reveal()); err != nil { // once more
			i.complain(ctx, err)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		if !working {
			working = true
			for range serversWorkers {
				workers.Go(func() { i.work(ctx) })
			}
		}
		if _, err := i.world.engine.Report(ctx, client.Report{Workload: "app", Instance: i.id, Secret: b.Secret, Etag: b.Etag, Healthy: true}); err != nil {
			i.complain(ctx, err)
			return
		}
		for seen := (api.Watched{}); !seen.Changed && ctx.Err() == nil; {
			if seen, err = i.world.engine.Watch(ctx, "app", i.id, b.Etag, 20*time.Second); err != nil {
				i.complain(ctx, err)
				return
			}
		}
	}
}

// work reads and writes without a pause that would let an error go unseen.
func (i *serversInstance) work(ctx context.Context) {
	ticker := time.NewTicker(serversPace)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		i.done(ctx, i.pools.Database(func(db *pgxpool.Pool) error { return query(context.WithoutCancel(ctx), db, n) }))
		i.done(ctx, i.pools.Cache(func(c *goredis.Client) error { return command(context.WithoutCancel(ctx), c, n) }))
	}
}

func query(ctx context.Context, db *pgxpool.Pool, n int) error {
	if n%2 == 0 {
		_, err := db.Exec(ctx, "INSERT INTO things (text) VALUES ('x')")
		return err
	}
	var count int
	return db.QueryRow(ctx, "SELECT count(*) FROM (SELECT FROM things LIMIT 10) t").Scan(&count)
}

func command(ctx context.Context, c *goredis.Client, n int) error {
	if n%2 == 0 {
		return c.Set(ctx, "thing", n, time.Minute).Err()
	}
	return c.Incr(ctx, "things").Err()
}

func (i *serversInstance) done(ctx context.Context, err error) {
	i.world.operations.Add(1)
	i.complain(ctx, err)
}

func (i *serversInstance) complain(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	i.world.failed.Add(1)
	i.world.mu.Lock()
	defer i.world.mu.Unlock()
	i.world.example = i.id + ": " + err.Error()
}
