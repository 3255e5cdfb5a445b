// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/limits"
)

// What reviews take together at most. With these and inject.Measure the injector stays below the chart's memory limit of 128 MiB:
// the program takes about 30 MB, connections 12, bodies 16, what is made of them 24 and as much again until it is collected.
const (
	maxConns       = 256     // from API servers
	maxStatus      = 64      // from probes and Prometheus
	maxBody        = 2 << 20 // bytes: etcd takes 1.5 MiB, and JSON is longer
	smallBody      = 64 << 10
	leastBody      = 4 << 10 // counted for a body, however short
	bodiesTogether = 8 << 20 // bytes of small bodies; as many again of large ones
	keptBody       = 128 << 10
	lightCost      = 1 << 20         // bytes that a light review takes once it is read
	lightTogether  = 4               // reviews at a time
	heavyWaiting   = 4               // heavy reviews under way: one is made, and the others wait
	patience       = 4 * time.Second // of a review that waits; an API server waits for 10 in all
)

// Bounds are what all reviews of a server share.
type Bounds struct {
	small, large *limits.Budget // bytes of bodies
	light, heavy chan struct{}  // reviews that are made
	queued       atomic.Int32   // heavy reviews that are made, or wait
	told         atomic.Int64   // when something that was no review was logged last: Unix seconds
}

// NewBounds returns bounds that nothing is taken of.
func NewBounds() *Bounds {
	return &Bounds{
		small: limits.NewBudget(bodiesTogether), large: limits.NewBudget(bodiesTogether),
		light: make(chan struct{}, lightTogether), heavy: make(chan struct{}, 1),
	}
}

// tell reports whether it is to be logged that something came which is no review: no more than once a second.
func (b *Bounds) tell() bool {
	now := time.Now().Unix()
	return b.told.Swap(now) != now
}

// body takes room for the body of a review. The client that has been sending one for the longest time is cut, if there is none.
func (b *Bounds) body(w http.ResponseWriter, r *http.Request) (*limits.Share, bool) {
	length := r.ContentLength
	switch {
	case length < 0:
		length = maxBody
	case length > maxBody:
		length = leastBody // of which no more is read
	}
	budget := b.small
	if length > smallBody {
		budget = b.large
	}
	control := http.NewResponseController(w)
	return budget.Take(r.Context(), max(length, leastBody), func() {
		_ = control.SetReadDeadline(time.Unix(1, 0))
		_ = control.SetWriteDeadline(time.Unix(1, 0))
	})
}

// enter waits until a review of such a cost may be made, and returns what is to be called afterwards. It reports whether it may.
func (b *Bounds) enter(ctx context.Context, cost int64) (leave func(), ok bool) {
	lane := b.light
	if cost > lightCost {
		lane = b.heavy
		if b.queued.Add(1) > heavyWaiting {
			b.queued.Add(-1)
			return nil, false
		}
	}
	leave = func() {
		<-lane
		if lane == b.heavy {
			b.queued.Add(-1)
		}
	}
	select {
	case lane <- struct{}{}:
		return leave, true
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case lane <- struct{}{}:
		return leave, true
	case <-ctx.Done():
		if lane == b.heavy {
			b.queued.Add(-1)
		}
		return nil, false
	}
}
