// SPDX-License-Identifier: Apache-2.0

// Package bench measures what the project claims, as ratios against a named peer in the same run.
// docs/benchmarks.md says what each name is measured against and how.
package bench

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reencrypt"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
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
		{[]string{"break-glass-first", "break-glass"}, breakGlass},
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

// measuring is what a benchmark does.
type measuring = func(ctx context.Context, log io.Writer) ([]Result, error)

// place is where something is measured: servers of its own.
type place struct {
	*bed.Bed
	log      io.Writer
	vault    *bed.Vault
	postgres *bed.Postgres
}

// in lets something be measured in a place that was made ready, in turn, and removes that afterwards.
func in(measure func(ctx context.Context, p *place) ([]Result, error), ready ...func(ctx context.Context, p *place) error) measuring {
	return func(ctx context.Context, log io.Writer) (results []Result, err error) {
		b, err := bed.New("bench", log)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, b.Close()) }()
		p := &place{Bed: b, log: log}
		for _, one := range ready {
			if err := one(ctx, p); err != nil {
				return nil, err
			}
		}
		return measure(ctx, p)
	}
}

func withVault(ctx context.Context, p *place) (err error) {
	p.vault, err = p.Vault(ctx, bed.VaultOptions{})
	return err
}

func withPostgres(ctx context.Context, p *place) (err error) {
	p.postgres, err = p.Postgres(ctx)
	return err
}

// database is one of its own, with rows of ai_provider_configs under a key.
type database struct {
	url     string
	conn    *pgx.Conn
	rows    []bed.Row
	current key.Value
	runs    int
}

func masterKey() key.Value {
	secret, _ := draw()
	return key.NewValue(base64.StdEncoding.EncodeToString(secret))
}

// newDatabase makes one with so many rows and distinct salts; 0 salts: one a row.
func newDatabase(ctx context.Context, server *bed.Postgres, name string, rows, salts int) (*database, error) {
	url, err := server.NewDatabase(ctx, name)
	if err != nil {
		return nil, err
	}
	d := &database{url: url, current: masterKey()}
	if d.conn, err = pgx.Connect(ctx, url); err != nil {
		return nil, err
	}
	d.rows, err = bed.SeedPlatform(ctx, d.conn, bed.Seeding{
		MasterKey: d.current, BetterAuth: key.NewValue("not used in this database"), Providers: rows, Salts: salts,
	})
	return d, err
}

// rotate brings the rows from one key to another with a fresh worker and an agent's options, as a sidecar that has just
// started would, and returns how long that took. That every row is under the new key in the end is checked.
func (d *database) rotate(ctx context.Context, from, to key.Value, phases ...workload.Phase) (time.Duration, error) {
	d.runs++
	worker := reencrypt.NewWorker(d.url, reencrypt.Options{AllowSuperuser: true})
	begun := time.Now()
	rotated := 0
	for _, phase := range phases {
		report, err := worker.Do(ctx, workload.Work{
			ID: string(phase), Rotation: fmt.Sprintf("r%d", d.runs), Key: "k", Env: "K", Phase: phase, From: 1, To: 2,
			Columns: []key.Column{{Table: "ai_provider_configs", Column: "api_key_encrypted", Layout: key.TagFirst}},
		}, map[string][]key.Value{"K": {to, from}})
		if err != nil {
			return 0, fmt.Errorf("%s: %w", phase, err)
		}
		for _, c := range report.Columns {
			rotated = c.Rotated
		}
	}
	took := time.Since(begun)
	if rotated != len(d.rows) {
		return 0, fmt.Errorf("%d of %d rows are under the new key", rotated, len(d.rows))
	}
	d.current = to
	return took, nil
}
