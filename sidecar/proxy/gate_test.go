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
	"time"
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
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		g.mu.Lock()
		so := is()
		g.mu.Unlock()
		if so {
			return
		}
		if time.Now().After(end) {
			t.Fatal("it does not come to that")
		}
	}
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

// Whoever does not want to wait any more does not, and what lasts is not waited for.
func TestPauseEndsWithItsClient(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer app.Close()
	p, get := gated(t, app.URL)
	p.gate.enter(t.Context(), true)
	begun := time.Now()
	p.Pause(t.Context())
	if time.Since(begun) >= emptyMost {
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
	p.gate.waiting = waitingMost
	p.gate.mu.Unlock()
	if status := get(t.Context()); status != http.StatusOK {
		t.Errorf("one more than may wait: %d", status)
	}
}

// A request that the application does not end holds no restart up for long.
func TestPauseDoesNotWaitForEver(t *testing.T) {
	p, _ := gated(t, "http://127.0.0.1:1")
	leave := p.gate.enter(t.Context(), false)
	begun := time.Now()
	p.Pause(t.Context())
	if took := time.Since(begun); took < emptyMost {
		t.Errorf("it was waited %s", took)
	}
	leave()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.Pause(ctx)
	p.gate.limit.Reset(time.Millisecond)
	p.gate.await(t, func() bool { return p.gate.open == nil })
}

// A proxy that is stopped lets nobody wait for the application any more.
func TestPauseEndsWithTheProxy(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer app.Close()
	u, err := url.Parse(app.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := New(Options{Upstream: u, Log: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- p.Serve(ctx, l) }()
	p.Pause(ctx)
	status := make(chan int)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			status <- 0
			return
		}
		_ = resp.Body.Close()
		status <- resp.StatusCode
	}()
	p.gate.await(t, func() bool { return p.gate.waiting == 1 })
	cancel()
	if got := <-status; got != http.StatusOK {
		t.Errorf("the request that has waited: %d", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	p.Pause(ctx)
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.gate.open != nil {
		t.Error("there is another pause")
	}
}
