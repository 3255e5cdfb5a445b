// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

type watchResult struct {
	fleet.Watched
	err error
}

// watching starts a watch that may wait for a minute, and returns when it waits.
func (h *harness) watching(workloadName, id string) <-chan watchResult {
	h.t.Helper()
	etag := h.readers[workloadName+"/"+id].reading.Bundle.Holding.Etag
	before, _ := h.engine.waiters.Counts()
	done := make(chan watchResult, 1)
	go func() {
		w, err := h.engine.Watch(h.t.Context(), workloadName, id, etag, time.Minute)
		done <- watchResult{w, err}
	}()
	for { // no signal says that it waits
		if now, _ := h.engine.waiters.Counts(); now > before {
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

// An engine that is closed, as at a reload, asks its watches to come back spread.
func TestClosedEngineSpreadsItsWatches(t *testing.T) {
	h := watched(t)
	first := h.watching("api", "api-1")
	for n := range 250 { // that many may come back in a second
		go func() {
			_, _ = h.engine.waiters.Watch(t.Context(), t.Context(), fmt.Sprintf("w%d", n%4), fmt.Sprint(n), "x", 1, time.Minute, func() (string, <-chan struct{}, error) { return "x", nil, nil })
		}()
	}
	for all := 0; all < 251; all, _ = h.engine.waiters.Counts() {
		runtime.Gosched()
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
		h.clock.advance(25 * time.Millisecond)
		select {
		case <-ended:
			open = false
		case <-time.After(25 * time.Millisecond):
		}
		if h.clock.Now().Sub(begun) > fleet.LongestWatch {
			t.Fatal("they wait on")
		}
	}
	for _, c := range all {
		if r := <-c; r.err != nil || r.Superseded {
			t.Errorf("%+v", r)
		}
	}
}
