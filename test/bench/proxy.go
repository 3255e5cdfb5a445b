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
