// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/guard"
)

// Bounds of requests that wait. Vault takes no new request while it waits for those that it has: a leader that steps down,
// a seal and a reload of the plugin last as long as the longest of them.
const (
	LongestWatch     = 5 * time.Second // the sidecar asks again
	maxWatches       = 2000            // of a workload that may have no more instances
	maxWatchesOfOne  = 4000            // of any workload: others find room at the mount
	maxWaits         = 5000            // of the mount
	maxRotationWaits = 32              // for rotations

	returnsPerSecond = 250 // of watches that were ended together
)

// ErrCrowded is the error of a request that may not wait because too many others do.
var ErrCrowded = errors.New("too many requests wait")

// Waiters are the requests that wait for something. Of an instance at most one waits: a newer watch ends the older one.
type Waiters struct {
	arrived  atomic.Uint64 // requests of any sort
	answered atomic.Uint64 // watches that ended without news, so that their sidecars ask again at once
	busy     chan struct{} // holds one when somebody has begun to wait
	waiting  *guard.Guarded[waiting]
}

// waiting is who waits.
type waiting struct {
	watches   map[string]*list.Element // by instance
	oldest    *list.List               // of *wait, all watches
	workloads map[string]int           // watches, by workload
	rotations map[*wait]bool           // that wait for a rotation's end
}

// wait is a request that waits until it has news or ended is closed.
type wait struct {
	instance, workload string
	ended              chan struct{}

	// Read after ended:
	superseded bool          // by a newer watch of its instance
	retryAfter time.Duration // where all were ended
}

// Watched is the answer to a watch.
type Watched struct {
	Etag       string // empty: the instance is not known and should read its bundle
	Superseded bool   // a newer watch of the instance has ended this one
	// RetryAfter is set where all watches of the mount end together: each is to begin again after between half of it and
	// all of it, so that they do not come back all at once while Vault is busy with what they were ended for.
	RetryAfter time.Duration
}

// answer is the one of a watch that was ended, which found this etag.
func (w *wait) answer(etag string) Watched { return Watched{etag, w.superseded, w.retryAfter} }

// NewWaiters returns those of a mount for whom nobody waits.
func NewWaiters() *Waiters {
	return &Waiters{
		busy: make(chan struct{}, 1),
		waiting: guard.New(&waiting{
			watches: map[string]*list.Element{}, oldest: list.New(), workloads: map[string]int{}, rotations: map[*wait]bool{},
		}),
	}
}

// Arrived says that Vault has let a request in.
func (w *Waiters) Arrived() { w.arrived.Add(1) }

// Watch returns when the etag of an instance is no longer the given one, or after patience, or earlier without news: after
// [LongestWatch], when a newer watch of the instance comes, when others must not wait for it, or when closed ends. It does not wait
// for an instance that is not known. limit is how many instances the workload may have. now returns the etag, and what is closed when
// it may have changed. ErrCrowded: too many wait.
func (w *Waiters) Watch(ctx, closed context.Context, workloadName, id, etag string, limit int, patience time.Duration, now func() (string, <-chan struct{}, error)) (Watched, error) {
	has, changed, err := now()
	if err != nil || has != etag || has == "" || patience <= 0 {
		return Watched{Etag: has}, err
	}
	begun, err := w.begin(workloadName, workloadName+"/"+id, watchLimit(limit))
	if err != nil {
		return Watched{}, err
	}
	defer w.leave(begun)
	timer := time.NewTimer(min(patience, LongestWatch))
	defer timer.Stop()
	for {
		select {
		case <-changed:
		case <-begun.ended:
			return begun.answer(has), nil
		case <-timer.C:
			w.answered.Add(1)
			return Watched{Etag: has}, nil
		case <-ctx.Done():
			return Watched{Etag: has}, nil
		case <-closed.Done():
			w.leave(begun) // unless it was ended
			return begun.answer(has), nil
		}
		if has, changed, err = now(); err != nil || has != etag {
			return Watched{Etag: has}, err
		}
	}
}

// watchLimit is how many watches a workload has that may have so many instances.
func watchLimit(instances int) int { return min(max(instances, maxWatches), maxWatchesOfOne) }

// begin begins a watch of an instance. Its caller calls leave.
func (w *Waiters) begin(workloadName, instance string, limit int) (*wait, error) {
	all, unlock := w.waiting.Lock()
	defer unlock()
	if old := all.watches[instance]; old != nil {
		old.Value.(*wait).superseded = true
		all.end(old)
	}
	if all.workloads[workloadName] >= limit {
		return nil, fmt.Errorf("%w: %d of workload %s; ask again later", ErrCrowded, limit, workloadName)
	}
	if all.oldest.Len()+len(all.rotations) >= maxWaits {
		return nil, fmt.Errorf("%w: %d at this mount; ask again later", ErrCrowded, maxWaits)
	}
	begun := &wait{instance: instance, workload: workloadName, ended: make(chan struct{})}
	all.watches[instance] = all.oldest.PushBack(begun)
	all.workloads[workloadName]++
	w.stir()
	return begun, nil
}

// leave ends a watch that has its answer.
func (w *Waiters) leave(ended *wait) {
	w.waiting.Do(func(all *waiting) {
		if at := all.watches[ended.instance]; at != nil && at.Value == ended {
			all.end(at)
		}
	})
}

// end takes a watch away and wakes it.
func (all *waiting) end(at *list.Element) {
	ended := all.oldest.Remove(at).(*wait)
	delete(all.watches, ended.instance)
	if all.workloads[ended.workload]--; all.workloads[ended.workload] == 0 {
		delete(all.workloads, ended.workload)
	}
	close(ended.ended)
}

// AwaitsEnd lets a request wait for a rotation's end until ended is closed. Its caller calls leave. ErrCrowded: too many
// do.
func (w *Waiters) AwaitsEnd() (ended <-chan struct{}, leave func(), err error) {
	all, unlock := w.waiting.Lock()
	defer unlock()
	if len(all.rotations) >= maxRotationWaits {
		return nil, nil, fmt.Errorf("%w for rotations (%d); ask again later", ErrCrowded, maxRotationWaits)
	}
	begun := &wait{ended: make(chan struct{})}
	all.rotations[begun] = true
	w.stir()
	return begun.ended, func() { w.waiting.Do(func(all *waiting) { delete(all.rotations, begun) }) }, nil
}

// stir makes somebody look after those who wait.
func (w *Waiters) stir() {
	select {
	case w.busy <- struct{}{}:
	default:
	}
}

// Counts returns how many watch, and how many wait in all.
func (w *Waiters) Counts() (watching, total int) {
	all, unlock := w.waiting.Lock()
	defer unlock()
	return all.oldest.Len(), all.oldest.Len() + len(all.rotations)
}

// endOldest ends the watch that has waited longest.
func (w *Waiters) endOldest() {
	w.waiting.Do(func(all *waiting) {
		if first := all.oldest.Front(); first != nil {
			w.answered.Add(1)
			all.end(first)
		}
	})
}

// returnTimeOf is the time over which that many watches are to come back, in whole seconds. Few of them may come back at once.
func returnTimeOf(watches int) time.Duration {
	return min(time.Duration(watches/returnsPerSecond)*time.Second, LongestWatch)
}

// EndAll ends all that wait.
func (w *Waiters) EndAll() {
	w.waiting.Do(func(all *waiting) {
		after := returnTimeOf(all.oldest.Len())
		for first := all.oldest.Front(); first != nil; first = all.oldest.Front() {
			first.Value.(*wait).retryAfter = after
			all.end(first)
		}
		for r := range all.rotations {
			close(r.ended)
			delete(all.rotations, r)
		}
	})
}
