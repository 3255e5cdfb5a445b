// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// TestPluginKilledAHundredTimes kills the plugin's process at random moments while rotations run, one after the other,
// until it has been hit a hundred times (20 times, unless in full length). HYVVE_SEED repeats the moments of a run.
func TestPluginKilledAHundredTimes(t *testing.T) {
	want := 20
	if long() {
		want = 100
	}
	w := start(t, small(true))
	k := &pluginKiller{w: w, random: seeded(t), want: want, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := time.Now()
	go k.run(ctx)
	rotations := 0
	for keys := []string{"agent-service-token", "encryption-master-key", "better-auth-secret", "jwt-secret"}; !k.finished(); rotations++ {
		id := w.begin(keys[rotations%len(keys)])
		k.rotating.Store(true)
		w.follow(id, "done")
		k.rotating.Store(false)
	}
	t.Logf("the plugin was killed %d times in %d rotations and %s", k.hits.Load(), rotations, time.Since(begun).Round(time.Second))
	w.conclude()
}

// seeded returns random numbers that can be had again.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("HYVVE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("HYVVE_SEED: %v", err)
		}
	}
	t.Logf("HYVVE_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// pluginKiller kills the plugin's process, as often as is wanted, while a rotation is under way.
type pluginKiller struct {
	w        *world
	random   *rand.Rand
	want     int
	hits     atomic.Int64
	rotating atomic.Bool
	done     chan struct{} // closed after the last
}

func (k *pluginKiller) run(ctx context.Context) {
	defer close(k.done)
	for int(k.hits.Load()) < k.want {
		const least, spread = 200, 1500 // milliseconds
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(least+k.random.IntN(spread)) * time.Millisecond):
		}
		if !k.rotating.Load() {
			continue
		}
		// One whose Vault has not started it again since the last time is not there to be killed.
		if n, err := k.w.Vault.KillPlugin(); err == nil && n > 0 {
			k.hits.Add(1)
		}
	}
}

func (k *pluginKiller) finished() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}
