// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"net/http"
	"sync/atomic"
	"time"
)

// most is how far two clocks that are one may be apart: Date has whole seconds, and an answer takes its time.
const most = 2 * time.Second

// clock is the API server's, by the Date of its answers (RFC 9110, 6.6.1), to a few seconds. Replicas on machines whose clocks
// differ have it in common; and one that is far ahead, which takes all authorities for ended, harms nobody.
type clock struct {
	machine func() time.Time
	ahead   atomic.Int64 // nanoseconds
}

func (c *clock) now() time.Time { return c.machine().Add(-time.Duration(c.ahead.Load())).Round(0) }

func (c *clock) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		answer, err := next.RoundTrip(r)
		if err == nil {
			if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
				if ahead := c.machine().Sub(date); (ahead - time.Duration(c.ahead.Load())).Abs() > most {
					c.ahead.Store(int64(ahead))
				}
			}
		}
		return answer, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
