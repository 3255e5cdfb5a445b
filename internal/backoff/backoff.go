// SPDX-License-Identifier: Apache-2.0

// Package backoff computes how long to wait between attempts that fail, and waits.
package backoff

import (
	"context"
	"time"
)

// Backoff doubles the wait with each failure, up to a limit.
type Backoff struct {
	First time.Duration // after the first failure
	Limit time.Duration
}

// After returns how long to wait after so many failures in a row. Before the first one it returns First.
func (b Backoff) After(failures int) time.Duration {
	wait := b.First
	for range min(max(failures-1, 0), 63) {
		if wait >= b.Limit/2 {
			return b.Limit
		}
		wait *= 2
	}
	return min(wait, b.Limit)
}

// Spread returns a wait between half of d and d, so that those who wait do not return at the same moment. draw is a random
// number from 0 to 1.
func Spread(d time.Duration, draw float64) time.Duration {
	return d/2 + time.Duration(draw*float64(d-d/2))
}

// Wait waits for d. It returns earlier, with the error of ctx, when ctx ends.
func Wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
