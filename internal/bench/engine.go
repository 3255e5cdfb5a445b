// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/testbed"
)

const (
	clients      = 8
	roundTime    = 1500 * time.Millisecond
	rounds       = 3
	rotations    = 20
	agentsPoll   = 300 * time.Second // of Vault Agent, for static secrets: its own documented default
	benchKey     = "bench-token"
	benchWorkers = "bench"
)

// engine compares reads of our paths with reads of kv-v2 on the same server, and the time from a rotation's start to an
// instance having its new bundle with the poll of Vault Agent.
func engine(ctx context.Context, log io.Writer) (results []Result, err error) {
	bed, err := testbed.New("bench", log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	v, err := bed.Vault(ctx, testbed.VaultOptions{})
	if err != nil {
		return nil, err
	}
	logical := v.Client.Logical()
	for _, w := range []struct {
		path string
		data map[string]any
	}{
		{"hyvve/config", map[string]any{"soak": 0}},
		{"hyvve/keys/" + benchKey, map[string]any{"generate": true, "format": "hex"}},
		{"hyvve/workloads/" + benchWorkers, map[string]any{"presents": benchKey, "verifies": benchKey, "max_unavailable": "100%"}},
		{"secret/data/bench", map[string]any{"data": map[string]any{"token": "0123456789abcdef0123456789abcdef"}}},
	} {
		if _, err := logical.WriteWithContext(ctx, w.path, w.data); err != nil {
			return nil, fmt.Errorf("%s: %w", w.path, err)
		}
	}
	e := client.New(v.Client, testbed.Mount)
	latency, err := rotateLatency(ctx, e)
	if err != nil {
		return nil, err
	}
	kv := func(int) error { _, err := logical.ReadWithContext(ctx, "secret/data/bench"); return err }
	watch := func(n int) error { _, err := e.Watch(ctx, benchWorkers, fmt.Sprintf("b-%d", n), "", 0); return err }
	creds := func(n int) error { _, err := e.Creds(ctx, benchWorkers, fmt.Sprintf("b-%d", n)); return err }
	watchRate, kvRate, err := throughput(watch, kv)
	if err != nil {
		return nil, err
	}
	credsRate, kvRate2, err := throughput(creds, kv)
	if err != nil {
		return nil, err
	}
	return []Result{
		rates("engine-watch", "req/s", watchRate, kvRate),
		rates("engine-creds", "req/s", credsRate, kvRate2),
		times("rotate-latency", latency, agentsPoll),
	}, nil
}

// throughput runs two kinds of requests in turn, each with all clients, and gives the median rate of each.
func throughput(ours, peer func(client int) error) (o, p float64, err error) {
	var os, ps []time.Duration // per request
	for range rounds {
		for _, side := range []struct {
			do   func(int) error
			into *[]time.Duration
		}{{ours, &os}, {peer, &ps}} {
			n, took, err := hammer(side.do)
			if err != nil {
				return 0, 0, err
			}
			*side.into = append(*side.into, took/time.Duration(n))
		}
	}
	return 1 / median(os).Seconds(), 1 / median(ps).Seconds(), nil
}

func hammer(do func(client int) error) (requests int, took time.Duration, err error) {
	var group sync.WaitGroup
	var mu sync.Mutex
	begun := time.Now()
	for c := range clients {
		group.Go(func() {
			n := 0
			var problem error
			for ; problem == nil && time.Since(begun) < roundTime; n++ {
				problem = do(c)
			}
			mu.Lock()
			defer mu.Unlock()
			requests += n
			err = errors.Join(err, problem)
		})
	}
	group.Wait()
	return requests, time.Since(begun), err
}

// rotateLatency gives the median time from the request to rotate until the one instance has read the bundle in which it
// presents the new version: two changes of its bundle, since it accepts the version first.
func rotateLatency(ctx context.Context, e *client.Client) (time.Duration, error) {
	const instance = "b-latency"
	var all []time.Duration
	bundle, err := follow(ctx, e, instance)
	if err != nil {
		return 0, err
	}
	for range rotations {
		env := "BENCH_TOKEN"
		want := bundle.Versions[env] + 1
		begun := time.Now()
		r, err := e.Rotate(ctx, "bench", benchKey)
		if err != nil {
			return 0, err
		}
		for presented := false; !presented; {
			if bundle, err = awaitChange(ctx, e, bundle); err != nil {
				return 0, err
			}
			presented = bundle.Versions[env] == want
		}
		all = append(all, time.Since(begun))
		for !r.Ended() {
			if bundle, err = awaitChange(ctx, e, bundle); err != nil {
				return 0, err
			}
			if r, err = e.Rotation(ctx, r.ID); err != nil {
				return 0, err
			}
		}
	}
	return median(all), e.Revoke(ctx, bundle.LeaseID)
}

// awaitChange waits for another bundle, for a moment at most, and takes it.
func awaitChange(ctx context.Context, e *client.Client, b client.Bundle) (client.Bundle, error) {
	changed, err := e.Watch(ctx, benchWorkers, b.Instance, b.Etag, time.Second)
	if err != nil || !changed {
		return b, err
	}
	return follow(ctx, e, b.Instance)
}

// follow reads the bundle and reports it as loaded.
func follow(ctx context.Context, e *client.Client, instance string) (client.Bundle, error) {
	b, err := e.Creds(ctx, benchWorkers, instance)
	if err != nil {
		return b, err
	}
	_, err = e.Report(ctx, client.Report{Workload: benchWorkers, Instance: instance, Secret: b.Secret, Etag: b.Etag, Healthy: true})
	return b, err
}
