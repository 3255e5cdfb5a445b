// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/limits"
)

const (
	// idleConns is how many connections there may be beside them, without a request.
	idleConns = 256
	// replayed is how many bytes of bodies are kept together, while the application may have to be asked again.
	replayed = 8 << 20
	// clientTime is how long a client may neither send the next bytes of a body nor take those of an answer.
	clientTime = 60 * time.Second
	streams    = 64        // of one HTTP/2 connection
	h2Stream   = 64 << 10  // bytes that one may send ahead
	h2Buffer   = 256 << 10 // and all of them together
)

// errCut is why a request ends that is cut.
var errCut = errors.New("the client did not finish its request, and others need its place")

// admitted is a request that has a place among those that are under way.
type admitted struct {
	http.ResponseWriter
	control *http.ResponseController
	share   *limits.Share
	cancel  context.CancelCauseFunc
	sent    atomic.Bool // the client has sent all of its request
	wrote   bool        // a deadline was set

	one    bool // HTTP/1: the connection has nothing but this request
	closes bool // the client has received Connection: close

	mu     sync.Mutex // of what follows: the transport may read the body when the handler has ended
	ended  bool
	broken bool // the body was not read to its end, and what follows of it would be taken for another request
}

// admit takes a place for a request, or answers 503. At the limit, it cuts the request whose client has been sending it for the
// longest time, or one whose client does not read its answer. Requests that wait for the application are not cut.
func (p *Proxy) admit(w http.ResponseWriter, r *http.Request) (*admitted, *http.Request) {
	a := &admitted{ResponseWriter: w, control: http.NewResponseController(w), one: r.ProtoMajor == 1}
	if r.Body == nil || r.Body == http.NoBody {
		var ok bool
		if a.share, ok = p.places.Take(r.Context(), 1, func() { _ = a.control.SetWriteDeadline(time.Unix(1, 0)) }); !ok {
			p.busy(w)
			return nil, r
		}
		if !a.share.Keep() { // cut at once: the application must not be asked for an answer that nobody gets
			a.share.Return()
			p.busy(w)
			return nil, r
		}
		a.sent.Store(true)
		return a, r
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	share, ok := p.places.Take(ctx, 1, func() {
		cancel(errCut)
		_ = a.control.SetReadDeadline(time.Unix(1, 0))
		_ = a.control.SetWriteDeadline(time.Unix(1, 0))
	})
	if !ok {
		cancel(nil)
		p.busy(w)
		return nil, r
	}
	a.share, a.cancel = share, cancel
	r = r.WithContext(ctx)
	r.Body = &body{r.Body, a}
	return a, r
}

// end frees the place.
func (a *admitted) end() {
	if a.cancel != nil {
		a.cancel(nil)
	}
	if a.wrote {
		_ = a.control.SetWriteDeadline(time.Time{})
	}
	a.share.Return() // nobody is cut after this
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	switch broken := a.broken || a.share.Cut(); {
	case broken && a.one && !a.closes:
		panic(http.ErrAbortHandler) // which closes the connection
	case !broken && a.cancel != nil: // net/http may read what the application did not want of the body; to give up would not close
		_ = a.control.SetReadDeadline(time.Time{})
	}
}

// close has the connection closed after the answer.
func (a *admitted) close() {
	_ = a.control.SetWriteDeadline(time.Now().Add(time.Second)) // for the client to hear why
	if a.one {
		a.Header().Set("Connection", "close")
		a.closes = true
	}
}

// Unwrap lets http.ResponseController do what it can.
func (a *admitted) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Write implements http.ResponseWriter.
func (a *admitted) Write(data []byte) (n int, err error) {
	err = a.give(func() (err error) { n, err = a.ResponseWriter.Write(data); return err })
	return n, err
}

// FlushError implements what http.ResponseController asks for.
func (a *admitted) FlushError() error { return a.give(a.control.Flush) }

// give lets the client take something of its answer. One that takes nothing for a while loses its connection, and so does, at the
// limit, the one that has been taking it for the longest time.
func (a *admitted) give(something func() error) error {
	if a.sent.Load() { // else it can be cut anyway
		a.share.Wait(1)
		defer a.share.Keep()
	}
	a.wrote = true
	_ = a.control.SetWriteDeadline(time.Now().Add(clientTime))
	if a.share.Cut() { // perhaps just before the deadline was set
		return errCut
	}
	err := something()
	if err == nil && !a.one && !a.share.Cut() { // a stream's deadline ends it even if nothing waits for the client
		_ = a.control.SetWriteDeadline(time.Time{})
	}
	return err
}

// reading sets the deadline of the next read, or takes it away. It does nothing once the handler has ended, when the
// connection may be another request's.
func (a *admitted) reading(until time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		_ = a.control.SetReadDeadline(until)
	}
	return !a.ended
}

// fail notes that the body was not read to its end.
func (a *admitted) fail() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		a.broken = true
	}
}

// body is that of a request whose client may be slow for a while, and not forever.
type body struct {
	io.ReadCloser
	of *admitted
}

// Read implements io.Reader.
func (b *body) Read(into []byte) (int, error) {
	if !b.of.reading(time.Now().Add(clientTime)) {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.of.share.Cut() { // perhaps just before the deadline was set
		b.of.fail()
		return 0, errCut
	}
	n, err := b.ReadCloser.Read(into)
	switch {
	case errors.Is(err, io.EOF):
		b.of.reading(time.Time{}) // net/http keeps looking whether the client is there
		b.of.share.Keep()
		b.of.sent.Store(true)
	case err != nil:
		b.of.fail()
		if b.of.share.Cut() {
			err = errCut
		}
	case !b.of.one && !b.of.share.Cut(): // as for an answer
		b.of.reading(time.Time{})
	}
	return n, err
}

// busy says that there is no place.
func (p *Proxy) busy(w http.ResponseWriter) {
	if p.tell() {
		p.log.Warn("a request was refused: too many are under way", "upstream", p.host, "most", p.most)
	}
	w.Header().Set("Retry-After", "1")
	http.Error(w, "hyvve-sidecar proxy: too many requests are under way before the application at "+p.host, http.StatusServiceUnavailable)
}

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

// split returns the part of a header's value that is the token, and what stands before it. The scheme's case and the
// number of spaces are the client's affair: they are passed on, so that the application judges them.
func split(header, value string) (before, token string, ok bool) {
	if header != config.BearerHeader {
		return "", value, value != ""
	}
	const scheme = "bearer "
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", "", false
	}
	token = strings.TrimLeft(value[len(scheme):], " ")
	return value[:len(value)-len(token)], token, token != ""
}

// find returns the place of a token on the accept-list, -1 if it is not there. It always compares with all, by digests of
// one length, so that the time it takes tells nothing.
func (s *snapshot) find(token string) int {
	digest, at := sha256.Sum256([]byte(token)), -1
	for n := range s.digests {
		at = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], s.digests[n][:]), n, at)
	}
	return at
}

// cover replaces a secret wherever it stands in a text, in time that depends on the lengths and the number of hits only.
func cover(text, secret, with string) string {
	if secret == "" || len(text) < len(secret) {
		return text
	}
	var out strings.Builder
	bytes, wanted, from := []byte(text), []byte(secret), 0
	for at := 0; at+len(wanted) <= len(bytes); at++ {
		if at >= from && subtle.ConstantTimeCompare(bytes[at:at+len(wanted)], wanted) == 1 {
			out.WriteString(text[from:at])
			out.WriteString(with)
			from = at + len(wanted)
		}
	}
	if from == 0 {
		return text
	}
	out.WriteString(text[from:])
	return out.String()
}

// alike reports whether an application may take one header for the other: many a gateway interface makes _ of -.
func alike(name, header string) bool {
	return strings.EqualFold(strings.ReplaceAll(name, "_", "-"), header)
}

// match is a request that presents a value on the accept-list.
type match struct {
	key    *held
	state  *snapshot
	place  int    // on the accept-list
	before string // of the token, in the header
}

// untried returns a value that the application may hold by now, and that it was not asked with. A request may be under way while
// the next bundle comes and the application is restarted with it. What the request presents must still be accepted.
func (m match) untried(tried []string) (string, bool) {
	now := m.key.now.Load()
	if !slices.Contains(now.digests, m.state.digests[m.place]) {
		now = m.state
	}
	for _, value := range now.own {
		if !slices.Contains(tried, value) {
			return value, true
		}
	}
	return "", false
}

// match looks a request up on the accept-lists of all keys. One with several values in the header is none: which of
// them an application reads is its own affair, so that they reach it as they are.
func (p *Proxy) match(in http.Header) (found match, ok bool) {
	for _, k := range p.keys {
		values, s := in[k.header], k.now.Load()
		if s == nil || len(values) != 1 {
			continue
		}
		before, token, is := split(k.header, values[0])
		if !is {
			continue
		}
		if place := s.find(token); place >= 0 && !ok {
			found, ok = match{key: k, state: s, place: place, before: before}, true
		}
	}
	return found, ok
}

// translate writes into out what the application is to see of the headers that hold keys; the rest of out is left alone.
// It is given the headers as they came in: what Connection names is taken out of out, and a client that names
// Authorization there must not have its request become another one.
func (p *Proxy) translate(in, out http.Header) (match, bool) {
	found, ok := p.match(in)
	for _, k := range p.keys {
		if values, has := in[k.header]; has {
			out[k.header] = append([]string(nil), values...)
		}
	}
	if ok {
		out[found.key.header] = []string{found.before + found.state.own[0]}
	}
	for _, k := range p.keys {
		if s := k.now.Load(); s != nil && len(s.retired) > 0 {
			k.refuse(s, out, found, ok)
		}
	}
	return found, ok
}

// refuse sees to it that a value which the application still holds, and nobody may present any more, does not reach it:
// it gets one that it does not know, and answers that as it answers any other.
func (k *held) refuse(s *snapshot, out http.Header, found match, ok bool) {
	for name, values := range out {
		if !alike(name, k.header) || ok && name == found.key.header {
			continue
		}
		for n := range values {
			for _, secret := range s.retired {
				values[n] = cover(values[n], secret, k.unknown)
			}
		}
	}
}
