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
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/proxy"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// refused is the event of a request that Vault did not serve.
func (a *Agent) refused(err error) machine.Event { return a.refusedAt(err, false) }

func (a *Agent) refusedAt(err error, login bool) machine.Event {
	a.problem = a.masked(a.config.troubleOf(err, login))
	e := machine.Event{Kind: machine.Denied, RetryAfter: a.vault.Wait()}
	switch {
	case errors.Is(err, client.ErrRefused):
		e.Kind = machine.Refused
	case errors.Is(err, client.ErrUnavailable):
		e.Kind = machine.Unavailable
	}
	return e
}

// login logs in. After a failure, it waits until the credentials may be given to Vault. The first login of a configuration does not, so
// that files are written, and the status shows what is wrong, while refused credentials are held back.
func (a *Agent) login() request {
	done := func(token login.Token) machine.Event {
		a.token = token
		a.vaultIs(nil)
		a.log.Info("logged in to vault", "method", a.config.Vault.Auth.Method)
		e := machine.Event{Kind: machine.LoggedIn, TTL: token.TTL, Renewal: machine.Fixed}
		if token.Renewable {
			e.Renewal = machine.Renewable
		}
		return e
	}
	if token, ok := a.arrival.takeToken(); ok {
		return request{has: func() machine.Event { return done(token) }}
	}
	method, vault, waits := a.method, a.vault, a.barred
	return request{send: func(ctx context.Context) finish {
		var token login.Token
		var err error
		if waits {
			err = method.Await(ctx)
		}
		if err == nil {
			token, err = method.Login(ctx, vault)
		}
		return func() machine.Event {
			if a.barred = err != nil; err != nil {
				return a.refusedAt(err, true)
			}
			return done(token)
		}
	}}
}

func (a *Agent) renewToken() request {
	vault := a.vault
	return request{send: func(ctx context.Context) finish {
		token, err := login.Renew(ctx, vault)
		return func() machine.Event {
			if err != nil {
				return a.refused(err)
			}
			return machine.Event{Kind: machine.Renewed, TTL: token.TTL}
		}
	}}
}

// readBundle reads the bundle as the instance that it is: another login, of this process or of the next one, may use the
// instance's name with the secret of its newest read.
func (a *Agent) readBundle() request {
	done := func(bundle client.Bundle, begun time.Time) machine.Event {
		a.vaultIs(nil)
		a.copies.confirmed = time.Now()
		for _, w := range bundle.Warnings {
			a.log.Warn("vault warns", "warning", w)
		}
		held := a.hold(bundle)
		a.secret, a.extended = bundle.Secret, begun
		a.arrival.bundle = nil
		a.dropFormer()
		return machine.Event{Kind: machine.BundleRead, Held: held, Lease: bundle.LeaseDuration}
	}
	begun := time.Now()
	if bundle, ok := a.arrival.takeBundle(); ok {
		return request{has: func() machine.Event { return done(bundle, begun) }}
	}
	if a.secret.Reveal() == "" { // its directory may not have been there at the start
		a.secret, _ = a.config.keptSecret()
	}
	engine, proves := a.engine, a.state.Writes == machine.WritesAllowed
	as := client.Reader{
		Workload: a.config.Workload, Instance: a.config.Instance, OneLine: a.config.oneLine(), Secret: a.secret,
		Pod: a.token.Pod, Node: a.token.Node,
	}
	read := &atomic.Pointer[client.Bundle]{}
	return request{read: read, send: func(ctx context.Context) finish {
		bundle, err := readAs(ctx, engine, as, proves)
		if err == nil {
			read.Store(&bundle)
		}
		return func() machine.Event {
			if err != nil {
				e := a.refused(err)
				if errors.Is(err, client.ErrNoWrite) {
					e.Kind = machine.NoWrite
				}
				return e
			}
			return done(bundle, begun)
		}
	}}
}

// readAs reads a bundle, with the secret that proves the instance or without.
func readAs(ctx context.Context, engine *client.Client, as client.Reader, proves bool) (client.Bundle, error) {
	if !proves {
		return engine.CredsOf(ctx, as.Workload, as.Instance, as.OneLine)
	}
	return engine.Read(ctx, as)
}

// hold makes a bundle the newest, and numbers its content.
func (a *Agent) hold(b client.Bundle) machine.Held {
	held := machine.Held{Etag: b.Etag}
	switch {
	case a.state.Filed != 0 && sameContent(a.applied, b):
		held.Content = a.state.Filed
	case a.state.Held.Content != 0 && sameContent(a.bundle, b):
		held.Content = a.state.Held.Content
	default:
		a.contents++
		held.Content = a.contents
	}
	a.bundle = b
	a.hidden.hold(valuesOf(b))
	return held
}

func (a *Agent) sendReport() request {
	engine := a.engine
	news := a.proxies.news() // before it is looked what they are: those that come between are reported once more
	report := a.report(false)
	return request{send: func(ctx context.Context) finish {
		begun := time.Now()
		answer, err := engine.Report(ctx, report)
		return func() machine.Event {
			if err != nil {
				return a.refused(err)
			}
			if answer.Lease() > 0 {
				a.extended = begun
			}
			a.proxies.told = news
			a.memory.Busy()
			a.vaultIs(nil)
			a.board.Update(func(s *status.State) { s.Reported = time.Now() })
			return machine.Event{Kind: machine.Reported, Etag: answer.Etag, Lease: answer.Lease()}
		}
	}}
}

// report says what is loaded, how the workload is, and what proxies have seen.
func (a *Agent) report(last bool) client.Report {
	work := a.jobs.reports()
	seen, trips := a.proxies.sightings((*proxy.Proxy).StoredTrips)
	return client.Report{
		Workload: a.config.Workload, Instance: a.bundle.Instance, Secret: a.bundle.Secret,
		Etag: a.state.Loaded, Proof: workload.Proof(a.state.Proof), Healthy: a.state.Verdict == machine.Healthy, Reason: a.state.Reason, Last: last, Work: work, Sightings: seen, Trips: trips,
	}
}

// watching is a watch that is open.
type watching struct {
	cancel context.CancelFunc
	ended  chan watched
}

type watched struct {
	api.Watched
	err error
}

func (w *watching) result() <-chan watched {
	if w == nil {
		return nil
	}
	return w.ended
}

func (a *Agent) openWatch() {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watching{cancel, make(chan watched, 1)}
	a.watching = w
	engine, name, b := a.engine, a.config.Workload, a.bundle // they may become others before the request has ended
	go func() {
		news, err := engine.Watch(ctx, name, b.Instance, b.Etag, watchFor)
		w.ended <- watched{news, err}
	}()
}

func (a *Agent) closeWatch() {
	if a.watching != nil {
		a.watching.cancel()
		a.watching = nil
	}
}

// watched is the event of a watch that has ended.
func (a *Agent) watched(w watched) machine.Event {
	a.closeWatch()
	if w.err != nil {
		e := a.refused(w.err)
		e.Of = machine.StartWatch
		return e
	}
	if w.Etag != "" || w.Superseded { // or the engine does not know the instance
		a.conflictIs(w.Conflict)
	}
	e := machine.Event{Kind: machine.Quiet, RetryAfter: min(w.RetryAfter, api.SecondsOf(machine.BackoffLimit)).Duration()}
	switch {
	case w.Superseded:
		e.Kind = machine.Superseded
	case w.Changed:
		e.Kind = machine.Changed
	}
	return e
}

// conflictIs says, once each time, that another process uses the instance's name, and that it does no more.
func (a *Agent) conflictIs(text string) {
	text = a.mask(text)
	switch {
	case text != "" && a.conflict == "":
		a.log.Warn("another process uses the name of this instance; give each its own instance", "instance", a.bundle.Instance, "conflict", text)
	case text == "" && a.conflict != "":
		a.log.Info("no other process uses the name of this instance any more", "instance", a.bundle.Instance)
	}
	a.conflict = text
	a.board.Update(func(s *status.State) { s.Conflict = text })
}

// sightingRate is the time between two looks at what the proxies have seen. The engine takes it that a version is used for
// some seconds more than this after each sighting.
const sightingRate = 2 * time.Second

// proxies are those of an agent.
type proxies struct {
	all       []*proxy.Proxy
	addresses []string
	told      uint64 // news that were reported
}

func newProxies(listeners []config.Listener, log *slog.Logger) proxies {
	var p proxies
	for _, l := range listeners {
		o := proxy.Options{Upstream: l.Upstream, Keys: l.Keys, Requests: l.Requests, Log: log}
		p.all, p.addresses = append(p.all, proxy.New(o)), append(p.addresses, l.Address)
	}
	return p
}

// start loads what an earlier run stored and serves, before Vault is asked for anything: the application must be
// reached while Vault is away. It returns a function that waits for the end.
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

// take loads a bundle before the application's files are written with it.
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

// sightings returns what is seen of old versions that are accepted, and of retired ones.
func (p proxies) sightings(tripsOf func(*proxy.Proxy) []workload.Trip) (all []workload.Sighting, trips []workload.Trip) {
	for _, one := range p.all {
		all, trips = append(all, one.Sightings()...), append(trips, tripsOf(one)...)
	}
	return all, trips
}

// news returns a number that is another one once there is something new to report.
func (p proxies) news() (n uint64) {
	for _, one := range p.all {
		n += one.News()
	}
	return n
}

// show puts on the board what the proxies have seen.
func (p proxies) show(s *status.State) {
	s.Sightings, s.Trips = p.sightings((*proxy.Proxy).Trips)
	if len(p.all) > 0 {
		s.Tripped = map[string]int{}
	}
	for _, one := range p.all {
		one.Tripped(s.Tripped)
	}
}
