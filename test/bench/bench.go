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
	"time"
)

// benchmark measures one or several names.
type benchmark struct {
	names []string
	run   measuring
}

// all lists the benchmarks in the order in which they run.
func all() []benchmark {
	return []benchmark{
		{[]string{"pbkdf2-single"}, deriveOne},
		{[]string{"pbkdf2-multi"}, deriveMany},
		{[]string{"reencrypt-first", "reencrypt-next", "reencrypt-rerun"}, in(reencryption, withPostgres)},
		{[]string{"reencrypt-flip-10k", "reencrypt-flip", "reencrypt-flip-1m", "reencrypt-memory"}, in(flips, withPostgres)},
		{[]string{"engine-watch", "engine-creds", "rotate-latency"}, in(engine, withVault, furnished)},
		{[]string{"engine-fanout-1000"}, fanout(1000, 600)},
		{[]string{"engine-fanout-3000"}, fanout(3000, 2000)},
		{[]string{"postgres-parallel", "postgres-parallel-10ms", "postgres-parallel-20ms", "postgres-overhead"}, in(credentials, withPostgres, withVault)},
		{[]string{"postgres-sampling-soak", "postgres-sampling-dense", "redis-sampling-soak", "redis-sampling-dense"}, in(sampling, withPostgres)},
		{[]string{"proxy-throughput", "proxy-latency"}, proxied},
		{[]string{"sidecar-rss", "sidecar-anonymous", "sidecar-cpu", "sidecar-signal-latency"}, in(sidecarCost, withVault, furnished)},
		{[]string{"injector-rate", "injector-p99", "injector-rss"}, in(injected)},
		{[]string{"pod-start-delay", "pod-start-delay-hook"}, in(podsStart, withVault, furnished)},
		{[]string{"engine-10k-keys-start", "engine-10k-keys-memory", "engine-10k-keys-due", "engine-10k-keys-idle-writes"}, in(manyKeys, withVault)},
	}
}

// Run runs those whose names match, prints a table to out and writes the results to path.
func Run(ctx context.Context, match *regexp.Regexp, out io.Writer, path string) error {
	return run(ctx, all(), match, out, path)
}

func run(ctx context.Context, benchmarks []benchmark, match *regexp.Regexp, out io.Writer, path string) error {
	var results []Result
	for _, b := range benchmarks {
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
	if err := save(path, results); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "\nThe same is in %s.\n", path)
	return nil
}

func save(path string, results []Result) error {
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// interleave times several things in turn, and returns the median time of each: what disturbs the machine disturbs all.
func interleave(rounds int, sides ...func() error) ([]time.Duration, error) {
	taken := make([][]time.Duration, len(sides))
	for range rounds {
		for n, do := range sides {
			begun := time.Now()
			if err := do(); err != nil {
				return nil, err
			}
			taken[n] = append(taken[n], time.Since(begun))
		}
	}
	medians := make([]time.Duration, 0, len(sides))
	for _, t := range taken {
		medians = append(medians, median(t))
	}
	return medians, nil
}

// median returns the middle one; of an even number, the upper of the two.
func median[T time.Duration | float64](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
