// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// shippedToken is a token with the policies of that name that we ship.
func shippedToken(t *testing.T, root *api.Client, names ...string) string {
	t.Helper()
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(bed.Repo(), "deploy", "vault", "policies", name+".hcl"))
		if err == nil {
			err = root.Sys().PutPolicyWithContext(t.Context(), name, string(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	secret, err := root.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: names, NoParent: true})
	if err != nil {
		t.Fatal(err)
	}
	return secret.Auth.ClientToken
}

// watchers are instances of one workload that wait, each as long as it may, again and again.
type watchers struct {
	client *api.Client
	open   atomic.Int64
	etags  sync.Map
}

func newWatchers(t *testing.T, server bed.Server, token string, n int) *watchers {
	t.Helper()
	config := server.Client.CloneConfig()
	config.HttpClient = &http.Client{Transport: &http.Transport{MaxIdleConns: 2 * n, MaxIdleConnsPerHost: 2 * n}}
	config.MaxRetries = 0
	c, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken(token)
	return &watchers{client: c}
}

// join makes each a live instance.
func (w *watchers) join(t *testing.T, n int) {
	t.Helper()
	var group sync.WaitGroup
	ids := make(chan int)
	for range 8 {
		group.Go(func() {
			for id := range ids {
				name := fmt.Sprintf("i%04d", id)
				secret, err := w.client.Logical().ReadWithDataWithContext(t.Context(), "hyvve/creds/api", url.Values{"instance": {name}})
				if err != nil {
					t.Error(err)
					continue
				}
				w.etags.Store(id, secret.Data["etag"])
			}
		})
	}
	for id := range n {
		ids <- id
	}
	close(ids)
	group.Wait()
}

// wait lets them wait until ctx ends.
func (w *watchers) wait(ctx context.Context, n int, wait string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	for id := range n {
		group.Go(func() {
			etag, _ := w.etags.Load(id)
			for ctx.Err() == nil {
				w.open.Add(1)
				_, err := w.client.Logical().ReadWithDataWithContext(ctx, "hyvve/watch/api", url.Values{
					"instance": {fmt.Sprintf("i%04d", id)}, "etag": {fmt.Sprint(etag)}, "wait": {wait},
				})
				w.open.Add(-1)
				if err != nil {
					select {
					case <-ctx.Done():
					case <-time.After(time.Second):
					}
				}
			}
		})
	}
	return func() { cancel(); group.Wait() }
}

// Requests that wait must not hold up Vault: a thousand sidecars that watch, and a token of a workload that asks for a minute
// as instances that nobody knows, do not make a reload of the plugin and a seal last much longer.
func TestAdversaryWaitsHoldVaultUp(t *testing.T) {
	const n = 1000
	v, err := bed.ForTest(t).Vault(t.Context(), bed.VaultOptions{Durable: true, Audit: true})
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, data map[string]any) {
		t.Helper()
		if _, err := v.Client.Logical().WriteWithContext(t.Context(), path, data); err != nil {
			t.Fatal(err)
		}
	}
	write("hyvve/config", map[string]any{"lease_ttl": "1h", "max_instances_per_login": 0})
	write("hyvve/keys/a-key", map[string]any{"kind": "token", "env": "A_KEY"})
	write("hyvve/workloads/api", map[string]any{"presents": "a-key", "min_instances": 0})
	w := newWatchers(t, v.Server, shippedToken(t, v.Client, "api"), n)
	w.join(t, n)
	reload := func() time.Duration {
		begun := time.Now()
		write("sys/plugins/reload/backend", map[string]any{"mounts": "hyvve/"})
		return time.Since(begun)
	}
	median := func(of func() time.Duration) time.Duration {
		var all []time.Duration
		for range 3 {
			all = append(all, of())
		}
		slices.Sort(all)
		return all[1]
	}
	without := median(reload)
	stop := w.wait(t.Context(), n, "60s")
	defer stop()
	w.settle(t, n)
	with := median(func() time.Duration { w.settle(t, n); return reload() })
	t.Logf("a reload takes %s without, %s with %d watches", without, with, n)
	// On a machine that is busy, a thousand answers alone take seconds.
	if most := without*12/10 + rotation.LongestWatch*4/5; with > most {
		t.Errorf("a reload takes %s with %d watches, more than %s", with, n, most)
	}
	w.asStranger(t)
	w.settle(t, n)
	begun := time.Now()
	if err := v.Client.Sys().SealWithContext(t.Context()); err != nil { // waits for the same lock as a step-down
		t.Fatal(err)
	}
	if took := time.Since(begun); took > rotation.LongestWatch*4/5 {
		t.Errorf("a seal takes %s with %d watches", took, n)
	} else {
		t.Logf("a seal takes %s with %d watches", took, n)
	}
}

// settle waits until nearly all wait.
func (w *watchers) settle(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(time.Minute)
	for w.open.Load() < int64(n)*9/10 {
		select {
		case <-deadline:
			t.Fatalf("%d of %d wait", w.open.Load(), n)
		case <-time.After(10 * time.Millisecond):
		}
	}
	<-time.After(time.Second) // what was counted as open has reached the engine
}

// asStranger asks as instances that nobody knows: the answer comes at once.
func (w *watchers) asStranger(t *testing.T) {
	t.Helper()
	for _, etag := range []string{"", "x"} {
		begun := time.Now()
		secret, err := w.client.Logical().ReadWithDataWithContext(t.Context(), "hyvve/watch/api", url.Values{"instance": {"ghost"}, "etag": {etag}, "wait": {"60s"}})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 4*time.Second || secret.Data["etag"] != "" {
			t.Errorf("a ghost waits for %s: %v", took, secret.Data)
		}
	}
}
