// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Result is one line of build/bench.json.
type Result struct {
	Name  string   `json:"name"`
	Unit  string   `json:"unit"`
	Ours  float64  `json:"ours"`
	Peer  *float64 `json:"peer"`  // null: nothing comparable was measured
	Ratio *float64 `json:"ratio"` // how many times better ours is: of rates ours over peer's, of times peer's over ours; null where peer is
	Bar   *float64 `json:"bar"`   // the least ratio that is wanted, or, see within, the most or the least of unit; null: none applies in this release
	Holds *bool    `json:"holds"` // null where bar is

	absolute, least bool // bar is in unit; and the least of it
}

// rates makes a result of two rates: more is better.
func rates(name, unit string, ours, peer float64) Result {
	ratio := ours / peer
	return Result{Name: name, Unit: unit, Ours: ours, Peer: &peer, Ratio: &ratio}
}

// times makes a result of two durations: less is better.
func times(name string, ours, peer time.Duration) Result {
	r := alone(name, ours)
	theirs, ratio := ms(peer), peer.Seconds()/ours.Seconds()
	r.Peer, r.Ratio = &theirs, &ratio
	return r
}

// alone makes a result of a duration that has no peer.
func alone(name string, ours time.Duration) Result {
	return Result{Name: name, Unit: "ms", Ours: ms(ours)}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// against sets the bar of a result that has a ratio.
func (r Result) against(bar float64) Result {
	holds := r.Ratio != nil && *r.Ratio >= bar
	r.Bar, r.Holds = &bar, &holds
	return r
}

// within sets the bar of a result that must not be more than so many of its unit, whatever the peer does.
func (r Result) within(most float64) Result {
	holds := r.Ours <= most
	r.Bar, r.Holds, r.absolute = &most, &holds, true
	return r
}

// atLeast sets the bar of a result that must be so many of its unit, with nothing to compare it with.
func (r Result) atLeast(least float64) Result {
	holds := r.Ours >= least
	r.Bar, r.Holds, r.absolute, r.least = &least, &holds, true, true
	return r
}

// table prints the results, and once more, in words, each bar that does not hold.
func table(out io.Writer, results []Result) {
	t := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "\nname\tunit\tours\tpeer\tratio\tbar\tholds\t")
	for _, r := range results {
		holds := "-"
		if r.Holds != nil {
			holds = map[bool]string{true: "yes", false: "NO"}[*r.Holds]
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.Name, r.Unit, number(&r.Ours, decimals(r.Ours)), number(r.Peer, decimals(r.Ours)), number(r.Ratio, 2), number(r.Bar, 2), holds)
	}
	_ = t.Flush()
	for _, r := range results {
		switch {
		case r.Holds == nil || *r.Holds:
		case r.least:
			_, _ = fmt.Fprintf(out, "\n!!! %s IS BELOW ITS BAR: %.1f %s, at least %s is wanted\n", r.Name, r.Ours, r.Unit, number(r.Bar, 1))
		case r.absolute:
			_, _ = fmt.Fprintf(out, "\n!!! %s IS ABOVE ITS BAR: %.1f %s, at most %s is wanted\n", r.Name, r.Ours, r.Unit, number(r.Bar, 1))
		default:
			_, _ = fmt.Fprintf(out, "\n!!! %s IS BELOW ITS BAR: %s, at least %s is wanted\n", r.Name, number(r.Ratio, 2), number(r.Bar, 2))
		}
	}
}

// decimals are more where a value is small.
func decimals(value float64) int {
	if value < 1 {
		return 3
	}
	return 1
}

func number(value *float64, decimals int) string {
	if value == nil {
		return "-"
	}
	return fmt.Sprintf("%.*f", decimals, *value)
}
