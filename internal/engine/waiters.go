// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"container/list"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of requests that wait. Vault takes no new request while it waits for those that it has: a leader that steps down,
// a seal and a reload of the plugin last as long as the longest of them.
const (
	LongestWatch      = 5 * time.Second // the sidecar asks again
	mostWatches       = 2000            // of a workload
	mostWaits         = 5000            // of the mount
	mostRotationWaits = 32              // for the ends of rotations

	returnsPerSecond = 250 // of watches that were ended together
)

// ErrCrowded is the error of a request that may not wait because too many others do.
var ErrCrowded = errors.New("too many requests wait")

// waiters are the requests that wait for something. Of an instance at most one waits: a newer watch ends the older one.
type waiters struct {
	arrived  atomic.Uint64 // requests of any sort
	answered atomic.Uint64 // watches that ended without news, so that their sidecars ask again at once

	mu        sync.Mutex
	watches   map[string]*list.Element // by instance
	oldest    *list.List               // of *wait, all watches
	workloads map[string]int           // watches, by workload
	rotations map[*wait]bool           // that wait for a rotation's end
	busy      chan struct{}            // holds one when somebody has begun to wait
}

// wait is a request that waits until it has news or ended is closed.
type wait struct {
	instance, workload string
	ended              chan struct{}

	// Read after ended:
	superseded bool          // by a newer watch of its instance
	retryAfter time.Duration // where all were ended
}

// answer is the one of a watch that was ended, which found this etag.
func (w *wait) answer(etag string) Watched { return Watched{etag, w.superseded, w.retryAfter} }

func newWaiters() *waiters {
	return &waiters{
		watches: map[string]*list.Element{}, oldest: list.New(), workloads: map[string]int{}, rotations: map[*wait]bool{},
		busy: make(chan struct{}, 1),
	}
}

// Arrived says that Vault has let a request in.
func (s *state) Arrived() { s.waiters.arrived.Add(1) }

// watch begins a watch of an instance. Its caller calls leave.
func (w *waiters) watch(workloadName, instance string) (*wait, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.watches[instance]; old != nil {
		old.Value.(*wait).superseded = true
		w.end(old)
	}
	if w.workloads[workloadName] >= mostWatches {
		return nil, fmt.Errorf("%w: %d of workload %s; ask again later", ErrCrowded, mostWatches, workloadName)
	}
	if w.oldest.Len()+len(w.rotations) >= mostWaits {
		return nil, fmt.Errorf("%w: %d at this mount; ask again later", ErrCrowded, mostWaits)
	}
	begun := &wait{instance: instance, workload: workloadName, ended: make(chan struct{})}
	w.watches[instance] = w.oldest.PushBack(begun)
	w.workloads[workloadName]++
	w.stir()
	return begun, nil
}

// leave ends a watch that has its answer.
func (w *waiters) leave(ended *wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at := w.watches[ended.instance]; at != nil && at.Value == ended {
		w.end(at)
	}
}

// end takes a watch away and wakes it.
func (w *waiters) end(at *list.Element) {
	ended := w.oldest.Remove(at).(*wait)
	delete(w.watches, ended.instance)
	if w.workloads[ended.workload]--; w.workloads[ended.workload] == 0 {
		delete(w.workloads, ended.workload)
	}
	close(ended.ended)
}

// AwaitsEnd lets a request wait for a rotation's end until ended is closed. Its caller calls leave. ErrCrowded: too many
// do.
func (s *state) AwaitsEnd() (ended <-chan struct{}, leave func(), err error) {
	w := s.waiters
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rotations) >= mostRotationWaits {
		return nil, nil, fmt.Errorf("%w for the ends of rotations (%d); ask again with hyvve/rotations/ID", ErrCrowded, mostRotationWaits)
	}
	begun := &wait{ended: make(chan struct{})}
	w.rotations[begun] = true
	w.stir()
	return begun.ended, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.rotations, begun)
	}, nil
}

// stir makes somebody look after those who wait.
func (w *waiters) stir() {
	select {
	case w.busy <- struct{}{}:
	default:
	}
}

// counts returns how many watch, and how many wait in all.
func (w *waiters) counts() (watching, all int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.oldest.Len(), w.oldest.Len() + len(w.rotations)
}

// endOldest ends the watch that has waited longest.
func (w *waiters) endOldest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if first := w.oldest.Front(); first != nil {
		w.answered.Add(1)
		w.end(first)
	}
}

// returnTimeOf is the time over which that many watches are to come back, in whole seconds. Few of them may come back at once.
func returnTimeOf(watches int) time.Duration {
	return min(time.Duration(watches/returnsPerSecond)*time.Second, LongestWatch)
}

// endAll ends all that wait.
func (w *waiters) endAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	after := returnTimeOf(w.oldest.Len())
	for first := w.oldest.Front(); first != nil; first = w.oldest.Front() {
		first.Value.(*wait).retryAfter = after
		w.end(first)
	}
	for r := range w.rotations {
		close(r.ended)
		delete(w.rotations, r)
	}
}

// paceEvery is how often somebody looks whether Vault still lets requests in.
const paceEvery = 25 * time.Millisecond

// keepPace ends all that wait once Vault has ceased to let requests in.
func (s *state) keepPace() {
	p := pace{patience: leastPatience}
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	for {
		watching, all := s.waiters.counts()
		if all == 0 {
			select {
			case <-s.ctx.Done():
				return
			case <-s.waiters.busy:
			}
			continue // a request has come, as step finds: it counts before it waits
		}
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		switch p.step(s.Uptime(), s.waiters.arrived.Load(), s.waiters.answered.Load(), watching) {
		case paceAsk:
			s.waiters.endOldest()
		case paceWait:
		case paceEnd:
			s.waiters.endAll()
		}
	}
}
