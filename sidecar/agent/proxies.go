// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/proxy"
)

// sightingRate is the time between two looks at what the proxies have seen. The engine takes it that a version is used for
// some seconds more than this after each sighting.
const sightingRate = 2 * time.Second

// proxies are those of an agent.
type proxies struct {
	all       []*proxy.Proxy
	addresses []string
	told      time.Time // of the newest sighting that was reported
}

func newProxies(listeners []config.Listener, log *slog.Logger) proxies {
	var p proxies
	for _, l := range listeners {
		o := proxy.Options{Upstream: l.Upstream, Keys: l.Keys, Requests: l.Requests, Log: log}
		p.all, p.addresses = append(p.all, proxy.New(o)), append(p.addresses, l.Address)
	}
	return p
}

// start takes up what an earlier run stored and serves, before Vault is asked for anything: the application must be
// reached while Vault is away. It gives a function that waits for the end.
func (p proxies) start(ctx context.Context, log *slog.Logger) (wait func(), err error) {
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	wait = func() { cancel(); serving.Wait() }
	for n, one := range p.all {
		if err = one.Restore(); err != nil {
			break
		}
		var l net.Listener
		if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", p.addresses[n]); err != nil {
			err = fmt.Errorf("proxy: %w; end what listens there, or write another listen address", err)
			break
		}
		serving.Go(func() {
			if err := one.Serve(ctx, l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				log.Error("proxy ended", "address", p.addresses[n], "error", err)
			}
		})
	}
	if err != nil {
		wait()
		return nil, err
	}
	return wait, nil
}

// take takes up a bundle before the application's files are written with it.
func (p proxies) take(b client.Bundle) error {
	for _, one := range p.all {
		if err := one.Take(b); err != nil {
			return err
		}
	}
	return nil
}

// pause lets requests wait while the sidecar restarts the application, and resume lets them go on.
func (p proxies) pause(ctx context.Context) {
	var all sync.WaitGroup
	for _, one := range p.all {
		all.Go(func() { one.Pause(ctx) })
	}
	all.Wait()
}

func (p proxies) resume() {
	for _, one := range p.all {
		one.Resume()
	}
}

// restarted: the application was started after its files were written.
func (p proxies) restarted() {
	for _, one := range p.all {
		one.Restarted()
	}
}

// ticker ticks when to look at what the proxies have seen; never without proxies.
func (p proxies) ticker() *time.Ticker {
	t := time.NewTicker(sightingRate)
	if len(p.all) == 0 {
		t.Stop()
	}
	return t
}

// sightings gives what to report, and when the newest of them was.
func (p proxies) sightings() (all []workload.Sighting, newest time.Time) {
	for _, one := range p.all {
		all = append(all, one.Sightings()...)
	}
	for _, s := range all {
		if s.Last.After(newest) {
			newest = s.Last
		}
	}
	return all, newest
}
