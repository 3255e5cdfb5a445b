// SPDX-License-Identifier: Apache-2.0

package backoff_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
)

func ExampleBackoff() {
	retry := backoff.Backoff{First: 250 * time.Millisecond, Limit: 30 * time.Second}
	for failures := 1; failures <= 3; failures++ {
		fmt.Println(retry.After(failures))
	}
	// Output:
	// 250ms
	// 500ms
	// 1s
}

func TestAfter(t *testing.T) {
	b := backoff.Backoff{First: time.Second, Limit: 5 * time.Minute}
	for failures, want := range map[int]time.Duration{
		-1: time.Second, 0: time.Second, 1: time.Second, 2: 2 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, math.MaxInt: 5 * time.Minute,
	} {
		if got := b.After(failures); got != want {
			t.Errorf("after %d failures: %v; want %v", failures, got, want)
		}
	}
	if got := (backoff.Backoff{First: time.Minute, Limit: time.Second}).After(1); got != time.Second {
		t.Errorf("a first wait above the limit: %v; want the limit", got)
	}
	if got := (backoff.Backoff{Limit: time.Minute}).After(math.MaxInt); got != 0 {
		t.Errorf("without a first wait: %v; want 0", got)
	}
	if got := (backoff.Backoff{First: math.MaxInt64 / 2, Limit: math.MaxInt64}).After(math.MaxInt); got != math.MaxInt64 {
		t.Errorf("doubling overflows: %v", got)
	}
}

func TestSpread(t *testing.T) {
	for draw, want := range map[float64]time.Duration{0: 5 * time.Second, 0.5: 7500 * time.Millisecond, 1: 10 * time.Second} {
		if got := backoff.Spread(10*time.Second, draw); got != want {
			t.Errorf("draw %v: %v; want %v", draw, got, want)
		}
	}
	if got := backoff.Spread(1, 0.9); got < 0 || got > 1 {
		t.Errorf("of a nanosecond: %d", got)
	}
}

func TestWait(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if err := backoff.Wait(ctx, time.Nanosecond); err != nil {
		t.Error(err)
	}
	cancel()
	if err := backoff.Wait(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}
