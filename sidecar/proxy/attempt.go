// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/limits"
)

// maxReplayed is the size of a body that is kept while the application may have to be asked again.
const maxReplayed = 64 << 10

type matchKey struct{}

// attempts asks the application again with the next value that it may hold, where it refuses the one before. Only
// requests that presented an accepted value carry a match.
type attempts struct {
	base   http.RoundTripper
	bodies *limits.Budget // bytes that are kept; a body for which there is no room goes once
}

// withMatch marks a request so.
func withMatch(req *http.Request, m match) *http.Request {
	return req.WithContext(context.WithValue(req.Context(), matchKey{}, m))
}

// refused: the application did not take the value, and so has done nothing yet.
func refused(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// RoundTrip implements http.RoundTripper.
func (a attempts) RoundTrip(req *http.Request) (*http.Response, error) {
	m, ok := req.Context().Value(matchKey{}).(match)
	if !ok {
		return a.base.RoundTrip(req)
	}
	kept := &copied{want: max(req.ContentLength, 0)}
	defer kept.ended.Store(true)
	if req.Body != nil && req.Body != http.NoBody {
		kept.want = -1 // it can be sent once
		if req.ContentLength > 0 && req.ContentLength <= maxReplayed && len(req.Trailer) == 0 {
			share, ok := a.bodies.Take(req.Context(), req.ContentLength, func() {})
			defer share.Return()
			if ok && share.Keep() {
				if err := kept.follow(req, len(m.state.own) > 1); err != nil {
					return nil, err
				}
			}
		}
	}
	var tried []string
	var refusal *http.Response
	for value := m.state.own[0]; ; {
		tried = append(tried, value)
		resp, err := a.base.RoundTrip(m.attempt(req, kept, tried))
		switch {
		case err != nil:
			drop(refusal)
			return nil, err
		case !refused(resp.StatusCode):
			drop(refusal)
			if len(tried) > 1 {
				m.key.proved(value)
			}
			return resp, nil
		}
		next, more := m.untried(tried)
		if refusal == nil || likelier(resp.StatusCode, refusal.StatusCode) {
			refusal, resp = resp, refusal
		}
		drop(resp)
		if !more || !kept.whole() {
			return refusal, nil
		}
		hold(refusal)
		value = next
	}
}

// attempt returns the request as it is sent with the last of the values tried.
func (m match) attempt(req *http.Request, kept *copied, tried []string) *http.Request {
	if len(tried) == 1 {
		return req
	}
	again := *req
	again.Header = req.Header.Clone()
	again.Header[m.key.header] = []string{m.before + tried[len(tried)-1]}
	if kept.want > 0 {
		again.Body = io.NopCloser(bytes.NewReader(kept.data))
	}
	return &again
}

// copied is a copy of a request's body, for another attempt.
type copied struct {
	io.ReadCloser // the body
	want          int64
	data          []byte
	read          atomic.Bool // data is all of it
	ended         atomic.Bool // there is an answer, and no other attempt
}

// follow copies the body of a request: beforehand, since another attempt is likely, or else while it is sent.
func (c *copied) follow(req *http.Request, beforehand bool) error {
	c.ReadCloser, c.want, c.data = req.Body, req.ContentLength, make([]byte, 0, req.ContentLength)
	req.Body = c
	if !beforehand {
		return nil
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		return err
	}
	req.Body = io.NopCloser(bytes.NewReader(c.data))
	return nil
}

// Read implements io.Reader.
func (c *copied) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n > 0 && !c.ended.Load() {
		c.data = append(c.data, p[:n]...)
		c.read.Store(int64(len(c.data)) == c.want)
	}
	return n, err
}

// whole reports whether the body can be sent once more.
func (c *copied) whole() bool { return c.want == 0 || c.read.Load() }

// likelier tells which of two refusals is that of the value which the application holds: a 403 may be about who asks for
// what, and its client must not take it for a 401 about another value. Of equals it is the one that was tried first.
func likelier(status, than int) bool {
	return status == http.StatusForbidden && than == http.StatusUnauthorized
}

// hold reads an answer that may still be passed on, so that its connection can be used again; of a long one only the
// beginning.
func hold(resp *http.Response) {
	head, err := io.ReadAll(io.LimitReader(resp.Body, maxReplayed))
	if err == nil && len(head) < maxReplayed {
		_ = resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(head))
		return
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
}

// drop is for an answer that nobody gets. Read to its end, the connection can be used again; a long one is not worth it.
func drop(resp *http.Response) {
	if resp == nil {
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxReplayed))
	_ = resp.Body.Close()
}
