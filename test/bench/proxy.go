// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/proxy"
)

const (
	proxyRounds   = 7
	proxyClients  = 16
	proxyRequests = 4800 // of all clients, in a round
	proxySingle   = 2000 // one after the other
	proxyAnswer   = 1024 // bytes
	proxyKey      = "AGENT_SERVICE_TOKEN"
)

// proxied compares our proxy, in the midst of a rotation, with a bare reverse proxy of the standard library with the same
// connections kept to the application, and with no proxy at all.
func proxied(ctx context.Context, _ io.Writer) ([]Result, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	answer := make([]byte, proxyAnswer)
	app, err := serveHTTP(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = w.Write(answer)
	}))
	if err != nil {
		return nil, err
	}
	upstream := &url.URL{Scheme: "http", Host: app}
	bare := &httputil.ReverseProxy{
		Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(upstream) },
		Transport: &http.Transport{MaxIdleConns: 256, MaxIdleConnsPerHost: 256, DisableCompression: true},
	}
	bareAt, err := serveHTTP(ctx, bare)
	if err != nil {
		return nil, err
	}
	ours := proxy.New(proxy.Options{
		Upstream: upstream, Log: slog.New(slog.DiscardHandler), Keys: []proxy.Key{{Env: proxyKey, Header: "Authorization"}},
	})
	for _, accepts := range [][]key.Value{{key.NewValue("old")}, {key.NewValue("new"), key.NewValue("old")}} {
		if err := ours.Take(client.Bundle{Accepts: map[string][]key.Value{proxyKey: accepts}, AcceptVersions: map[string][]int{proxyKey: {2, 1}}}); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { _ = ours.Serve(ctx, l) }()
	return compareProxies(ctx, l.Addr().String(), bareAt, app)
}

// serveHTTP serves a handler until ctx ends, and returns its address.
func serveHTTP(ctx context.Context, h http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() { _ = server.Serve(l) }()
	return l.Addr().String(), nil
}

func compareProxies(ctx context.Context, ours, bare, app string) ([]Result, error) {
	transport := &http.Transport{MaxIdleConns: 4 * proxyClients, MaxIdleConnsPerHost: 2 * proxyClients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	get := func(address string) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", http.NoBody)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer old")
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close() //nolint:errcheck // read only
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answered %s", address, resp.Status)
		}
		return nil
	}
	load := func(address string) func() error {
		return func() error {
			var clients errgroup.Group
			for range proxyClients {
				clients.Go(func() error {
					for range proxyRequests / proxyClients {
						if err := get(address); err != nil {
							return err
						}
					}
					return nil
				})
			}
			return clients.Wait()
		}
	}
	for _, address := range []string{ours, bare, app} { // connections are made, and caches warm
		if err := load(address)(); err != nil {
			return nil, err
		}
	}
	took, err := interleave(proxyRounds, load(ours), load(bare))
	if err != nil {
		return nil, err
	}
	rate := func(d time.Duration) float64 { return proxyRequests / proxyClients * proxyClients / d.Seconds() }
	results := []Result{rates("proxy-throughput", "req/s", rate(took[0]), rate(took[1])).against(0.85)}
	// Request by request in turn: what disturbs the machine disturbs all three.
	single, err := interleave(proxySingle, func() error { return get(ours) }, func() error { return get(bare) }, func() error { return get(app) })
	if err != nil {
		return nil, err
	}
	added := slices.Clone(single)
	for n := range added {
		added[n] -= single[2]
	}
	return append(results, times("proxy-latency", added[0], added[1]).within(0.2)), nil
}

const (
	rotations    = 21
	instanceWait = 20 * time.Second       // of a watch: the engine's own default
	endPoll      = 100 * time.Millisecond // between looks at whether a rotation has ended; not part of what is measured
)

// holding is a bundle and when the instance had it.
type holding struct {
	client.Bundle
	at time.Time
}

// rotateLatency returns the median time from the request to rotate until an instance, which waits for news all the time,
// has read the bundle in which it presents the new version. It accepts the version first, and says so: this is two
// changes of its bundle and a report.
func rotateLatency(ctx context.Context, e *client.Client) (time.Duration, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	held := make(chan holding)
	group.Go(func() error { return attend(ctx, e, held) })
	var all []time.Duration
	group.Go(func() (err error) {
		defer stop()
		all, err = rotateInTurn(ctx, e, held)
		return err
	})
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return median(all), nil
}

// attend is the instance: it reads its bundle, reports it as loaded and waits for the next, until the context ends.
func attend(ctx context.Context, e *client.Client, held chan<- holding) error {
	for {
		b, err := e.Creds(ctx, benchLoad, "attending")
		now := holding{b, time.Now()}
		if err == nil {
			_, err = e.Report(ctx, client.Report{Workload: benchLoad, Instance: b.Instance, Secret: b.Secret, Etag: b.Etag, Healthy: true})
		}
		if err == nil {
			select {
			case held <- now:
			case <-ctx.Done():
			}
		}
		for w := (api.Watched{}); err == nil && !w.Changed; {
			w, err = e.Watch(ctx, benchLoad, b.Instance, b.Etag, instanceWait)
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to end
		}
		if err != nil {
			return err
		}
	}
}

// rotateInTurn rotates, each time to the end, and gives how long the instance was without the new version.
func rotateInTurn(ctx context.Context, e *client.Client, held <-chan holding) (all []time.Duration, err error) {
	poll := time.NewTicker(endPoll)
	defer poll.Stop()
	var now holding
	// await takes the next bundle; with or without one, it returns after a while.
	await := func() error {
		select {
		case now = <-held:
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	}
	for now.Etag == "" {
		if err := await(); err != nil {
			return nil, err
		}
	}
	for range rotations {
		want := now.Versions[benchEnv] + 1
		begun := time.Now()
		r, err := e.Rotate(ctx, "bench", benchKey)
		if err != nil {
			return nil, err
		}
		for now.Versions[benchEnv] != want {
			if err := await(); err != nil {
				return nil, err
			}
		}
		all = append(all, now.at.Sub(begun))
		for !r.Ended() {
			if err := await(); err != nil {
				return nil, err
			}
			if r, err = e.Rotation(ctx, r.ID); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}
