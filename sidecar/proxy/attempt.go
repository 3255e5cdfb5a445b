// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"io"
	"net/http"
)

// mostReplayed is the size of a body that is kept while the application may have to be asked again.
const mostReplayed = 64 << 10

type matchKey struct{}

// attempts asks the application again with the next value that it may hold, where it refuses the one before. Only
// requests that presented an accepted value, and only while there is more than one that it may hold, carry a match.
type attempts struct{ base http.RoundTripper }

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
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		again = true
	}
	for n, value := range m.state.own {
		try := req
		if n > 0 {
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
			return nil, err
		case !refused(resp.StatusCode):
			if n > 0 {
				m.key.proved(value)
			}
			return resp, nil
		case !again || n == len(m.state.own)-1:
			return resp, nil
		}
		// Read to its end, the connection can be used again; a long answer is not worth it.
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, mostReplayed))
		_ = resp.Body.Close()
	}
	return a.base.RoundTrip(req) // not reached: own is never empty
}
