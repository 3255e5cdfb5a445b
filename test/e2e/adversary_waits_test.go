// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
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

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
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
	hasty  bool // ask again at once, whatever the engine's answer says
	open   atomic.Int64
	etags  sync.Map
}

// newWatchers makes a client for n watchers, which stays with a node of a cluster as that of a sidecar does.
func newWatchers(t *testing.T, server bed.Server, token string, n int) *watchers {
	t.Helper()
	config := api.DefaultConfig()
	config.HttpClient = &http.Client{Transport: &http.Transport{MaxIdleConns: 2 * n, MaxIdleConnsPerHost: 2 * n}}
	config.MaxRetries = 0
	c, err := client.NewVault(config, server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken(token)
	c.ClearNamespace()
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
			select { // sidecars do not all watch at the same time
			case <-ctx.Done():
			case <-time.After(rand.N(fleet.LongestWatch)):
			}
			for failures := 0; ctx.Err() == nil; {
				w.open.Add(1)
				secret, err := w.client.Logical().ReadWithDataWithContext(ctx, "hyvve/watch/api", url.Values{
					"instance": {fmt.Sprintf("i%04d", id)}, "etag": {fmt.Sprint(etag)}, "wait": {wait},
				})
				w.open.Add(-1)
				if failures++; err == nil && secret != nil {
					failures = 0
				}
				select {
				case <-ctx.Done():
				case <-time.After(w.pause(secret, failures)):
				}
			}
		})
	}
	return sync.OnceFunc(func() { cancel(); group.Wait() })
}

// pause is how long a sidecar waits before it watches again.
func (w *watchers) pause(answer *api.Secret, failures int) time.Duration {
	most := time.Duration(0)
	switch {
	case failures > 0:
		most = min(200*time.Millisecond<<min(failures-1, 10), 15*time.Second)
	case !w.hasty && answer != nil:
		seconds, _ := answer.Data["retry_after"].(json.Number)
		n, _ := seconds.Int64()
		most = time.Duration(n) * time.Second
	}
	if most == 0 {
		return 0
	}
	return most/2 + rand.N(most/2)
}

// What watches may add to a reload and to a step-down: until the engine notices that Vault lets nobody in, until a thousand
// answers are audited and written, and on a machine that is busy with other tests, some times as long as on an idle one.
const (
	maxReload   = 1250 * time.Millisecond
	maxStepDown = 2 * time.Second
	maxHasty    = fleet.LongestWatch * 4 / 5 // where a thousand come back at once, whatever the engine asks for
)

// crowded makes n instances of a workload, on whose behalf watchers may wait.
func crowded(t *testing.T, server bed.Server, n int) *watchers {
	t.Helper()
	for _, w := range []struct {
		path string
		data map[string]any
	}{
		{"hyvve/config", map[string]any{"lease_ttl": "1h", "max_instances_per_login": 0}},
		{"hyvve/keys/a-key", map[string]any{"kind": "token", "env": "A_KEY"}},
		{"hyvve/workloads/api", map[string]any{"presents": "a-key", "min_instances": 0}},
	} {
		if _, err := server.Client.Logical().WriteWithContext(t.Context(), w.path, w.data); err != nil {
			t.Fatal(err)
		}
	}
	w := newWatchers(t, server, shippedToken(t, server.Client, "api"), n)
	w.join(t, n)
	return w
}

// Requests that wait must not hold up Vault: a thousand sidecars that watch, and a token of a workload that asks for a minute
// as instances that nobody knows, do not make a reload of the plugin and a seal last much longer.
func TestAdversaryWaitsHoldVaultUp(t *testing.T) {
	const n = 1000
	v, err := bed.ForTest(t).Vault(t.Context(), bed.VaultOptions{Durable: true, Audit: true})
	if err != nil {
		t.Fatal(err)
	}
	w := crowded(t, v.Server, n)
	reload := func() time.Duration {
		begun := time.Now()
		if _, err := v.Client.Logical().WriteWithContext(t.Context(), "sys/plugins/reload/backend", map[string]any{"mounts": "hyvve/"}); err != nil {
			t.Fatal(err)
		}
		return time.Since(begun)
	}
	without := median(3, reload)
	for _, side := range []struct {
		hasty bool
		most  time.Duration
	}{{false, maxReload}, {true, maxHasty}} {
		w.hasty = side.hasty
		stop := w.wait(t.Context(), n, "60s")
		defer stop()
		most := without*12/10 + side.most
		with := medianWithin(t, 3, most, func() time.Duration { w.settle(t, n); return reload() })
		t.Logf("a reload takes %s without, %s with %d watches (hasty: %t)", without, with, n, side.hasty)
		if with > most {
			t.Errorf("a reload takes %s with %d watches (hasty: %t), more than %s", with, n, side.hasty, most)
		}
		if !side.hasty {
			stop()
		}
	}
	w.asStranger(t)
	w.settle(t, n)
	begun := time.Now()
	if err := v.Client.Sys().SealWithContext(t.Context()); err != nil { // waits for the same lock as a step-down
		t.Fatal(err)
	}
	if took := time.Since(begun); took > maxHasty {
		t.Errorf("a seal takes %s with %d watches", took, n)
	} else {
		t.Logf("a seal takes %s with %d watches", took, n)
	}
}

// restsAfter is how long a node that has stepped down leaves leadership to others: one that gets it by chance before does
// nothing with it.
const restsAfter = 11 * time.Second

// A thousand watches do not hold up a leader that steps down, nor does their return hold up the next one: it answers soon. In
// full length the median of three counts.
func TestAdversaryWaitsHoldAStepDownUp(t *testing.T) {
	const n = 1000
	c, err := bed.ForTest(t).Cluster(t.Context(), bed.VaultOptions{Audit: true})
	if err != nil {
		t.Fatal(err)
	}
	w := crowded(t, c.Server, n)
	var last time.Time
	stepDown := func() time.Duration {
		<-time.After(time.Until(last.Add(restsAfter)))
		defer func() { last = time.Now() }()
		return stepDown(t, c)
	}
	rounds := 1
	if long() {
		rounds = 3
	}
	without := median(rounds, stepDown)
	defer w.wait(t.Context(), n, "60s")()
	most := without*12/10 + maxStepDown
	with := medianWithin(t, rounds, most, func() time.Duration { w.settle(t, n); return stepDown() })
	t.Logf("a step-down takes %s without, %s with %d watches", without, with, n)
	if with > most {
		t.Errorf("a step-down takes %s with %d watches, more than %s", with, n, most)
	}
}

// stepDown returns how long it takes from the request to step down until the next leader answers of the engine.
func stepDown(t *testing.T, c *bed.Cluster) time.Duration {
	t.Helper()
	begun := time.Now()
	before, after, err := c.StepDown(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	led := time.Since(begun)
	for deadline := time.After(time.Minute); ; {
		if _, err = after.Client.Logical().ReadWithContext(t.Context(), "hyvve/status"); err == nil {
			break
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	took := time.Since(begun)
	t.Logf("%s followed %s after %s, and answered after %s", after.Addr, before.Addr, led, took)
	return took
}

// medianWithin measures again if it was too much: other tests may have had the processor.
func medianWithin(t *testing.T, times int, most time.Duration, measure func() time.Duration) time.Duration {
	t.Helper()
	took := median(times, measure)
	if took > most {
		t.Logf("once more: %s is more than %s", took, most)
		took = median(times, measure)
	}
	return took
}

// median measures that many times.
func median(times int, measure func() time.Duration) time.Duration {
	var all []time.Duration
	for range times {
		all = append(all, measure())
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// settle waits until nearly all wait, and until those that were counted have reached the engine: what has come before
// them is answered.
func (w *watchers) settle(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(time.Minute)
	for calm := 0; calm < 10; {
		begun := time.Now()
		_, err := w.client.Logical().ReadWithDataWithContext(t.Context(), "hyvve/watch/api", url.Values{"instance": {"nobody"}, "wait": {"0s"}})
		if calm++; err != nil || time.Since(begun) > 50*time.Millisecond || w.open.Load() < int64(n)*9/10 {
			calm = 0
		}
		select {
		case <-deadline:
			t.Fatalf("%d of %d wait", w.open.Load(), n)
		case <-time.After(50 * time.Millisecond):
		}
	}
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
