// SPDX-License-Identifier: Apache-2.0

// Package reencrypt brings the envelopes of PostgreSQL columns from one key to another without a row lost.
//
// New ciphertexts are staged beside the rows in a side schema, by any number of workers together, while the application
// notices nothing; one transaction then puts them in place, each only where the row still is what it was when its copy was
// made. What changed meanwhile is done again, until every row has opened under the new key. The old ciphertexts are kept
// until they are wiped, so that the way back is such a transaction too. Every step may be killed anywhere and run again.
package reencrypt

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

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
	works := make([]*work, len(in.tasks))
	for i, t := range in.tasks {
		w, err := r.open(ctx, in.databaseURL, t)
		if err != nil {
			return in.blame(t.env, err)
		}
		defer w.close()
		works[i] = w
	}
	if column := r.options.TouchColumn; column != "" && !slices.ContainsFunc(works, (*work).touches) {
		return fmt.Errorf("--touch-column=%s: no table that is re-encrypted has that column, and no row was changed; write its name as it is there, or leave it out", column)
	}
	// All keys are staged before the first is flipped: what would abort the run is found before any row is changed.
	for _, w := range works {
		if r.dryRun || r.wipe || r.revert {
			break
		}
		if err := r.stage(ctx, w); err != nil {
			return in.blame(w.env, err)
		}
	}
	var results []result
	for _, w := range works {
		done, err := r.one(ctx, w)
		w.meter.end()
		if err != nil {
			return in.blame(w.env, err)
		}
		results = append(results, done)
		if !r.json {
			r.print(done)
		}
	}
	switch {
	case r.json:
		return json.NewEncoder(r.out).Encode(map[string]any{"results": results})
	case r.dryRun || r.revert || r.wipe:
	case r.options.InPlace:
		_, _ = fmt.Fprintln(r.out, "No old ciphertext is kept. To go back, run it with the values of _OLD and _NEW changed over.")
	default:
		_, _ = fmt.Fprintln(r.out, "Old ciphertexts are kept in schema hyvve_reencrypt. With the same environment: --revert goes back, --wipe drops them.")
	}
	return nil
}

// work is the job of one key.
type work struct {
	env string
	*job
	meter *meter
}

func (r runner) open(ctx context.Context, databaseURL string, t named) (*work, error) {
	var out io.Writer
	if !r.json {
		out = r.err
	}
	m := newMeter(out, t.env)
	o := r.options
	o.BadRow = func(c key.Column, id string) {
		m.end()
		_, _ = fmt.Fprintf(r.err, "  %s: row %s opens under no key that was given\n", c, id)
	}
	o.Flipped = func(rows int64, took time.Duration) {
		said := fmt.Sprintf("%d staged ciphertexts are in place, by one transaction of %v", rows, duration.Text(took.Round(time.Millisecond)))
		switch {
		case r.revert && rows == 0:
			said = "no old ciphertext is kept; whatever is under the new key is encrypted again, row by row"
		case r.revert:
			said = fmt.Sprintf("%d kept ciphertexts are back, by one transaction of %v", rows, duration.Text(took.Round(time.Millisecond)))
		}
		if m.end(); !r.json {
			_, _ = fmt.Fprintf(r.err, "  %s: %s\n", t.env, said)
		}
	}
	j, err := NewWorker(databaseURL, o).open(ctx, t.task)
	if err != nil {
		return nil, err
	}
	totals, err := j.totals(ctx)
	if err != nil {
		j.close()
		return nil, err
	}
	for n, t := range j.tables {
		m.totals[t.column.String()] = totals[n]
	}
	return &work{env: t.env, job: j, meter: m}, nil
}

// touches reports whether a table has the column that is to be touched.
func (w *work) touches() bool {
	return slices.ContainsFunc(w.tables, func(t table) bool { return t.touch != "" })
}

// show begins a phase on the meter.
func (w *work) show(what string, take func(workload.ColumnReport)) {
	w.meter.begin(what)
	w.options.Progress = take
}

func (r runner) one(ctx context.Context, w *work) (result, error) {
	var err error
	done, j := result{Key: w.env}, w.job
	switch {
	case r.dryRun:
		done.What = "counted"
		w.show("counting", w.meter.passing)
		if err = j.probe(ctx); err == nil {
			done.Columns, err = j.countAll(ctx, j.ring, false)
		}
	case r.wipe:
		done.What = "wiped"
		done.Columns, err = j.phase(ctx, workload.PhaseWipe)
	case r.revert:
		done.What = "reverted"
		w.show("going back", w.meter.passing)
		done.Columns, err = j.phase(ctx, workload.PhaseRevert)
	default:
		done.What = "re-encrypted"
		w.show("verifying", w.meter.passing)
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
	case unreadable > 0 && !r.skipBad:
		return done, fmt.Errorf("%d rows (listed above) open under no key that was given; all others are %s", unreadable, done.What)
	}
	return done, nil
}

func (r runner) stage(ctx context.Context, w *work) error {
	w.show("staging", w.meter.staging)
	if r.options.InPlace {
		w.show("looking at", w.meter.passing)
	}
	staged, err := w.phase(ctx, workload.PhaseStage)
	w.meter.end()
	if err != nil {
		return err
	}
	if _, unreadable := (workload.WorkReport{Columns: staged}).Left(); unreadable > 0 && !r.skipBad {
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

// Options of a run; the zero value is what an agent uses.
type Options struct {
	BatchSize      int                         // rows read, staged and replaced at a time; default 500
	Sessions       int                         // of staging, at the same time; default one a core, four at most
	SaltPerRow     bool                        // a salt for each new envelope instead of one for a block of rows
	InPlace        bool                        // replace rows batch by batch, without side schema: for applications that hold both keys
	RowsPerSecond  int                         // at most; 0: no bound
	MaxLoad        time.Duration               // rest while a batch's transactions take longer, or a replica lags more; 0: never
	ClaimFor       time.Duration               // after that a worker that has died is replaced; default 15 s
	TouchColumn    string                      // a column of the time of a row's last change, which is set, too; empty: it stays as it is
	AllowTriggers  []string                    // names of triggers that may be set off
	AllowSuperuser bool                        // the URL's role may be one
	SampleBytes    int64                       // of a table that is larger, so much is looked at for envelopes that nobody has configured, before the whole is; default 256 MB
	Progress       func(workload.ColumnReport) // called periodically
	BadRow         func(column key.Column, id string)
	Flipped        func(rows int64, took time.Duration) // called when the staged or kept ciphertexts of so many rows are in place: for so long rows were locked
	Random         io.Reader
}

const (
	defaultBatch = 500
	claimFor     = 15 * time.Second

	defaultSample = 256 << 20
	maxSessions   = 4
	progressRate  = time.Second / 2 // between two calls of Progress
)

type other struct {
	layout key.Layout
	value  key.Value
}

// Worker re-encrypts rows of one database. It remembers derived keys from one piece of work to the next, since the
// derivations are nearly all that work costs; the last check of a rotation forgets them. It does one piece of work at a time.
type Worker struct {
	databaseURL string
	options     Options
	rings       map[ringName]*envelope.Keyring
}

// NewWorker makes a worker; it connects when it has work.
func NewWorker(databaseURL string, o Options) *Worker {
	if o.BatchSize == 0 {
		o.BatchSize = defaultBatch
	}
	if o.ClaimFor == 0 {
		o.ClaimFor = claimFor
	}
	if o.Sessions == 0 {
		o.Sessions = min(runtime.GOMAXPROCS(0), maxSessions)
	}
	if o.SampleBytes == 0 {
		o.SampleBytes = defaultSample
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	return &Worker{databaseURL: databaseURL, options: o, rings: map[ringName]*envelope.Keyring{}}
}

// task says what a job is about.
type task struct {
	name     string
	old, new key.Value   // no old one: rows are only checked; neither: what is kept is wiped, or rows are counted
	older    []key.Value // of undeleted versions, under which rows of a backup may be: they are brought under the new one, too
	others   []other
	upgrade  bool // bring rows of others under the new key
	count    bool // only count rows, without any key
	rank     int  // see job
	columns  []key.Column
}

// job is one key's re-encryption in one database.
type job struct {
	name     string
	id       int // in the side schema
	holder   string
	rank     int         // of the work, as workload.Work.Rank orders it; 0: by hand, or it writes to no row
	claimed  atomic.Bool // by this worker
	db       *session
	tables   []table
	place    workload.Place // when the work began
	rings    map[key.Layout]*ring
	options  Options
	throttle *throttle

	mu   sync.Mutex
	told time.Time // when Progress was called
}

// open connects and looks the columns up. It changes nothing.
func (w *Worker) open(ctx context.Context, t task) (*job, error) {
	if !t.old.Empty() && t.old.Equal(t.new) {
		return nil, errors.New("the old and the new key are the same; there is nothing to re-encrypt")
	}
	j := &job{
		name: t.name, rank: t.rank, options: w.options, rings: map[key.Layout]*ring{},
		throttle: &throttle{perSecond: w.options.RowsPerSecond, maxLoad: w.options.MaxLoad},
	}
	keyless := t.old.Empty() && t.new.Empty()
	for _, c := range t.columns {
		if err := c.Validate(); err != nil {
			return nil, err
		}
		if _, ok := j.rings[c.Layout]; ok || keyless {
			continue
		}
		r, err := w.ringOf(c.Layout, t)
		if err != nil {
			return nil, err
		}
		j.rings[c.Layout] = r
	}
	var suffix [4]byte
	if _, err := rand.Read(suffix[:]); err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	j.holder = fmt.Sprintf("%s/%d/%s", host, os.Getpid(), hex.EncodeToString(suffix[:]))
	var err error
	if j.db, err = connect(ctx, w.databaseURL); err != nil {
		return nil, err
	}
	if !w.options.AllowSuperuser {
		if err := refuseSuperuser(ctx, j.db); err != nil {
			j.close()
			return nil, err
		}
	}
	if keyless && !t.count { // all that is asked is to wipe
		return j, nil
	}
	if j.tables, j.place, err = describe(ctx, j.db, t.columns, w.options); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

func (j *job) close() { j.db.close() }

func (j *job) ring(t table) *ring { return j.rings[t.column.Layout] }

// due reports whether it is time to tell how far the work is, and takes it that this is done.
func (j *job) due() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if time.Since(j.told) < progressRate {
		return false
	}
	j.told = time.Now()
	return true
}

const help = `Usage: hyvve-sidecar reencrypt [flags]
       hyvve-sidecar reencrypt discover [flags]

Re-encrypts the platform's envelopes in PostgreSQL from an old key to a new one. New ciphertexts are staged beside the
rows, then put in place in one transaction; a run that was interrupted is resumed by the same command. The old
ciphertexts are kept until --wipe, so that --revert takes seconds.

Environment (each may be given as a file instead, by NAME_FILE, or as PATH#FIELD in Vault, by NAME_VAULT):
  DATABASE_URL                                   PostgreSQL, with or without a pooler; Prisma's parameters are understood
  ENCRYPTION_MASTER_KEY_OLD, _NEW                ai_provider_configs, mcp_server_configs, integration_connections
  BETTER_AUTH_SECRET_OLD, _NEW                   users.two_factor_secret, and legacy rows of mcp_server_configs
  BETTER_AUTH_SECRET, ENCRYPTION_MASTER_KEY      the key that does not change, so that its rows are recognised
At least one pair of _OLD and _NEW is needed.

Exit status: 0 done, 1 failed (nothing half done: run it again), 2 wrong usage.
`

// settings are what the command line says.
type settings struct {
	dryRun, revert, wipe, json, upgrade bool
	skipBad                             bool // flip although some rows open under no key; they stay as they are
	options                             Options
}

// NewCommand returns "hyvve-sidecar reencrypt".
func NewCommand(getenv func(string) string) *cobra.Command {
	var s settings
	var onBad string
	cmd := usage.New("hyvve-sidecar reencrypt", "re-encrypt the platform's envelopes in PostgreSQL, by hand", help, func(cmd *cobra.Command, _ []string) error {
		s.skipBad = onBad == "skip"
		problem := s.check(onBad)
		var in input
		if problem == nil {
			in, problem = readInput(cmd.Context(), getenv, s.upgrade)
		}
		if problem != nil {
			return needs(cmd, problem, " Nothing was changed.")
		}
		r := runner{settings: s, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr()}
		return r.run(cmd.Context(), in)
	})
	s.define(cmd.Flags(), &onBad)
	cmd.AddCommand(newDiscover(getenv))
	return cmd
}

// needs returns the error of a command that lacks something.
func needs(cmd *cobra.Command, problem error, rest string) error {
	return usage.Exit{Status: 2, Err: fmt.Errorf("%w\nRun \"%s --help\" for what it needs.%s", problem, cmd.CommandPath(), rest)}
}

func (s *settings) define(flags *pflag.FlagSet, onBad *string) {
	flags.BoolVar(&s.dryRun, "dry-run", false, "count the rows under each key and change nothing")
	flags.IntVar(&s.options.BatchSize, "batch-size", defaultBatch, "rows read and staged at a time, `N` from 1 to 10000")
	flags.BoolVar(&s.revert, "revert", false, "go back to the old key, with the same environment")
	flags.BoolVar(&s.wipe, "wipe", false, "drop the kept ciphertexts of the old key, with the same environment; a revert after that encrypts every row again")
	flags.BoolVar(&s.json, "json", false, "print the result as JSON")
	flags.BoolVar(&s.options.SaltPerRow, "salt-per-row", false, "draw a salt for each new envelope, which makes every later run slow")
	flags.BoolVar(&s.options.InPlace, "in-place", false, "replace rows batch by batch, without side schema and revert of its own: where applications hold both keys")
	flags.BoolVar(&s.upgrade, "upgrade-legacy", false, "bring rows of older releases, under BETTER_AUTH_SECRET, to the master key and its layout")
	flags.IntVar(&s.options.RowsPerSecond, "rows-per-second", 0, "work on no more than `N` rows a second; 0: as fast as it goes")
	flags.DurationVar(&s.options.MaxLoad, "max-load", 0, "rest while a batch's transactions take longer than that `DURATION`, or a replica lags behind so much; 0: never")
	flags.Func("allow-trigger", "the trigger of that `NAME` may be set off; may be given again", func(name string) error {
		s.options.AllowTriggers = append(s.options.AllowTriggers, name)
		return nil
	})
	flags.BoolVar(&s.options.AllowSuperuser, "allow-superuser", false, "let the role of DATABASE_URL be a superuser, as whom code of the database's own could do anything")
	flags.StringVar(&s.options.TouchColumn, "touch-column", "", "set the column of that `NAME`, such as updated_at, to the time of the change, in tables that have it")
	flags.StringVar(onBad, "on-bad-row", "abort", "what a row that no key opens does: `abort` before anything is changed, or skip it")
}

func (s settings) check(onBad string) error {
	switch {
	case s.options.BatchSize < 1 || s.options.BatchSize > 10_000:
		return fmt.Errorf("--batch-size=%d is not from 1 to 10000", s.options.BatchSize)
	case onBad != "abort" && onBad != "skip":
		return fmt.Errorf("--on-bad-row=%s is not known; use abort or skip", onBad)
	case s.options.RowsPerSecond < 0:
		return fmt.Errorf("--rows-per-second=%d is negative; 0 is no bound", s.options.RowsPerSecond)
	case s.options.MaxLoad < 0:
		return fmt.Errorf("--max-load=%v is negative; 0 is no bound", s.options.MaxLoad)
	case s.options.InPlace && (s.revert || s.wipe):
		return fmt.Errorf("--in-place keeps nothing that could be reverted or wiped; to go back, run it with the values of _OLD and _NEW changed over")
	case s.revert && s.wipe:
		return fmt.Errorf("--revert and --wipe exclude each other")
	case s.dryRun && (s.revert || s.wipe):
		return fmt.Errorf("--dry-run counts rows; it goes neither with --revert nor with --wipe")
	}
	return nil
}
