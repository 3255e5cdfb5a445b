// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pbkdf2"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/platform"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

const help = `Usage: hyvve-sidecar reencrypt [flags]

Re-encrypts the platform's envelopes in PostgreSQL from an old key to a new one. New ciphertexts are staged beside the
rows, then put in place in one transaction; a run that was interrupted is resumed by the same command. The old
ciphertexts are kept until --wipe, so that --revert takes seconds.

Environment (each may be given as a file instead, by NAME_FILE):
  DATABASE_URL                                   PostgreSQL, with or without a pooler; Prisma's parameters are understood
  ENCRYPTION_MASTER_KEY_OLD, _NEW                ai_provider_configs, mcp_server_configs, integration_connections
  BETTER_AUTH_SECRET_OLD, _NEW                   users.two_factor_secret, and legacy rows of mcp_server_configs
  BETTER_AUTH_SECRET, ENCRYPTION_MASTER_KEY      the key that does not change, so that its rows are recognised
At least one pair of _OLD and _NEW is needed.

Exit status: 0 done, 1 failed (nothing half done: run it again), 2 wrong usage.
`

// settings are what the command line says.
type settings struct {
	dryRun, revert, wipe, json bool
	options                    Options
}

// Command is "hyvve-sidecar reencrypt". It gives the exit status.
func Command(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	var s settings
	onBad := "abort"
	flags := flag.NewFlagSet("hyvve-sidecar reencrypt", flag.ContinueOnError)
	flags.BoolVar(&s.dryRun, "dry-run", false, "count the rows under each key and change nothing")
	flags.IntVar(&s.options.BatchSize, "batch-size", defaultBatch, "rows read and staged at a time, `N` from 1 to 10000")
	flags.BoolVar(&s.revert, "revert", false, "go back to the old key, with the same environment")
	flags.BoolVar(&s.wipe, "wipe", false, "drop the kept ciphertexts of the old key, with the same environment; no revert after that")
	flags.BoolVar(&s.json, "json", false, "print the result as JSON")
	flags.BoolVar(&s.options.SaltPerRow, "salt-per-row", false, "draw a salt for each new envelope, which makes every later run slow")
	flags.StringVar(&onBad, "on-bad-row", onBad, "what a row that no key opens does: `abort` before anything is changed, or skip it")
	if ok, status := usage.Parse(flags, args, help, stdout, stderr); !ok {
		return status
	}
	s.options.SkipBad = onBad == "skip"
	problem := s.check(onBad)
	var in input
	if problem == nil {
		in, problem = readInput(getenv)
	}
	if problem != nil {
		_, _ = fmt.Fprintf(stderr, "hyvve-sidecar reencrypt: %v\nRun \"hyvve-sidecar reencrypt --help\" for what it needs. Nothing was changed.\n", problem)
		return 2
	}
	r := runner{settings: s, out: stdout, err: stderr}
	if err := r.run(ctx, in); err != nil {
		_, _ = fmt.Fprintf(stderr, "hyvve-sidecar reencrypt: %v\n", err)
		return 1
	}
	return 0
}

func (s settings) check(onBad string) error {
	switch {
	case s.options.BatchSize < 1 || s.options.BatchSize > 10_000:
		return fmt.Errorf("--batch-size=%d is not from 1 to 10000", s.options.BatchSize)
	case onBad != "abort" && onBad != "skip":
		return fmt.Errorf("--on-bad-row=%s is not known; use abort or skip", onBad)
	case s.revert && s.wipe:
		return fmt.Errorf("--revert and --wipe exclude each other")
	case s.dryRun && (s.revert || s.wipe):
		return fmt.Errorf("--dry-run counts rows; it goes neither with --revert nor with --wipe")
	}
	return nil
}

// input is what the environment says.
type input struct {
	databaseURL string
	tasks       []named
}

type named struct {
	env string
	task
}

// readInput reads and checks the environment, before anything is done.
func readInput(getenv func(string) string) (input, error) {
	values := map[string]key.Value{}
	for _, env := range []string{platform.MasterKey, platform.BetterAuth} {
		for _, suffix := range []string{"", "_OLD", "_NEW"} {
			v, err := variable(getenv, env+suffix)
			if err != nil {
				return input{}, err
			}
			values[env+suffix] = v
		}
	}
	var in input
	// DIRECT_URL is not asked: a leftover of another database would decide which rows are rewritten.
	databaseURL, err := variable(getenv, "DATABASE_URL")
	if err != nil {
		return input{}, err
	}
	in.databaseURL = databaseURL.Reveal()
	if in.databaseURL == "" {
		return input{}, fmt.Errorf("DATABASE_URL is not set; give the URL of the platform's database")
	}
	if _, err := parseURL(in.databaseURL); err != nil {
		return input{}, err
	}
	for _, env := range []string{platform.MasterKey, platform.BetterAuth} {
		t, ok, err := taskFor(env, values)
		if err != nil {
			return input{}, err
		}
		if ok {
			in.tasks = append(in.tasks, t)
		}
	}
	if len(in.tasks) == 0 {
		return input{}, fmt.Errorf("no keys are given; set ENCRYPTION_MASTER_KEY_OLD and ENCRYPTION_MASTER_KEY_NEW, or BETTER_AUTH_SECRET_OLD and BETTER_AUTH_SECRET_NEW")
	}
	return in, nil
}

// variable reads an environment variable or the file that NAME_FILE names, without a trailing line break.
func variable(getenv func(string) string, name string) (key.Value, error) {
	path := getenv(name + "_FILE")
	if path == "" {
		return key.NewValue(getenv(name)), nil
	}
	if getenv(name) != "" {
		return key.Value{}, fmt.Errorf("%s and %s_FILE are both set; set one", name, name)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return key.Value{}, fmt.Errorf("%s_FILE: %w", name, err)
	}
	return key.NewValue(strings.TrimRight(string(data), "\r\n")), nil
}

// taskFor makes the task of a key that changes.
func taskFor(env string, values map[string]key.Value) (named, bool, error) {
	old, new := values[env+"_OLD"], values[env+"_NEW"]
	switch {
	case old.Empty() && new.Empty():
		return named{}, false, nil
	case old.Empty():
		return named{}, false, fmt.Errorf("%s_NEW is set, but %s_OLD is not", env, env)
	case new.Empty():
		return named{}, false, fmt.Errorf("%s_OLD is set, but %s_NEW is not", env, env)
	case old.Equal(new):
		return named{}, false, fmt.Errorf("%s_OLD and %s_NEW are the same; there is nothing to re-encrypt", env, env)
	}
	t := named{env: env, task: task{old: old, new: new, columns: platform.Columns(env)}}
	layout := t.columns[0].Layout
	for suffix, v := range map[string]key.Value{"_OLD": old, "_NEW": new} {
		if _, err := envelope.Secret(layout, v); err != nil {
			return named{}, false, fmt.Errorf("%s%s: %w", env, suffix, err)
		}
	}
	otherEnv := platform.BetterAuth
	if env == platform.BetterAuth {
		otherEnv = platform.MasterKey
	}
	otherLayout := platform.Columns(otherEnv)[0].Layout
	for _, suffix := range []string{"", "_OLD", "_NEW"} {
		v := values[otherEnv+suffix]
		if v.Empty() {
			continue
		}
		if _, err := envelope.Secret(otherLayout, v); err != nil {
			return named{}, false, fmt.Errorf("%s%s: %w", otherEnv, suffix, err)
		}
		t.others = append(t.others, other{otherLayout, v})
	}
	name, err := handName(env, old, new)
	t.name = name
	return t, true, err
}

// handName names the job of a pair of keys, the same for each run, so that a run finds what an earlier one left. It
// goes through the full derivation: a secret that somebody thought up must not become cheaper to guess.
func handName(env string, old, new key.Value) (string, error) {
	sum, err := pbkdf2.Key([]byte(old.Reveal()+"\x00"+new.Reveal()), []byte("hyvve re-encryption job of "+env), envelope.Iterations)
	if err != nil {
		return "", err
	}
	return "by hand/" + hex.EncodeToString(sum[:8]), nil
}

// runner carries a run out and says how it goes.
type runner struct {
	settings
	out, err io.Writer
}

type result struct {
	Key     string                  `json:"key"`
	What    string                  `json:"what"`
	Columns []workload.ColumnReport `json:"columns"`
}

func (r runner) run(ctx context.Context, in input) error {
	var results []result
	works := make([]*work, len(in.tasks))
	for i, t := range in.tasks {
		o := r.options
		if !r.json {
			o.Progress = func(c workload.ColumnReport) {
				_, _ = fmt.Fprintf(r.err, "  %s %s: %d rows read\n", t.env, c.Column, c.Total)
			}
		}
		o.BadRow = func(c key.Column, id string) {
			_, _ = fmt.Fprintf(r.err, "  %s: row %s opens under no key that was given\n", c, id)
		}
		j, err := NewWorker(in.databaseURL, o).open(ctx, t.task)
		if err != nil {
			return fmt.Errorf("%s: %w", t.env, err)
		}
		defer j.close()
		works[i] = &work{env: t.env, job: j}
	}
	// All keys are staged before the first is flipped: what would abort the run is found before any row is changed.
	for _, w := range works {
		if r.dryRun || r.wipe || r.revert {
			break
		}
		if err := r.stage(ctx, w.job); err != nil {
			return fmt.Errorf("%s: %w", w.env, err)
		}
	}
	for _, w := range works {
		done, err := r.one(ctx, w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.env, err)
		}
		results = append(results, done)
		if !r.json {
			r.print(done)
		}
	}
	if r.json {
		return json.NewEncoder(r.out).Encode(map[string]any{"results": results})
	}
	if !r.dryRun && !r.revert && !r.wipe {
		_, _ = fmt.Fprintln(r.out, "Old ciphertexts are kept in schema hyvve_reencrypt. With the same environment: --revert goes back, --wipe drops them.")
	}
	return nil
}

// work is the job of one key.
type work struct {
	env string
	*job
}

func (r runner) one(ctx context.Context, w *work) (result, error) {
	var err error
	done, j := result{Key: w.env}, w.job
	switch {
	case r.dryRun:
		done.What = "counted"
		if err = j.probe(ctx); err == nil {
			done.Columns, err = j.countAll(ctx, j.ring, false)
		}
	case r.wipe:
		done.What = "wiped"
		done.Columns, err = j.phase(ctx, workload.PhaseWipe)
	case r.revert:
		done.What = "reverted"
		done.Columns, err = j.phase(ctx, workload.PhaseRevert)
	default:
		done.What = "re-encrypted"
		done.Columns, err = j.phase(ctx, workload.PhaseFlip)
	}
	if err != nil {
		return done, err
	}
	left, unreadable := (workload.WorkReport{Columns: done.Columns}).Left()
	switch {
	case r.dryRun:
	case left > 0:
		return done, fmt.Errorf("%d rows are left; run it again", left)
	case unreadable > 0 && !r.options.SkipBad:
		return done, fmt.Errorf("%d rows (listed above) open under no key that was given; all others are %s", unreadable, done.What)
	}
	return done, nil
}

func (r runner) stage(ctx context.Context, j *job) error {
	staged, err := j.phase(ctx, workload.PhaseStage)
	if err != nil {
		return err
	}
	if _, unreadable := (workload.WorkReport{Columns: staged}).Left(); unreadable > 0 && !r.options.SkipBad {
		return fmt.Errorf("%d rows (listed above) open under no key that was given; no row was changed. If they are legacy rows, give their key (BETTER_AUTH_SECRET); if they are damaged, mend or delete them, or use --on-bad-row=skip", unreadable)
	}
	return nil
}

func (r runner) print(done result) {
	_, _ = fmt.Fprintf(r.out, "%s: %s\n", done.Key, done.What)
	for _, c := range done.Columns {
		line := fmt.Sprintf("  %-46s %6d rows: %d under the new key, %d under the old", c.Column, c.Total, c.Rotated, c.Left)
		if r.revert {
			line = fmt.Sprintf("  %-46s %6d rows: %d under the old key, %d under the new", c.Column, c.Total, c.Rotated, c.Left)
		}
		if c.Other > 0 {
			line += fmt.Sprintf(", %d under another (left as they are)", c.Other)
		}
		if c.Bad > 0 {
			line += fmt.Sprintf(", %d unreadable", c.Bad)
		}
		_, _ = fmt.Fprintln(r.out, line)
	}
}
