// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/guard"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Do does the work that the engine asks of an instance. accepts are those of its bundle: by environment name, the new
// value first, the old one second, then those of undeleted versions, which are old, too. The report counts rows; an error is what kept the work from being done, and holds no
// value. Doing work again that is done costs little and changes nothing.
func (w *Worker) Do(ctx context.Context, work workload.Work, accepts map[string][]key.Value) (report workload.WorkReport, err error) {
	report.ID = work.ID
	t, err := taskOf(work, accepts)
	if err != nil {
		return report, err
	}
	j, err := w.open(ctx, t)
	if err != nil {
		return report, err
	}
	defer j.close()
	if len(j.tables) > 0 {
		report.Place = &j.place
	}
	defer func() { j.asAsked(work.Columns, &report) }()
	switch work.Phase {
	case workload.PhaseCount: // nothing is rotated
		clear(w.rings)
		report.Columns, err = j.countRows(ctx)
		report.Done = err == nil
		return report, err
	case workload.PhaseCheck:
		report.Columns, err = j.countAll(ctx, j.ring, false)
		if err == nil {
			err = j.stayed(ctx)
		}
		report.Done = err == nil
		if left, bad := report.Left(); report.Done && left+bad == 0 {
			clear(w.rings)
		}
		return report, err
	case workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep, workload.PhaseRevert, workload.PhaseWipe:
	}
	var looked found
	report.Columns, looked, err = j.evident(ctx, work.Phase)
	report.Finds, report.Unseen = looked.Finds, looked.Unseen
	report.Done = err == nil
	return report, err
}

// asAsked names columns in a report as they were asked for: without the schema that the database URL has for those that name none.
func (j *job) asAsked(columns []key.Column, report *workload.WorkReport) {
	names := map[string]string{}
	for n, t := range j.tables {
		names[t.column.String()] = columns[n].String()
	}
	report.Columns = slices.Clone(report.Columns)
	for n, c := range report.Columns {
		report.Columns[n].Column = cmp.Or(names[c.Column], c.Column)
	}
	if report.Place != nil {
		place := *report.Place
		place.Tables = slices.Clone(place.Tables)
		for n, t := range place.Tables {
			place.Tables[n].Column = cmp.Or(names[t.Column], t.Column)
		}
		report.Place = &place
	}
}

// stayed refuses counts of rows where a further connection may have led to another database: an address may move meanwhile.
func (j *job) stayed(ctx context.Context) error {
	columns := make([]key.Column, 0, len(j.tables))
	for _, t := range j.tables {
		columns = append(columns, t.column)
	}
	_, now, err := describe(ctx, j.db, columns, j.options)
	if err != nil {
		return err
	}
	if how := now.Differs(j.place); how != "" {
		return fmt.Errorf("the database URL has led to two databases while rows were counted: %s; the count is made again", how)
	}
	return nil
}

// phase is evident without a look for envelopes elsewhere.
func (j *job) phase(ctx context.Context, phase workload.Phase) ([]workload.ColumnReport, error) {
	reports, _, err := j.run(ctx, phase, false)
	return reports, err
}

// evident does a phase, and looks for envelopes in places that nobody has configured where the phase is the first, or the
// one before the old key goes.
func (j *job) evident(ctx context.Context, phase workload.Phase) ([]workload.ColumnReport, found, error) {
	return j.run(ctx, phase, phase == workload.PhaseStage || phase == workload.PhaseSweep)
}

func (j *job) run(ctx context.Context, phase workload.Phase, look bool) (reports []workload.ColumnReport, looked found, err error) {
	if phase == workload.PhaseWipe {
		return nil, looked, j.wipe(ctx)
	}
	do := map[workload.Phase]func(context.Context) ([]workload.ColumnReport, error){
		workload.PhaseStage: j.stage, workload.PhaseFlip: j.replace, workload.PhaseSweep: j.sweep, workload.PhaseRevert: j.revert,
	}[phase]
	if do == nil {
		return nil, looked, fmt.Errorf("phase %q is not known to this release of the sidecar; update it", phase)
	}
	if phase == workload.PhaseStage {
		if err := j.probe(ctx); err != nil {
			return nil, looked, err
		}
	}
	if j.options.InPlace { // by hand, alone, and without a trace
		reports, err = do(ctx)
		return reports, looked, err
	}
	if err := j.prepare(ctx); err != nil {
		return nil, looked, err
	}
	if phase == workload.PhaseStage {
		if err := j.awaitRoom(ctx); err != nil {
			return nil, looked, err
		}
	}
	ctx, end, err := j.keep(ctx)
	if err != nil {
		return nil, looked, err
	}
	defer end()
	if phase == workload.PhaseStage { // which workers share
		reports, err = do(ctx)
	}
	if err == nil && (phase != workload.PhaseStage || look) {
		err = j.claim(ctx)
	}
	if err == nil && phase != workload.PhaseStage {
		reports, err = do(ctx)
	}
	if err == nil && look {
		looked, err = j.discoverFor(ctx, phase)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return reports, looked, err
}

func taskOf(work workload.Work, accepts map[string][]key.Value) (task, error) {
	t := task{name: work.Rotation + "/" + work.Key, columns: work.Columns}
	if work.Phase != workload.PhaseStage {
		t.rank = work.Rank()
	}
	if work.Phase == workload.PhaseWipe || work.Phase == workload.PhaseCount {
		t.count = work.Phase == workload.PhaseCount
		return t, nil
	}
	values := accepts[work.Env]
	switch {
	case work.Phase == workload.PhaseCheck && len(values) >= 1: // with the one that stays
		t.new, t.older = values[0], values[1:]
	case len(values) < 2:
		return t, fmt.Errorf("the bundle has %d values of %s; re-encryption needs the new and the old one", len(values), work.Env)
	default:
		t.new, t.old, t.older, t.upgrade = values[0], values[1], values[2:], work.Upgrade
	}
	for _, o := range work.Others {
		for _, v := range accepts[o.Env] {
			t.others = append(t.others, other{o.Layout, v})
		}
	}
	return t, nil
}

// meter shows how far a run is: on a terminal by a bar that is drawn over, elsewhere by a line every few seconds.
type meter struct {
	out      io.Writer // nil: nothing is shown
	terminal bool
	env      string
	totals   map[string]int // rows by column
	phase    *guard.Guarded[phase]
}

// phase is how far one is.
type phase struct {
	what  string
	begun time.Time
	shown time.Time
	done  map[string]int // rows by column, in this phase
	drawn bool           // there is a bar on the line
}

const (
	plainRate = 5 * time.Second // between two lines
	barWidth  = 24
)

func newMeter(out io.Writer, env string) *meter {
	file, ok := out.(*os.File)
	m := &meter{out: out, env: env, totals: map[string]int{}, phase: guard.New(&phase{})}
	if ok {
		info, err := file.Stat()
		m.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return m
}

// begin starts a phase.
func (m *meter) begin(what string) {
	p, unlock := m.phase.Lock()
	defer unlock()
	p.what, p.begun, p.shown, p.done = what, time.Now(), time.Now(), map[string]int{}
}

// staging takes how far a column is that is being staged.
func (m *meter) staging(c workload.ColumnReport) { m.take(c, c.Staged+c.Rotated+c.Other+c.Bad) }

// passing takes how many rows of a column have been looked at.
func (m *meter) passing(c workload.ColumnReport) { m.take(c, c.Total) }

func (m *meter) take(c workload.ColumnReport, done int) {
	p, unlock := m.phase.Lock()
	defer unlock()
	p.done[c.Column] = done
	if m.out == nil || !m.terminal && time.Since(p.shown) < plainRate {
		return
	}
	p.shown = time.Now()
	if m.terminal {
		_, _ = fmt.Fprintf(m.out, "\r\x1b[K%s", p.text(m, true))
		p.drawn = true
		return
	}
	_, _ = fmt.Fprintln(m.out, p.text(m, false))
}

// end leaves the line to others.
func (m *meter) end() {
	p, unlock := m.phase.Lock()
	defer unlock()
	if p.drawn {
		_, _ = fmt.Fprint(m.out, "\r\x1b[K")
		p.drawn = false
	}
}

// text says how many rows of how many are done, how fast that goes, and how long it will take.
func (p *phase) text(m *meter, bar bool) string {
	done, total := 0, 0
	for _, n := range p.done {
		done += n
	}
	for _, n := range m.totals {
		total += n
	}
	total = max(total, done)
	rate := float64(done) / max(time.Since(p.begun).Seconds(), 0.001)
	left := "?"
	if rate > 0 {
		left = time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second).String()
	}
	drawing := ""
	if bar {
		full := barWidth * done / max(total, 1)
		drawing = "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] "
	}
	return fmt.Sprintf("  %s: %s %s%d of %d rows, %.0f/s, %s left", m.env, p.what, drawing, done, total, rate, left)
}

const (
	maxRounds = 50 // of passes; each finds only what was written during the one before
	flipTries = 60
	flipPause = 100 * time.Millisecond

	// flipMemory is what the server may use to join staged rows with those in place: with its 4 MB by default a million rows
	// take twice as long, since they go through files.
	flipMemory = "64MB"
)

// flip puts all staged ciphertexts in the place of what they were made from (forward), or the kept ones back. It is one
// transaction. A row that is not what it should be stays as it is.
func (j *job) flip(ctx context.Context, forward bool) error {
	for _, t := range j.tables { // without statistics the planner takes the staged rows for a few, and compares each with each
		if err := j.patiently(ctx, func(tx pgx.Tx) error {
			_, err := execOne(ctx, tx, "ANALYZE "+t.staged)
			return err
		}); err != nil {
			return fmt.Errorf("analyzing the staged rows: %w", err)
		}
	}
	var begun time.Time
	var rows int64
	err := j.patiently(ctx, func(tx pgx.Tx) error {
		begun, rows = time.Now(), 0
		if _, err := execOne(ctx, tx, "SET LOCAL work_mem = '"+flipMemory+"'"); err != nil {
			return err
		}
		for _, t := range j.tables {
			done, err := execOne(ctx, tx, flipStatement(t, forward))
			if err != nil {
				return fmt.Errorf("replacing rows of %s: %w", t.column, err)
			}
			rows += done.RowsAffected()
		}
		return nil
	})
	if err == nil && j.options.Flipped != nil {
		j.options.Flipped(rows, time.Since(begun))
	}
	return err
}

func flipStatement(t table, forward bool) string {
	was, becomes := "s.old", "s.new"
	if !forward {
		was, becomes = becomes, was
	}
	return fmt.Sprintf("UPDATE %s t SET %s FROM %s s WHERE %s AND %s = %s", t.name(), t.sets(becomes), t.staged, t.joins(), t.value(), was)
}

// patiently runs a transaction again while somebody holds a row for longer than we like to wait with all others locked.
func (j *job) patiently(ctx context.Context, do func(tx pgx.Tx) error) (err error) {
	for range flipTries {
		if err = j.db.tx(ctx, do); err == nil || !again(err) {
			return err
		}
		if err := backoff.Wait(ctx, flipPause); err != nil {
			return err
		}
	}
	return fmt.Errorf("rows stay locked by other transactions: %w", err)
}

// replace flips what is staged, and goes over all columns until no row is left under the old key: every envelope has opened
// under the new one then. Unreadable rows are counted and keep no other row from being replaced: with the flip begun, rows
// under the old key help nobody.
func (j *job) replace(ctx context.Context) ([]workload.ColumnReport, error) {
	if !j.options.InPlace {
		if err := j.flip(ctx, true); err != nil {
			return nil, err
		}
	}
	return j.settle(ctx, j.ring)
}

// sweep finds and replaces what somebody has written under the old key since. Rows that hold what we have put there have
// been opened by then and are only counted, so that it may be done again and again.
func (j *job) sweep(ctx context.Context) ([]workload.ColumnReport, error) {
	if j.options.InPlace {
		return j.settle(ctx, j.ring)
	}
	return j.settleIn(ctx, func(ctx context.Context, t table) (counts, error) { return j.passStrays(ctx, t) })
}

// settle replaces rows where they are, until none is left.
func (j *job) settle(ctx context.Context, r func(table) *ring) ([]workload.ColumnReport, error) {
	return j.settleIn(ctx, func(ctx context.Context, t table) (counts, error) { return j.pass(ctx, t, r(t), j.page, true) })
}

func (j *job) settleIn(ctx context.Context, pass func(context.Context, table) (counts, error)) ([]workload.ColumnReport, error) {
	for range maxRounds {
		reports, err := j.countIn(ctx, pass)
		if err != nil {
			return reports, err
		}
		if left, _ := (workload.WorkReport{Columns: reports}).Left(); left == 0 {
			return reports, nil
		}
	}
	return nil, fmt.Errorf("rows under the old key keep appearing: after %d rounds some are left; which process still writes with the old key?", maxRounds)
}

// revert puts the kept ciphertexts back, and brings rows that were written since under the new key to the old one.
func (j *job) revert(ctx context.Context) ([]workload.ColumnReport, error) {
	if !j.options.InPlace {
		if err := j.flip(ctx, false); err != nil {
			return nil, err
		}
	}
	back := map[key.Layout]*ring{}
	for layout, r := range j.rings {
		back[layout] = r.reversed()
	}
	return j.settle(ctx, func(t table) *ring { return back[t.column.Layout] })
}
