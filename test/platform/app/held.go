// SPDX-License-Identifier: Apache-2.0

// Package app is two small workloads that behave towards keys as the platform's do, for the demo and the scenarios:
// api verifies AGENT_SERVICE_TOKEN and JWTs, reads and writes encrypted rows; agents calls it all the time. In one thing
// they differ from today's platform: they hold accept-lists and take a new bundle on SIGHUP instead of at a restart. agents
// without a bundle file is as today's: it reads its environment when it starts.
package app

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
)

// held is what the bundle file says.
type held struct {
	Values  map[string]string   `json:"values"`
	Accepts map[string][]string `json:"accepts"`
	Etag    string              `json:"etag"`
}

// accepted returns all values that are accepted for a name.
func (h *held) accepted(env string) []string {
	if list := h.Accepts[env]; len(list) > 0 {
		return list
	}
	if v, ok := h.Values[env]; ok {
		return []string{v}
	}
	return nil
}

// process is what both workloads share: the bundle, reloaded on SIGHUP, pools at the servers of its URLs, and a server.
type process struct {
	bundlePath string
	usesDB     bool
	pools      Pools
	now        atomic.Pointer[held]

	mu    sync.Mutex
	rings map[string]*envelope.Keyring // by layout and value
}

func (p *process) load() error {
	h, err := p.read()
	if err != nil {
		return err
	}
	at := h.Values[databaseURL]
	if !p.usesDB {
		at = ""
	}
	if err := p.pools.Follow(at, h.Values[redisURL]); err != nil {
		return err
	}
	p.now.Store(h)
	return nil
}

// read reads the bundle file, or the environment where there is none.
func (p *process) read() (*held, error) {
	if p.bundlePath == "" {
		h := &held{Values: map[string]string{}, Etag: os.Getenv("HYVVE_ETAG")}
		for _, name := range []string{agentToken, metricsKey, redisURL} {
			h.Values[name] = os.Getenv(name)
		}
		return h, nil
	}
	data, err := os.ReadFile(p.bundlePath)
	if err != nil {
		return nil, err
	}
	var h held
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, fmt.Errorf("bundle %s: %w", p.bundlePath, err)
	}
	return &h, nil
}

// takes reports whether a request presents, as a bearer token, a value that is accepted for a name: a guard of the platform's,
// with a list.
func (p *process) takes(r *http.Request, env string) bool {
	given, ok := []byte(bearer(r)), 0
	for _, value := range p.now.Load().accepted(env) {
		if value != "" {
			ok |= subtle.ConstantTimeCompare(given, []byte(value))
		}
	}
	return ok == 1
}

// ring returns the keyring of a value, so that derived keys are remembered.
func (p *process) ring(layout key.Layout, value string) (*envelope.Keyring, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := string(layout) + "/" + value
	if r, ok := p.rings[name]; ok {
		return r, nil
	}
	r, err := envelope.NewKeyring(layout, key.NewValue(value))
	if err == nil {
		p.rings[name] = r
	}
	return r, err
}

// serve waits for the bundle, writes the pid file, and serves until ctx ends.
func (p *process) serve(ctx context.Context, address, pidFile string, mux *http.ServeMux) error {
	p.rings = map[string]*envelope.Keyring{}
	hangup := make(chan os.Signal, 8)
	signal.Notify(hangup, syscall.SIGHUP)
	if err := p.firstBundle(ctx); err != nil {
		return err
	}
	if pidFile != "" {
		if err := os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			return err
		}
	}
	// A bundle that was rendered before the pid file was there came without a signal.
	if err := p.load(); err != nil {
		return err
	}
	go p.reload(ctx, hangup)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(health.EtagHeader, p.now.Load().Etag)
		w.WriteHeader(http.StatusOK)
	})
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return server.Shutdown(ctx)
	}
}

// reload loads the bundle at each signal, and continues with what it has until that has worked.
func (p *process) reload(ctx context.Context, hangup <-chan os.Signal) {
	const pause = 500 * time.Millisecond
	again := time.NewTimer(0)
	again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
		case <-again.C:
		}
		if err := p.load(); err != nil {
			fmt.Fprintln(os.Stderr, "reload:", err)
			again.Reset(pause)
		}
	}
}

func (p *process) firstBundle(ctx context.Context) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for p.load() != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}

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
