// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Stats are what an agents instance has seen.
type Stats struct {
	Requests int    `json:"requests"`
	Failures int    `json:"failures"`
	Last     string `json:"last"` // failure
}

// callEvery is the pace of an agents instance.
const callEvery = 10 * time.Millisecond

type agents struct {
	process
	api []string

	mu    sync.Mutex
	stats Stats
}

// Agents calls the api's instances in turn, with the token that is presented, counts its calls in Redis, and serves /stats, and /metrics to
// those who present METRICS_API_KEY.
func Agents(ctx context.Context, o Options) error {
	a := &agents{process: process{bundlePath: o.Bundle, pools: Pools{Instance: o.Instance}}, api: o.API}
	defer a.pools.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		_ = json.NewEncoder(w).Encode(a.stats)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if !a.takes(r, metricsKey) {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		_, _ = fmt.Fprintf(w, "# TYPE agents_calls_total counter\nagents_calls_total %d\n", a.stats.Requests)
	})
	var calls sync.WaitGroup
	calls.Go(func() { a.callAll(ctx) })
	err := a.serve(ctx, o.Address, o.PIDFile, mux)
	calls.Wait()
	fmt.Fprintf(os.Stderr, "%d calls made, %d failed; last: %s\n", a.stats.Requests, a.stats.Failures, a.stats.Last) // a restart loses them
	return err
}

func (a *agents) callAll(ctx context.Context) {
	client := &http.Client{Timeout: 5 * time.Second}
	ticker := time.NewTicker(callEvery)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		h := a.now.Load()
		if h == nil {
			continue
		}
		problem := callOnce(ctx, client, a.api[n%len(a.api)]+"/call", h.Values[agentToken])
		if err := a.pools.Cache(func(c *goredis.Client) error { return c.Incr(ctx, "calls:"+a.pools.Instance).Err() }); err != nil {
			problem = "counting the call: " + err.Error()
		}
		if ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		a.stats.Requests++
		if problem != "" {
			a.stats.Failures++
			a.stats.Last = problem
		}
		a.mu.Unlock()
	}
}

// callOnce returns what went wrong.
func callOnce(ctx context.Context, client *http.Client, url, token string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode/100 != 2 {
		return resp.Status
	}
	return ""
}
