// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const (
	clients      = 8
	roundTime    = time.Second
	engineRounds = 5
	benchKey     = "bench-token"
	benchEnv     = "BENCH_TOKEN"
	benchLoad    = "bench" // the workload
	kvMount      = "bench-kv"
)

// engine measures, on one server, the latency of rotations, and reads of our paths beside reads of kv-v2.
func engine(ctx context.Context, p *place) ([]Result, error) {
	latency, err := rotateLatency(ctx, client.New(p.vault.Client, bed.Mount))
	if err != nil {
		return nil, fmt.Errorf("rotating: %w", err)
	}
	readers := make([]*reader, clients)
	for n := range readers {
		if readers[n], err = newReader(ctx, p.vault, fmt.Sprintf("reader-%d", n)); err != nil {
			return nil, err
		}
	}
	watch, kv, err := throughput(ctx, readers, (*reader).watch)
	if err != nil {
		return nil, err
	}
	creds, kvAgain, err := throughput(ctx, readers, (*reader).creds)
	if err != nil {
		return nil, err
	}
	return []Result{
		rates("engine-watch", "req/s", watch, kv).against(0.50), rates("engine-creds", "req/s", creds, kvAgain).against(0.42), alone("rotate-latency", latency),
	}, nil
}

// furnished makes the key, the workload and the peer's secret.
func furnished(ctx context.Context, p *place) error {
	vault := p.vault.Client
	if err := vault.Sys().MountWithContext(ctx, kvMount, &api.MountInput{Type: "kv-v2"}); err != nil {
		return err
	}
	for _, w := range []struct {
		path string
		data map[string]any
	}{
		{bed.Mount + "/config", map[string]any{"soak": 0, "observe": 0, "max_instances_per_login": 0}},
		{bed.Mount + "/keys/" + benchKey, map[string]any{"generate": true, "format": "hex"}},
		{bed.Mount + "/workloads/" + benchLoad, map[string]any{"presents": benchKey, "verifies": benchKey, "max_unavailable": "100%", "max_instances": 10000}},
	} {
		if _, err := vault.Logical().WriteWithContext(ctx, w.path, w.data); err != nil {
			return fmt.Errorf("%s: %w", w.path, err)
		}
	}
	_, err := vault.KVv2(kvMount).Put(ctx, "bench", map[string]any{"token": "0123456789abcdef0123456789abcdef"})
	return err
}

// reader is one client: an instance of the workload, with connections of its own.
type reader struct {
	vault    *api.Client
	engine   *client.Client
	instance string
	etag     string
}

func newReader(ctx context.Context, v *bed.Vault, instance string) (*reader, error) {
	config := v.Client.CloneConfig()
	config.HttpClient = api.DefaultConfig().HttpClient // a shared one keeps fewer idle connections than there are clients
	vault, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	vault.SetToken(v.Token)
	vault.ClearNamespace()
	r := &reader{vault: vault, engine: client.New(vault, bed.Mount), instance: instance}
	return r, r.creds(ctx)
}

func (r *reader) kv(ctx context.Context) error {
	secret, err := r.vault.Logical().ReadWithContext(ctx, kvMount+"/data/bench")
	if err == nil && secret == nil {
		err = errors.New("kv-v2 gives no secret")
	}
	return err
}

// watch asks as a live instance that is up to date.
func (r *reader) watch(ctx context.Context) error {
	watched, err := r.engine.Watch(ctx, benchLoad, r.instance, r.etag, 0)
	if err == nil && watched.Changed {
		err = fmt.Errorf("the bundle of %s has changed, though nothing rotates", r.instance)
	}
	return err
}

func (r *reader) creds(ctx context.Context) error {
	bundle, err := r.engine.Creds(ctx, benchLoad, r.instance)
	r.etag = bundle.Etag
	return err
}

// throughput lets all readers do ours and kv-v2 in turn, and returns the median rate of each.
func throughput(ctx context.Context, readers []*reader, ours func(*reader, context.Context) error) (o, p float64, err error) {
	var mine, kv []float64
	for range engineRounds {
		for _, side := range []struct {
			do   func(*reader, context.Context) error
			into *[]float64
		}{{ours, &mine}, {(*reader).kv, &kv}} {
			rate, err := hammer(ctx, readers, side.do)
			if err != nil {
				return 0, 0, err
			}
			*side.into = append(*side.into, rate)
		}
	}
	return median(mine), median(kv), nil
}

// hammer lets all readers do something again and again for a while, and returns the requests/s.
func hammer(ctx context.Context, readers []*reader, do func(*reader, context.Context) error) (float64, error) {
	counts, errs := make([]int, len(readers)), make([]error, len(readers))
	var group sync.WaitGroup
	begun := time.Now()
	for n, r := range readers {
		group.Go(func() {
			for errs[n] == nil && time.Since(begun) < roundTime {
				errs[n] = do(r, ctx)
				counts[n]++
			}
		})
	}
	group.Wait()
	took, total := time.Since(begun), 0
	for _, n := range counts {
		total += n
	}
	return float64(total) / took.Seconds(), errors.Join(errs...)
}
