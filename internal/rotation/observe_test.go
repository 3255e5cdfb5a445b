// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"testing"
	"time"
)

// Dense samples add up over the breaks that a busy machine takes, which do not count themselves. Breaks that are longer than
// the samples, a single look, a gap and a sample that saw use start again.
func TestDenseSamplesAddUp(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	type sample struct {
		pause, took, dense time.Duration // after the sample before; of the call; what it sampled
		used               bool
	}
	second := sample{took: time.Second, dense: time.Second}
	after := func(pause time.Duration) sample { return sample{pause: pause, took: time.Second, dense: time.Second} }
	for name, test := range map[string]struct {
		samples []sample
		dense   time.Duration
		quiet   time.Duration
	}{
		"one after the other":            {[]sample{second, second, second}, 3 * time.Second, 3 * time.Second},
		"with breaks":                    {[]sample{second, after(900 * time.Millisecond), after(900 * time.Millisecond)}, 3 * time.Second, 4800 * time.Millisecond},
		"a call that waited first":       {[]sample{second, {took: 1800 * time.Millisecond, dense: time.Second}}, 2 * time.Second, 2800 * time.Millisecond},
		"a call that took too little":    {[]sample{second, {took: 100 * time.Millisecond, dense: time.Second}}, 1100 * time.Millisecond, 1100 * time.Millisecond},
		"breaks longer than the samples": {[]sample{second, after(2100 * time.Millisecond)}, time.Second, 4100 * time.Millisecond},
		"a single look":                  {[]sample{second, second, {took: time.Millisecond}}, 0, 2001 * time.Millisecond},
		"after a single look":            {[]sample{second, {took: time.Millisecond}, second}, time.Second, 2001 * time.Millisecond},
		"a gap":                          {[]sample{second, second, second, second, after(6 * time.Second)}, time.Second, time.Second},
		"one look that took long":        {[]sample{{took: 40 * time.Second}}, 0, 0},
		"looks that take long":           {[]sample{{took: time.Second}, {took: 49 * time.Second}}, 0, 0},
		"a dense call that waited long":  {[]sample{second, {took: 20 * time.Second, dense: time.Second}}, time.Second, time.Second},
		"use":                            {[]sample{second, {took: time.Second, used: true}, second}, time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var o Observation
			now := start
			for _, s := range test.samples {
				now = now.Add(s.pause + s.took)
				if s.used {
					o = o.Used(now, "one session")
				} else {
					o = o.Unused(now, s.dense)
				}
			}
			if o.Dense != test.dense {
				t.Errorf("dense samples of %s, not %s", o.Dense, test.dense)
			}
			if quiet := o.Until.Sub(o.Since); quiet != test.quiet {
				t.Errorf("quiet for %s, not %s", quiet, test.quiet)
			}
		})
	}
}

// The old version is retired when dense samples were long enough, and not when they were so with their breaks.
func TestBreaksDoNotCountAsSamples(t *testing.T) {
	r := Rotation{Observe: 10 * time.Second}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var o Observation
	for n := 1; n <= 10; n++ {
		now = now.Add(1500 * time.Millisecond)
		o = o.Unused(now, time.Second)
		waits := checkObserved(r, Facts{Now: now, Sampled: true, Dense: true, Observed: o})
		if want := n < 10; want != (len(waits) > 0) {
			t.Errorf("after %d dense samples of a second: %v", n, waits)
		}
	}
}
