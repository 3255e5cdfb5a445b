// SPDX-License-Identifier: Apache-2.0

// Package bench measures what the project claims, as ratios against a named peer in the same run.
// docs/benchmarks.md says what each name is measured against and how.
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"text/tabwriter"
	"time"
)

// Result is one line of build/bench.json.
type Result struct {
	Name  string   `json:"name"`
	Unit  string   `json:"unit"`
	Ours  float64  `json:"ours"`
	Peer  float64  `json:"peer"`
	Ratio float64  `json:"ratio"` // how many times better ours is: of rates ours over peer's, of times peer's over ours
	Bar   *float64 `json:"bar"`   // null: none applies in this release
	Holds *bool    `json:"holds"` // null where bar is
}

// rates makes a result of two rates: more is better.
func rates(name, unit string, ours, peer float64) Result {
	return Result{Name: name, Unit: unit, Ours: ours, Peer: peer, Ratio: ours / peer}
}

// times makes a result of two durations in milliseconds: less is better.
func times(name string, ours, peer time.Duration) Result {
	return Result{Name: name, Unit: "ms", Ours: ms(ours), Peer: ms(peer), Ratio: peer.Seconds() / ours.Seconds()}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// against sets the bar.
func (r Result) against(bar float64) Result {
	holds := r.Ratio >= bar
	r.Bar, r.Holds = &bar, &holds
	return r
}

// benchmark measures one or several names.
type benchmark struct {
	names []string
	run   func(ctx context.Context, log io.Writer) ([]Result, error)
}

// all lists the benchmarks in the order in which they run.
func all() []benchmark {
	return []benchmark{
		{[]string{"pbkdf2-single", "pbkdf2-multi"}, derivations},
		{[]string{"reencrypt-first", "reencrypt-next", "reencrypt-rerun"}, reencryption},
		{[]string{"engine-watch", "engine-creds", "rotate-latency"}, engine},
	}
}

// Run runs those whose names match, prints a table to out and writes the results to path.
func Run(ctx context.Context, match *regexp.Regexp, out io.Writer, path string) error {
	var results []Result
	for _, b := range all() {
		if !slices.ContainsFunc(b.names, match.MatchString) {
			continue
		}
		begun := time.Now()
		_, _ = fmt.Fprintf(out, "measuring %v\n", b.names)
		measured, err := b.run(ctx, out)
		if err != nil {
			return fmt.Errorf("%v: %w", b.names, err)
		}
		_, _ = fmt.Fprintf(out, "  took %.0f s\n", time.Since(begun).Seconds())
		for _, r := range measured {
			if match.MatchString(r.Name) {
				results = append(results, r)
			}
		}
	}
	if len(results) == 0 {
		return fmt.Errorf("no benchmark's name matches %s", match)
	}
	table(out, results)
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil { //nolint:gosec // holds no secret
		return err
	}
	_, _ = fmt.Fprintf(out, "\nThe same is in %s.\n", path)
	return nil
}

func table(out io.Writer, results []Result) {
	t := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "\nname\tunit\tours\tpeer\tratio\tbar\tholds\t")
	for _, r := range results {
		bar, holds := "-", "-"
		if r.Bar != nil {
			bar, holds = fmt.Sprintf("%.2f", *r.Bar), "yes"
			if !*r.Holds {
				holds = "NO"
			}
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%.1f\t%.1f\t%.2f\t%s\t%s\t\n", r.Name, r.Unit, r.Ours, r.Peer, r.Ratio, bar, holds)
	}
	_ = t.Flush()
}

// median of durations.
func median(all []time.Duration) time.Duration {
	sorted := slices.Clone(all)
	slices.Sort(sorted)
	return sorted[len(sorted)/2]
}

// interleave runs two things in turn, and gives the median time of each: what disturbs the machine disturbs both.
func interleave(rounds int, ours, peer func() error) (o, p time.Duration, err error) {
	var os, ps []time.Duration
	for range rounds {
		for _, side := range []struct {
			do   func() error
			into *[]time.Duration
		}{{ours, &os}, {peer, &ps}} {
			begun := time.Now()
			if err := side.do(); err != nil {
				return 0, 0, err
			}
			*side.into = append(*side.into, time.Since(begun))
		}
	}
	return median(os), median(ps), nil
}
