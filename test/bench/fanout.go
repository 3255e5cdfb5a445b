// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	engineapi "github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const (
	fanoutRounds = 5
	loading      = time.Second // from having a bundle to the report that it is loaded: a reload and a check of health
)

// fanout measures how long it takes until the last of n waiting instances has the new version in hand. It must stay
// within so many milliseconds.
func fanout(n int, most float64) measuring {
	return in(func(ctx context.Context, p *place) ([]Result, error) {
		if _, err := p.vault.Client.Logical().WriteWithContext(ctx, bed.Mount+"/workloads/"+benchLoad, map[string]any{
			"presents": benchKey, "verifies": "", "min_instances": n,
		}); err != nil {
			return nil, err
		}
		vault, err := crowded(p.vault, n)
		if err != nil {
			return nil, err
		}
		ours, err := fanOut(ctx, client.New(vault, bed.Mount), n)
		if err != nil {
			return nil, err
		}
		peer, err := readTwice(ctx, vault, n)
		if err != nil {
			return nil, err
		}
		return []Result{times(fmt.Sprintf("engine-fanout-%d", n), ours, peer).within(most)}, nil
	}, withVault, furnished)
}

// crowded is a client that keeps a connection for each of n.
func crowded(v *bed.Vault, n int) (*api.Client, error) {
	config := v.Client.CloneConfig()
	config.HttpClient = &http.Client{Transport: &http.Transport{MaxIdleConns: 2 * n, MaxIdleConnsPerHost: 2 * n}}
	vault, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	vault.SetToken(v.Token)
	vault.ClearNamespace()
	return vault, nil
}

// crowd is n instances that follow what they should hold, and who has which version since when.
type crowd struct {
	mu      sync.Mutex
	version []int
	at      []time.Time
	news    chan struct{} // holds one when there may be news
}

// fanOut rotates again and again, and returns the median time until the last instance has the new version in hand.
func fanOut(ctx context.Context, e *client.Client, n int) (time.Duration, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	c := &crowd{version: make([]int, n), at: make([]time.Time, n), news: make(chan struct{}, 1)}
	for i := range n {
		group.Go(func() error { return c.attend(ctx, e, i) })
	}
	var all []time.Duration
	group.Go(func() (err error) {
		defer stop()
		all, err = c.rotate(ctx, e)
		return err
	})
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return median(all), nil
}

// attend is one instance: read, report, wait, until the context ends.
func (c *crowd) attend(ctx context.Context, e *client.Client, n int) error {
	id := fmt.Sprintf("i%04d", n)
	for {
		b, err := e.Creds(ctx, benchLoad, id)
		now := time.Now()
		if err == nil {
			c.has(n, b.Versions[benchEnv], now)
			select {
			case <-time.After(loading):
			case <-ctx.Done():
				return nil
			}
			_, err = e.Report(ctx, client.Report{Workload: benchLoad, Instance: id, Secret: b.Secret, Etag: b.Etag, Healthy: true})
		}
		for w := (engineapi.Watched{}); err == nil && !w.Changed; {
			w, err = e.Watch(ctx, benchLoad, id, b.Etag, 50*time.Second)
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to end
		}
		if err != nil {
			return err
		}
	}
}

func (c *crowd) has(n, version int, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.version[n] != version {
		c.version[n], c.at[n] = version, at
	}
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// last is when the last instance had a version, if all have it.
func (c *crowd) last(version int) (last time.Time, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, v := range c.version {
		if v != version {
			return time.Time{}, false
		}
		if c.at[n].After(last) {
			last = c.at[n]
		}
	}
	return last, true
}

func (c *crowd) await(ctx context.Context, version int) (time.Time, error) {
	poll := time.NewTicker(endPoll)
	defer poll.Stop()
	for {
		if last, all := c.last(version); all {
			return last, nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
}

// rotate rotates, each time to the end, when all wait.
func (c *crowd) rotate(ctx context.Context, e *client.Client) (all []time.Duration, err error) {
	if _, err := c.await(ctx, 1); err != nil {
		return nil, err
	}
	poll := time.NewTicker(endPoll)
	defer poll.Stop()
	for round := range fanoutRounds {
		select {
		case <-time.After(3 * time.Second): // until reports are in and all wait
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		begun := time.Now()
		r, err := e.Rotate(ctx, "bench", benchKey)
		if err != nil {
			return nil, err
		}
		last, err := c.await(ctx, round+2)
		if err != nil {
			return nil, err
		}
		all = append(all, last.Sub(begun))
		for !r.Ended() {
			select {
			case <-poll.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if r, err = e.Rotation(ctx, r.ID); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// readTwice is the peer: n clients that are woken in this process and read a secret of kv-v2 twice, once in the place of
// the watch's answer and once in that of the bundle. It returns the median time until the last has done so.
func readTwice(ctx context.Context, vault *api.Client, n int) (time.Duration, error) {
	var all []time.Duration
	for range fanoutRounds {
		group, ctx := errgroup.WithContext(ctx)
		wake := make(chan struct{})
		for range n {
			group.Go(func() error {
				<-wake
				for range 2 {
					if _, err := vault.Logical().ReadWithContext(ctx, kvMount+"/data/bench"); err != nil {
						return err
					}
				}
				return nil
			})
		}
		begun := time.Now()
		close(wake)
		if err := group.Wait(); err != nil {
			return 0, err
		}
		all = append(all, time.Since(begun))
	}
	return median(all), nil
}
