// SPDX-License-Identifier: Apache-2.0

// Package limits bounds what the clients of a server can make it hold: connections, requests and bytes. Where a limit is
// reached, a client that lets the server wait makes room for one that does not.
package limits

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/guard"
)

// Conns bounds the connections of an [http.Server]. At the limit, a new connection takes the place of the one that has been
// without a request for the longest time. A half-sent request head counts as none, so that nobody keeps others out by being slow.
// If all connections have a request, the new one is closed.
type Conns struct {
	most  int
	books *guard.Guarded[books]
}

// books are the connections that there are.
type books struct {
	all     map[net.Conn]*conn
	waiting list.List // of *conn without a request, the one that has waited longest first
}

type conn struct {
	net.Conn
	requests int // under way; several with HTTP/2
	place    *list.Element
	hijacked bool
}

type connKey struct{}

// NewConns returns a bound of most connections.
func NewConns(most int) *Conns { return &Conns{most, guard.New(&books{all: map[net.Conn]*conn{}})} }

// Bound bounds a server that does not serve yet. It takes the server's hooks ConnContext and ConnState, and wraps its handler.
func (c *Conns) Bound(s *http.Server) {
	next := s.Handler
	s.ConnContext = c.admit
	s.ConnState = c.changed
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if one, ok := r.Context().Value(connKey{}).(*conn); ok {
			c.begin(one)
			defer c.end(one)
		}
		next.ServeHTTP(w, r)
	})
}

// admit is the server's ConnContext, which it calls for each new connection before anything else.
func (c *Conns) admit(ctx context.Context, nc net.Conn) context.Context {
	b, unlock := c.books.Lock()
	defer unlock()
	if len(b.all) >= c.most {
		first := b.waiting.Front()
		if first == nil {
			abort(nc)
			return ctx
		}
		victim := first.Value.(*conn)
		b.forget(victim)
		abort(victim.Conn)
	}
	one := &conn{Conn: nc}
	one.place = b.waiting.PushBack(one)
	b.all[nc] = one
	return context.WithValue(ctx, connKey{}, one)
}

// abort closes a connection without a word: TLS would wait for the client to take its farewell.
func abort(nc net.Conn) {
	if secure, ok := nc.(*tls.Conn); ok {
		nc = secure.NetConn()
	}
	_ = nc.Close()
}

func (c *Conns) changed(nc net.Conn, state http.ConnState) {
	b, unlock := c.books.Lock()
	defer unlock()
	one := b.all[nc]
	switch {
	case one == nil:
	case state == http.StateClosed:
		b.forget(one)
	case state == http.StateHijacked: // it lasts as long as its handler
		one.hijacked = true
	}
}

func (c *Conns) begin(one *conn) {
	b, unlock := c.books.Lock()
	defer unlock()
	if one.requests++; one.place != nil {
		b.waiting.Remove(one.place)
		one.place = nil
	}
}

func (c *Conns) end(one *conn) {
	b, unlock := c.books.Lock()
	defer unlock()
	switch one.requests--; {
	case one.requests > 0 || b.all[one.Conn] != one:
	case one.hijacked:
		b.forget(one)
	default:
		one.place = b.waiting.PushBack(one)
	}
}

// forget takes a connection from the books.
func (b *books) forget(one *conn) {
	if one.place != nil {
		b.waiting.Remove(one.place)
		one.place = nil
	}
	if b.all[one.Conn] == one {
		delete(b.all, one.Conn)
	}
}
