// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

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
