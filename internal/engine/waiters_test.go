// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

type watchResult struct {
	Watched
	err error
}

// watching starts a watch that may wait for a minute, and returns when it waits.
func (h *harness) watching(workloadName, id string) <-chan watchResult {
	h.t.Helper()
	etag := h.readers[workloadName+"/"+id].reading.Bundle.Holding.Etag
	done := make(chan watchResult, 1)
	go func() {
		w, err := h.engine.Watch(h.t.Context(), workloadName, id, etag, time.Minute)
		done <- watchResult{w, err}
	}()
	for { // no signal says that it waits
		h.engine.waiters.mu.Lock()
		at := h.engine.waiters.watches[workloadName+"/"+id]
		h.engine.waiters.mu.Unlock()
		if at != nil {
			return done
		}
		select {
		case r := <-done:
			h.t.Fatalf("it does not wait: %+v", r)
		case <-time.After(time.Millisecond):
		}
	}
}

func watched(t *testing.T) *harness {
	t.Helper()
	h := newHarness(t)
	h.key("one", "token")
	h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"one": {Presents: true}}})
	h.join("api", "api-1")
	h.join("api", "api-2")
	return h
}

// An instance has one watch: a newer one ends the older at once, and its answer says so.
func TestNewerWatchEndsTheOlder(t *testing.T) {
	h := watched(t)
	first, other := h.watching("api", "api-1"), h.watching("api", "api-2")
	second := make(chan watchResult, 1)
	go func() {
		w, err := h.engine.Watch(t.Context(), "api", "api-1", h.readers["api/api-1"].reading.Bundle.Holding.Etag, time.Minute)
		second <- watchResult{w, err}
	}()
	if r := <-first; r.err != nil || !r.Superseded || r.Etag == "" {
		t.Errorf("the older watch: %+v", r)
	}
	select {
	case r := <-other:
		t.Errorf("the watch of another instance has ended: %+v", r)
	case r := <-second:
		t.Errorf("the newer watch has ended: %+v", r)
	default:
	}
	h.engine.Close()
	for _, c := range []<-chan watchResult{other, second} {
		if r := <-c; r.err != nil || r.Superseded {
			t.Errorf("at the end: %+v", r)
		}
	}
}

// An instance that is not known waits for nothing, whatever it says.
func TestUnknownInstanceDoesNotWait(t *testing.T) {
	h := watched(t)
	for _, etag := range []string{"", "x"} {
		w, err := h.engine.Watch(t.Context(), "api", "ghost", etag, time.Minute)
		if err != nil || w.Etag != "" {
			t.Errorf("etag %q: %+v, %v", etag, w, err)
		}
	}
}

// Workload and mount have limits, and who leaves makes room.
func TestLimitsOfWaits(t *testing.T) {
	w := newWaiters()
	var last *wait
	for n := range mostWatches {
		begun, err := w.watch("api", fmt.Sprintf("api/%d", n))
		if err != nil {
			t.Fatal(err)
		}
		last = begun
	}
	if _, err := w.watch("api", "api/more"); !errors.Is(err, ErrCrowded) {
		t.Errorf("one more of a workload: %v", err)
	}
	if _, err := w.watch("web", "web/1"); err != nil {
		t.Errorf("another workload: %v", err)
	}
	if _, err := w.watch("api", "api/0"); err != nil {
		t.Errorf("one that watches already: %v", err)
	}
	w.leave(last)
	if _, err := w.watch("api", "api/more"); err != nil {
		t.Errorf("after one has left: %v", err)
	}
	w.endAll()
	if watching, all := w.counts(); watching+all != 0 || len(w.workloads) != 0 {
		t.Errorf("%d watch, %d wait, %v", watching, all, w.workloads)
	}

	h := watched(t)
	for range mostRotationWaits {
		if _, _, err := h.engine.AwaitsEnd(); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := h.engine.AwaitsEnd(); !errors.Is(err, ErrCrowded) {
		t.Errorf("one more for the end of a rotation: %v", err)
	}
}

// Watches that end together are to come back one after the other, if they are many.
func TestWatchesThatEndTogetherComeBackSpread(t *testing.T) {
	for _, c := range []struct {
		watches int
		want    time.Duration
	}{{1, 0}, {returnsPerSecond - 1, 0}, {4 * returnsPerSecond, 4 * time.Second}, {mostWaits, LongestWatch}} {
		w := newWaiters()
		var all []*wait
		for n := range c.watches {
			all = append(all, begin(t, w, n))
		}
		w.endAll()
		for n, begun := range all {
			if got := begun.answer("x"); got != (Watched{Etag: "x", RetryAfter: c.want}) {
				t.Fatalf("%d of %d watches: %+v, want to be back within %s", n, c.watches, got, c.want)
			}
		}
	}
}

// A watch that ends alone may come back at once, however many there are.
func TestWatchThatEndsAloneComesBackAtOnce(t *testing.T) {
	w := newWaiters()
	var all []*wait
	for n := range 2 * returnsPerSecond {
		all = append(all, begin(t, w, n))
	}
	w.endOldest()
	begin(t, w, 1)
	w.leave(all[2])
	for n, begun := range all[:3] {
		<-begun.ended
		if got := begun.answer("x"); got.RetryAfter != 0 {
			t.Errorf("watch %d: %+v", n, got)
		}
	}
}

// begin begins watch n, in one of four workloads.
func begin(t *testing.T, w *waiters, n int) *wait {
	t.Helper()
	begun, err := w.watch(fmt.Sprintf("w%d", n%4), fmt.Sprint(n))
	if err != nil {
		t.Fatal(err)
	}
	return begun
}

// An engine that is closed, as at a reload, asks its watches to come back spread.
func TestClosedEngineSpreadsItsWatches(t *testing.T) {
	h := watched(t)
	first := h.watching("api", "api-1")
	for n := range returnsPerSecond {
		begin(t, h.engine.waiters, n)
	}
	h.engine.Close()
	if r := <-first; r.err != nil || r.RetryAfter != time.Second || r.Etag == "" {
		t.Errorf("%+v", r)
	}
}

// When Vault lets nobody in, those that wait are ended soon, also those that wait for a rotation.
func TestWaitsEndWhenNobodyIsLetIn(t *testing.T) {
	h := watched(t)
	ended, leave, err := h.engine.AwaitsEnd()
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	for n := range 30 {
		h.join("api", fmt.Sprintf("more-%d", n))
	}
	var all []<-chan watchResult
	for n := range 30 {
		all = append(all, h.watching("api", fmt.Sprintf("more-%d", n)))
	}
	h.engine.Start()
	begun := h.clock.Now()
	for open := true; open; {
		h.clock.advance(paceEvery)
		select {
		case <-ended:
			open = false
		case <-time.After(paceEvery):
		}
		if h.clock.Now().Sub(begun) > LongestWatch {
			t.Fatal("they wait on")
		}
	}
	for _, c := range all {
		if r := <-c; r.err != nil || r.Superseded {
			t.Errorf("%+v", r)
		}
	}
}
