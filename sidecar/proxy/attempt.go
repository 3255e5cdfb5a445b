// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/limits"
)

// mostReplayed is the size of a body that is kept while the application may have to be asked again.
const mostReplayed = 64 << 10

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
	var body []byte
	again := req.Body == nil || req.Body == http.NoBody
	if !again && req.ContentLength > 0 && req.ContentLength <= mostReplayed && len(req.Trailer) == 0 {
		share, ok := a.bodies.Take(req.Context(), req.ContentLength, func() {})
		defer share.Return()
		if ok && share.Keep() {
			kept := bytes.NewBuffer(make([]byte, 0, req.ContentLength+bytes.MinRead))
			if _, err := kept.ReadFrom(req.Body); err != nil {
				return nil, err
			}
			body, again = kept.Bytes(), true
		}
	}
	var refusal *http.Response
	var tried []string
	for value, more := m.state.own[0], true; more; value, more = m.untried(tried) {
		tried = append(tried, value)
		try := req
		if len(tried) > 1 {
			copied := *req
			copied.Header = req.Header.Clone()
			copied.Header[m.key.header] = []string{m.before + value}
			try = &copied
		}
		if body != nil {
			try.Body = io.NopCloser(bytes.NewReader(body))
		}
		resp, err := a.base.RoundTrip(try)
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
		case !again:
			return resp, nil
		}
		if refusal == nil || likelier(resp.StatusCode, refusal.StatusCode) {
			refusal, resp = resp, refusal
			hold(refusal)
		}
		drop(resp)
	}
	return refusal, nil // own is never empty
}

// likelier tells which of two refusals is that of the value which the application holds: a 403 may be about who asks for
// what, and its client must not take it for a 401 about another value. Of equals it is the one that was tried first.
func likelier(status, than int) bool {
	return status == http.StatusForbidden && than == http.StatusUnauthorized
}

// hold reads an answer that may still be passed on, so that its connection can be used again; of a long one only the
// beginning.
func hold(resp *http.Response) {
	head, err := io.ReadAll(io.LimitReader(resp.Body, mostReplayed))
	if err == nil && len(head) < mostReplayed {
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
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, mostReplayed))
	_ = resp.Body.Close()
}
