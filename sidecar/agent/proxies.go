// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/proxy"
)

// ProxyBlock is one key that clients present to the application, and where. Blocks with the same listen address are one
// proxy before one application.
type ProxyBlock struct {
	Listen   string `hcl:"listen"`
	Upstream string `hcl:"upstream"`
	Key      string `hcl:"key"`
	Header   string `hcl:"header,optional"`
	State    string `hcl:"state,optional"`

	MaxRequests int `hcl:"max_requests,optional"`
}

// Listener is a proxy to be run.
type Listener struct {
	Address string
	proxy.Options
}

// checkProxies refuses blocks that cannot work, and joins those that listen at the same address.
func (c *Config) checkProxies() (errs []error) {
	fail := func(b ProxyBlock, format string, args ...any) {
		errs = append(errs, fmt.Errorf("proxy of %s: %w", b.Key, fmt.Errorf(format, args...)))
	}
	if len(c.Proxy) > 0 && c.Vault == nil {
		return []error{errors.New("proxy needs a vault block: its accept-list is that of the engine's bundle")}
	}
	dir := ""
	if files := c.files(); len(files) > 0 {
		dir = filepath.Dir(files[0].Path)
	}
	for _, b := range c.Proxy {
		k, upstream, wrong := proxy.Settings{Listen: b.Listen, Upstream: b.Upstream, Key: b.Key, Header: b.Header, State: b.State, Dir: dir, MaxRequests: b.MaxRequests}.Check()
		for _, err := range wrong {
			fail(b, "%w", err)
		}
		if upstream == nil {
			continue
		}
		at := slices.IndexFunc(c.Listeners, func(l Listener) bool { return l.Address == b.Listen })
		if at < 0 {
			c.Listeners = append(c.Listeners, Listener{b.Listen, proxy.Options{Upstream: upstream}})
			at = len(c.Listeners) - 1
		}
		l := &c.Listeners[at]
		l.Requests = max(l.Requests, b.MaxRequests)
		if l.Upstream.Host != upstream.Host {
			fail(b, "another block listens at %s too, for upstream %s; let both have the same upstream, or listen at another port", b.Listen, l.Upstream)
		}
		switch {
		case slices.ContainsFunc(l.Keys, func(o proxy.Key) bool { return o.Env == k.Env }):
			fail(b, "another block at %s has the same key; each needs its own", b.Listen)
		case slices.ContainsFunc(c.Listeners, func(o Listener) bool {
			return slices.ContainsFunc(o.Keys, func(o proxy.Key) bool { return o.State == k.State && k.State != "" })
		}):
			fail(b, "another block has the same state, %s; write one of its own for each", k.State)
		}
		l.Keys = append(l.Keys, k)
	}
	return errs
}

// sightingRate is the time between two looks at what the proxies have seen. The engine takes it that a version is used for
// some seconds more than this after each sighting.
const sightingRate = 2 * time.Second

// proxies are those of an agent.
type proxies struct {
	all       []*proxy.Proxy
	addresses []string
	told      time.Time // of the newest sighting that was reported
}

func newProxies(listeners []Listener, log *slog.Logger) proxies {
	var p proxies
	for _, l := range listeners {
		l.Log = log
		p.all, p.addresses = append(p.all, proxy.New(l.Options)), append(p.addresses, l.Address)
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
