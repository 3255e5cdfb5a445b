// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// gated is a proxy before an application that can be taken away.
func gated(t *testing.T, upstream string) (p *Proxy, get func(ctx context.Context) int) {
	t.Helper()
	u, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	p = New(Options{Upstream: u, Log: slog.New(slog.DiscardHandler)})
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	return p, func(ctx context.Context) int {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, http.NoBody)
		if err != nil {
			return 0
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
}

// await polls until the gate is so.
func (g *gate) await(t *testing.T, is func() bool) {
	t.Helper()
	kit.Until(t, "the gate is as it should be", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return is()
	})
}

// An application goes away and comes back, at the same address, and nobody notices: the request that it has ends before it
// goes, and those that come meanwhile wait.
func TestPauseAcrossARestart(t *testing.T) {
	entered, finish := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(entered); <-finish })
	serve := func(address string) *httptest.Server {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s := &httptest.Server{Listener: l, Config: &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { first() })}}
		s.Start()
		return s
	}
	app := serve("127.0.0.1:0")
	address := app.Listener.Addr().String()
	p, get := gated(t, "http://"+address)
	statuses := make(chan int, 10)
	go func() { statuses <- get(t.Context()) }()
	<-entered
	paused := make(chan struct{})
	go func() { defer close(paused); p.Pause(t.Context()) }()
	p.gate.await(t, func() bool { return p.gate.empty != nil })
	close(finish)
	<-paused
	if status := <-statuses; status != http.StatusOK {
		t.Errorf("the request under way: %d", status)
	}
	app.Close()
	for range 5 {
		go func() { statuses <- get(t.Context()) }()
	}
	p.gate.await(t, func() bool { return p.gate.waiting == 5 })
	app = serve(address)
	defer app.Close()
	p.Resume()
	p.Resume() // once more does nothing
	for range 5 {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("a request that has waited: %d", status)
		}
	}
	if status := get(t.Context()); status != http.StatusOK {
		t.Errorf("after the pause: %d", status)
	}
}

// A request that is cancelled stops waiting, and Pause does not wait for connections that last.
func TestPauseEndsWithItsClient(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer app.Close()
	p, get := gated(t, app.URL)
	p.gate.enter(t.Context(), true)
	begun := time.Now()
	p.Pause(t.Context())
	if time.Since(begun) >= maxEmpty {
		t.Error("a connection that lasts was waited for")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	go func() { done <- get(ctx) }()
	p.gate.await(t, func() bool { return p.gate.waiting == 1 })
	cancel()
	if status := <-done; status != 0 {
		t.Errorf("status %d", status)
	}
	p.gate.await(t, func() bool { return p.gate.waiting == 0 && p.gate.within == 0 })
	p.gate.mu.Lock()
	p.gate.waiting = maxWaiting
	p.gate.mu.Unlock()
	if status := get(t.Context()); status != http.StatusOK {
		t.Errorf("one more than may wait: %d", status)
	}
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.gate.open == nil {
		t.Error("one more than may wait has waited for the end of the pause")
	}
}

// A request that the application does not end holds no restart up for long, and a restart that does not end no request.
func TestPauseDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Upstream: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, Log: slog.New(slog.DiscardHandler)})
		defer p.gate.enter(t.Context(), false)()
		begun := time.Now()
		p.Pause(t.Context())
		if took := time.Since(begun); took != maxEmpty {
			t.Errorf("it was waited %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		p.Pause(ctx) // adds nothing
		p.gate.enter(t.Context(), false)()
		if took := time.Since(begun); took != maxPause {
			t.Errorf("a request has waited %s", took)
		}
	})
}

// stoppable is a proxy that serves until stop is called; served returns how that has ended.
func stoppable(t *testing.T, app *httptest.Server) (p *Proxy, address string, stop func(), served chan error) {
	t.Helper()
	t.Cleanup(app.Close)
	u, err := url.Parse(app.URL)
	if err != nil {
		t.Fatal(err)
	}
	p = New(Options{Upstream: u, Log: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served = make(chan error, 1)
	go func() { served <- p.Serve(ctx, l) }()
	return p, "http://" + l.Addr().String(), stop, served
}

// asked returns the status of an answer when it comes; 0 is none.
func asked(url string) chan int {
	status := make(chan int, 1)
	go func() {
		resp, err := http.Get(url)
		if err != nil {
			status <- 0
			return
		}
		_ = resp.Body.Close()
		status <- resp.StatusCode
	}()
	return status
}

// A proxy that is stopped lets nobody wait for the application any more.
func TestPauseEndsWithTheProxy(t *testing.T) {
	p, address, stop, served := stoppable(t, httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	p.Pause(t.Context())
	status := asked(address)
	p.gate.await(t, func() bool { return p.gate.waiting == 1 })
	stop()
	if got := <-status; got != http.StatusOK {
		t.Errorf("the request that has waited: %d", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.Pause(ctx)
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.gate.open != nil {
		t.Error("there is another pause")
	}
}

// When the proxy is stopped, requests that end soon end, and the others are cut.
func TestRequestsWhenTheProxyStops(t *testing.T) {
	t.Parallel() // it waits most of the time
	entered, finish := make(chan struct{}, 2), make(chan struct{})
	_, address, stop, served := stoppable(t, httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		if r.URL.Path == "/soon" {
			<-finish
			return
		}
		<-r.Context().Done()
	})))
	soon, never := asked(address+"/soon"), asked(address+"/never")
	<-entered
	<-entered
	begun := time.Now()
	stop()
	close(finish)
	if got := <-soon; got != http.StatusOK {
		t.Errorf("the request that ends: %d", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took < drainTime {
		t.Errorf("the other one had %s", took)
	}
	if got := <-never; got != 0 {
		t.Errorf("the other one: %d", got)
	}
}
