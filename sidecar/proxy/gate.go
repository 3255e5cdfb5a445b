// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net/http"
	"sync"
	"time"
)

const (
	maxPause   = 10 * time.Second // then requests go on, whatever is there
	maxWaiting = 1024             // requests that wait; further ones go on
	maxEmpty   = 2 * time.Second  // for which a pause waits for requests under way
)

// gate lets requests wait while the application is restarted.
type gate struct {
	mu      sync.Mutex
	open    chan struct{} // closed when the pause ends; nil: there is none
	limit   *time.Timer   // of the pause
	waiting int
	within  int           // requests that the application has and that end by themselves
	empty   chan struct{} // closed when within has become 0; nil: nobody wants to know
}

// enter waits while there is a pause, and returns what is to be called when the request has ended. Requests that may last,
// as upgraded connections do, are not waited for by a pause.
func (g *gate) enter(ctx context.Context, lasts bool) (leave func()) {
	g.mu.Lock()
	if open := g.open; open != nil && g.waiting < maxWaiting {
		g.waiting++
		g.mu.Unlock()
		select {
		case <-open:
		case <-ctx.Done():
		}
		g.mu.Lock()
		g.waiting--
	}
	defer g.mu.Unlock()
	if lasts {
		return func() {}
	}
	g.within++
	return g.leave
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.within--; g.within == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// Pause lets requests wait from now on, and waits a short while for those that the application has. Resume ends it, or its
// limit: a restart that takes long, or that nobody says has ended, keeps no client waiting.
func (p *Proxy) Pause(ctx context.Context) {
	g := &p.gate
	g.mu.Lock()
	if ctx.Err() != nil { // the caller that cancelled ctx calls Resume, too
		g.mu.Unlock()
		return
	}
	if g.open == nil {
		g.open, g.limit = make(chan struct{}), time.AfterFunc(maxPause, p.Resume)
	}
	if g.within == 0 {
		g.mu.Unlock()
		return
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	empty := g.empty
	g.mu.Unlock()
	select {
	case <-empty:
	case <-time.After(maxEmpty):
	case <-ctx.Done():
	}
}

// Resume lets the requests go on that have waited. Without a pause it does nothing.
func (p *Proxy) Resume() {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.gate.open == nil {
		return
	}
	p.gate.limit.Stop()
	p.transport.CloseIdleConnections() // they were to the process before
	close(p.gate.open)
	p.gate.open = nil
}

// lasts reports whether a request asks for a connection of its own, which ends when its client wants.
func lasts(r *http.Request) bool { return r.Header.Get("Upgrade") != "" }
