// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"flag"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	seedFlag = flag.Uint64("seed", 0, "run this seed alone and tell what happens")
	seeds    = flag.Int("seeds", 150, "how many seeds to run")
	liars    = flag.Bool("liars", false, "let one instance of each workload lie, in every world")
	from     = flag.Uint64("from", 1, "the first of them")
)

// TestSimulation runs many worlds. A seed that fails is named, with the command that tells its story.
func TestSimulation(t *testing.T) {
	Run := Run
	if *liars {
		Run = RunWithLiars
	}
	if *seedFlag != 0 {
		if _, err := Run(*seedFlag, os.Stdout); err != nil {
			t.Fatal(err)
		}
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // worlds are small, and many
	begun := time.Now()
	var (
		mu     sync.Mutex
		next   uint64
		sum    Stats
		failed int
		group  sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for {
				mu.Lock()
				seed := *from + next
				next++
				stop := next > uint64(*seeds) || failed >= 5
				mu.Unlock()
				if stop {
					return
				}
				stats, err := Run(seed, nil)
				mu.Lock()
				sum.Add(stats)
				if err != nil {
					failed++
					t.Errorf("%v\nlook at it with: make sim SEED=%d", err, seed)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("%d seeds in %s: %+v", *seeds, time.Since(begun).Round(time.Millisecond), sum)
	if *seeds >= 1000 && sum.WentBack < *seeds/200 {
		t.Errorf("too few rotations go back for rows that are left: %+v", sum)
	}
	if *seeds >= 100 && (sum.Undeleted < *seeds/10 || sum.Restored < *seeds/20 || sum.Erased < *seeds/10) {
		t.Errorf("too few versions are undeleted, and erased at their end: %+v", sum)
	}
	if *seeds >= 100 && sum.All < *seeds/10 {
		t.Errorf("too few requests are for all keys: %+v", sum)
	}
	if *seeds >= 1000 && sum.Beside < *seeds/200 {
		t.Errorf("too few undeleted logins are ended beside a rotation: %+v", sum)
	}
	if *seeds >= 1000 && sum.Lost < *seeds/100 {
		t.Errorf("only %d values were lost that a server has made", sum.Lost)
	}
	if *seeds >= 1000 && sum.Leaked < *seeds/400 {
		t.Errorf("too few undeleted logins are ended by a rotation of a compromised key: %+v", sum)
	}
	if *seeds >= 1000 && (sum.Escalated < *seeds/20 || sum.Tuned < *seeds/20 || sum.Followed < *seeds/40) {
		t.Errorf("too few rotations are escalated, tuned and followed by another: %+v", sum)
	}
	if *seeds >= 1000 && (sum.Cut < *seeds/100 || sum.LockedOut < *seeds/100) {
		t.Errorf("too few rotations cut something, and too few instances are locked out: %+v", sum)
	}
	if *seeds >= 1000 && sum.Stopped < *seeds/10 {
		t.Errorf("too few sidecars are stopped beside their processes: %+v", sum)
	}
	if *seeds >= 100 && sum.Proved < *seeds {
		t.Errorf("too few instances are waited for until they have proved what is required: %+v", sum)
	}
	if *seeds >= 100 && sum.Lies < *seeds {
		t.Errorf("too few lies are told: %+v", sum)
	}
	enough := *seeds / 2
	if *liars { // who hold rotations up
		enough = *seeds / 4
	}
	if sum.Done < enough || sum.Reverted < *seeds/10 || sum.Crashes < *seeds/2 {
		t.Errorf("these worlds are too quiet to prove anything: %+v", sum)
	}
}

// An engine that does not store which rotation follows another is found: after a crash, it does not start.
func TestLostFollowersAreFound(t *testing.T) {
	for seed := range uint64(2000) {
		w := newWorld(seed+1, nil)
		w.loses = "following/"
		if _, err := run(w); err != nil {
			if !strings.Contains(err.Error(), "which is to follow it, has not started") {
				t.Error(err)
			}
			t.Logf("found in world %d", seed+1)
			return
		}
	}
	t.Error("it is not found")
}

// The same seed makes the same world, word for word.
func TestSeedsRepeat(t *testing.T) {
	for seed := range uint64(5) {
		var once, again bytes.Buffer
		_, _ = Run(seed+1, &once)
		_, _ = Run(seed+1, &again)
		if once.Len() < 1000 || !bytes.Equal(once.Bytes(), again.Bytes()) {
			t.Errorf("seed %d: %d bytes, then %d others", seed+1, once.Len(), again.Len())
		}
	}
}
