// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"sync"
	"time"
)

// Bounds of what a refused write leaves in the journal. Nobody can push older entries out by writing what is refused.
const (
	maxChanges   = 32
	maxName      = 100 // bytes
	maxReason    = 500 // bytes
	sameRefusal  = 10 * time.Minute
	refusalsSpan = time.Hour
	maxRefusals  = 20  // of one caller in a span
	maxTogether  = 200 // of all callers in a span
	maxCallers   = 1000
	maxDifferent = 500
)

// refusals counts refused writes, so that few of many are journaled.
type refusals struct {
	mu      sync.Mutex
	begun   time.Duration
	last    map[string]time.Duration // when a refusal was journaled, by what it was
	callers map[string]int           // entries in this span, by caller
	entries int                      // in this span
}

// admit reports whether a refusal is journaled now. full reports that it is the last of its caller for some time.
func (r *refusals) admit(now time.Duration, caller, what string) (ok, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || now-r.begun >= refusalsSpan {
		r.begun, r.last, r.callers, r.entries = now, map[string]time.Duration{}, map[string]int{}, 0
	}
	at, seen := r.last[what]
	_, known := r.callers[caller]
	switch {
	case seen && now-at < sameRefusal,
		r.callers[caller] >= maxRefusals, r.entries >= maxTogether,
		!known && len(r.callers) >= maxCallers, !seen && len(r.last) >= maxDifferent:
		return false, false
	}
	r.last[what] = now
	r.callers[caller]++
	r.entries++
	return true, r.callers[caller] == maxRefusals || r.entries == maxTogether
}

// Bounds of requests to identify a value.
const (
	identifySpan      = time.Minute // for which requests are counted
	maxIdentifyCaller = 30          // requests of a caller in a span
	maxIdentifyAll    = 120         // of all callers
)

// quota counts requests in a span of time.
type quota struct {
	mu      sync.Mutex
	begun   time.Duration
	callers map[string]int
	all     int
}

// admit reports whether a request is within the bounds, and how long to wait if it is not.
func (q *quota) admit(now time.Duration, caller string) (wait time.Duration, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.callers == nil || now-q.begun >= identifySpan {
		q.begun, q.callers, q.all = now, map[string]int{}, 0
	}
	if q.callers[caller] >= maxIdentifyCaller || q.all >= maxIdentifyAll {
		return q.begun + identifySpan - now, false
	}
	q.callers[caller]++
	q.all++
	return 0, true
}
