// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// Workload and mount have limits, and who leaves makes room.
func TestLimitsOfWaits(t *testing.T) {
	w := NewWaiters()
	var last *wait
	for n := range maxWatches {
		begun, err := w.begin("api", fmt.Sprintf("api/%d", n), maxWatches)
		if err != nil {
			t.Fatal(err)
		}
		last = begun
	}
	if _, err := w.begin("api", "api/more", maxWatches); !errors.Is(err, ErrCrowded) {
		t.Errorf("one more of a workload: %v", err)
	}
	if watchLimit(1) != maxWatches || watchLimit(3000) != 3000 || watchLimit(1_000_000) >= maxWaits {
		t.Error("a workload has too few watches for its instances, or leaves none for others")
	}
	if larger, err := w.begin("api", "api/more", watchLimit(maxWatches+1)); err != nil {
		t.Errorf("one more of a workload that may have more instances: %v", err)
	} else {
		w.leave(larger)
	}
	if _, err := w.begin("web", "web/1", maxWatches); err != nil {
		t.Errorf("another workload: %v", err)
	}
	if _, err := w.begin("api", "api/0", maxWatches); err != nil {
		t.Errorf("one that watches already: %v", err)
	}
	w.leave(last)
	if _, err := w.begin("api", "api/more", maxWatches); err != nil {
		t.Errorf("after one has left: %v", err)
	}
	w.EndAll()
	watching, total := w.Counts()
	w.waiting.Do(func(all *waiting) {
		if watching+total != 0 || len(all.workloads) != 0 {
			t.Errorf("%d watch, %d wait, %v", watching, total, all.workloads)
		}
	})
	w = NewWaiters()
	for range maxRotationWaits {
		if _, _, err := w.AwaitsEnd(); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := w.AwaitsEnd(); !errors.Is(err, ErrCrowded) {
		t.Errorf("one more for the end of a rotation: %v", err)
	}
}

// Watches that end together are to come back one after the other, if they are many.
func TestWatchesThatEndTogetherComeBackSpread(t *testing.T) {
	for _, c := range []struct {
		watches int
		want    time.Duration
	}{{1, 0}, {returnsPerSecond - 1, 0}, {4 * returnsPerSecond, 4 * time.Second}, {maxWaits, LongestWatch}} {
		w := NewWaiters()
		var all []*wait
		for n := range c.watches {
			all = append(all, begin(t, w, n))
		}
		w.EndAll()
		for n, begun := range all {
			if got := begun.answer("x"); got != (Watched{Etag: "x", RetryAfter: c.want}) {
				t.Fatalf("%d of %d watches: %+v, want to be back within %s", n, c.watches, got, c.want)
			}
		}
	}
}

// A watch that ends alone may come back at once, however many there are.
func TestWatchThatEndsAloneComesBackAtOnce(t *testing.T) {
	w := NewWaiters()
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
func begin(t *testing.T, w *Waiters, n int) *wait {
	t.Helper()
	begun, err := w.begin(fmt.Sprintf("w%d", n%4), fmt.Sprint(n), maxWatches)
	if err != nil {
		t.Fatal(err)
	}
	return begun
}
