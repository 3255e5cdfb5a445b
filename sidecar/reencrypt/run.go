// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
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
		said := fmt.Sprintf("%d staged ciphertexts are in place, by one transaction of %v", rows, took.Round(time.Millisecond))
		switch {
		case r.revert && rows == 0:
			said = "no old ciphertext is kept; whatever is under the new key is encrypted again, row by row"
		case r.revert:
			said = fmt.Sprintf("%d kept ciphertexts are back, by one transaction of %v", rows, took.Round(time.Millisecond))
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
