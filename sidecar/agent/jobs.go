// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/guard"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

const progressRate = time.Second // between two reports on how far work is

// jobRetry is the wait before a sweep, or work that failed, is done again.
var jobRetry = backoff.Backoff{First: 2 * time.Second, Limit: time.Minute}

var errNoBlock = errors.New("the engine asks for re-encryption, but this sidecar has no reencrypt block; add one with the database's URL, or set reencrypts=false on the workload")

// jobs does the re-encryption that bundles ask for, one piece after the other, in a goroutine of its own.
type jobs struct {
	worker func(values map[string]key.Value) (Reencryptor, error) // for one piece of work, given what the bundle says to present; nil: none is configured
	mask   func(text string) string                               // masks errors
	news   chan struct{}                                          // there is something to report

	tasks *guard.Guarded[tasks]
}

// tasks is what bundles ask for, and what has come of it.
type tasks struct {
	values   map[string]key.Value // of the bundle
	asked    []workload.Work
	accepts  map[string][]key.Value
	known    map[string]workload.WorkReport // by Work.ID
	running  string                         // Work.ID under way
	since    time.Time                      // when it was begun
	before   int                            // rows that were done already when the first news of it came; -1: none came yet
	told     time.Time                      // of the last news on progress
	cancel   context.CancelFunc
	finished chan struct{}
}

func newJobs(worker func(values map[string]key.Value) (Reencryptor, error), mask func(text string) string) *jobs {
	return &jobs{worker: worker, mask: mask, news: make(chan struct{}, 1), tasks: guard.New(&tasks{known: map[string]workload.WorkReport{}})}
}

// want takes what the bundle asks for. Work that is asked no more is given up; work that is asked still continues.
func (j *jobs) want(b client.Bundle) {
	asked := b.Work
	if j.worker == nil { // nobody waits for a count, so that it fails nothing
		asked = slices.DeleteFunc(slices.Clone(asked), func(w workload.Work) bool { return w.Phase == workload.PhaseCount })
	}
	id := func(w workload.Work) string { return w.ID }
	same := false
	j.tasks.Do(func(t *tasks) { t.values, same = b.Values, slices.Equal(ids(t.asked, id), ids(asked, id)) })
	if same {
		return
	}
	j.halt()
	t, unlock := j.tasks.Lock()
	defer unlock()
	t.asked, t.accepts = asked, b.Accepts
	maps.DeleteFunc(t.known, func(known string, _ workload.WorkReport) bool {
		return !slices.Contains(ids(t.asked, id), known)
	})
	if len(t.asked) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel, t.finished = cancel, make(chan struct{})
	go j.run(ctx, slices.Clone(t.asked), t.accepts, t.finished)
}

func ids(list []workload.Work, id func(workload.Work) string) []string {
	all := make([]string, 0, len(list))
	for _, w := range list {
		all = append(all, id(w))
	}
	return all
}

// halt ends the goroutine, and waits for that.
func (j *jobs) halt() {
	t, unlock := j.tasks.Lock()
	cancel, finished := t.cancel, t.finished
	t.cancel = nil
	unlock()
	if cancel != nil {
		cancel()
		<-finished
	}
}

func (j *jobs) stop() {
	j.halt()
	j.tasks.Do(func(t *tasks) { t.asked = nil })
}

// run does all work, and again what failed or is a sweep, until it is asked no more.
func (j *jobs) run(ctx context.Context, asked []workload.Work, accepts map[string][]key.Value, finished chan struct{}) {
	defer close(finished)
	failures := 0
	for {
		again, failed := false, false
		for _, w := range asked {
			if ctx.Err() != nil {
				return
			}
			if j.satisfied(w) {
				continue
			}
			report := workload.WorkReport{ID: w.ID}
			worker, err := j.makeWorker()
			if err == nil {
				j.begin(w.ID)
				report, err = worker.Do(ctx, w, accepts)
			}
			if ctx.Err() != nil {
				return
			}
			report.ID = w.ID
			if err != nil {
				report.Done, report.Error = false, j.mask(err.Error())
				failed = true
			}
			j.note(report)
			again = true
		}
		if !again {
			return
		}
		if failures++; !failed {
			failures = 0
		}
		if backoff.Wait(ctx, jobRetry.After(failures)) != nil {
			return
		}
	}
}

// makeWorker returns one that knows the database's URL of now.
func (j *jobs) makeWorker() (Reencryptor, error) {
	if j.worker == nil {
		return nil, errNoBlock
	}
	t, unlock := j.tasks.Lock()
	values := t.values
	unlock()
	return j.worker(values)
}

// satisfied reports whether work need not be done again. A sweep is done for as long as it is asked.
func (j *jobs) satisfied(w workload.Work) bool {
	t, unlock := j.tasks.Lock()
	defer unlock()
	report, ok := t.known[w.ID]
	if !ok || !report.Done || w.Phase == workload.PhaseSweep {
		return false
	}
	left, bad := report.Left()
	return w.Phase == workload.PhaseCount || w.Phase == workload.PhaseStage && bad == 0 || left+bad == 0
}

func (j *jobs) begin(id string) {
	j.tasks.Do(func(t *tasks) { t.running, t.since, t.before = id, time.Now(), -1 })
}

// note keeps a result, and tells if it is news.
func (j *jobs) note(report workload.WorkReport) {
	t, unlock := j.tasks.Lock()
	before, had := t.known[report.ID]
	t.known[report.ID] = report
	t.running = ""
	unlock()
	same := had && before.Done == report.Done && before.Error == report.Error && slices.Equal(before.Columns, report.Columns) && samePlace(before.Place, report.Place)
	if !same {
		j.tell()
	}
}

// samePlace reports whether two reports are about the same database, and say so in the same words.
func samePlace(a, b *workload.Place) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}

// progress keeps how far a column is, and logs it periodically.
func (j *jobs) progress(column workload.ColumnReport) {
	due := false
	j.tasks.Do(func(t *tasks) { due = t.progress(column) })
	if due {
		j.tell()
	}
}

// progress reports whether that is news for Vault.
func (t *tasks) progress(column workload.ColumnReport) (due bool) {
	report := t.known[t.running]
	if t.running == "" || report.Done {
		return false
	}
	report.ID = t.running
	report.Error = ""
	report.Columns = slices.Clone(report.Columns)
	at := slices.IndexFunc(report.Columns, func(c workload.ColumnReport) bool { return c.Column == column.Column })
	if at < 0 {
		report.Columns = append(report.Columns, column)
	} else {
		report.Columns[at] = column
	}
	report.Rate = t.rate(report)
	t.known[t.running] = report
	if due = time.Since(t.told) >= progressRate; due {
		t.told = time.Now()
	}
	return due
}

// rate is rows a second since the work was begun.
func (t *tasks) rate(report workload.WorkReport) float64 {
	done := 0
	for _, c := range report.Columns {
		done += c.Staged + c.Rotated + c.Other + c.Bad
	}
	if t.before < 0 {
		t.before, t.since = done, time.Now()
		return 0
	}
	return float64(done-t.before) / max(time.Since(t.since).Seconds(), 0.001)
}

func (j *jobs) tell() {
	select {
	case j.news <- struct{}{}:
	default:
	}
}

// reports returns what is known of the work that is asked.
func (j *jobs) reports() []workload.WorkReport {
	t, unlock := j.tasks.Lock()
	defer unlock()
	var all []workload.WorkReport
	for _, id := range slices.Sorted(maps.Keys(t.known)) {
		all = append(all, t.known[id])
	}
	return all
}

// databaseURL is where the rows are now: the URL may be a key that rotates too.
func databaseURL(r config.ReencryptBlock, values map[string]key.Value) (key.Value, error) {
	switch {
	case r.DatabaseURLKey != "":
		if url, ok := values[r.DatabaseURLKey]; ok {
			return url, nil
		}
		return key.Value{}, fmt.Errorf("reencrypt: database_url_key: the bundle has no value of %s; let the workload present its key", r.DatabaseURLKey)
	case r.DatabaseURLFile != "":
		data, err := external.ReadCredentialFile(r.DatabaseURLFile)
		if err != nil {
			return key.Value{}, fmt.Errorf("reencrypt: database_url_file: %w", err)
		}
		if url := strings.TrimSpace(string(data)); url != "" {
			return key.NewValue(url), nil
		}
		return key.Value{}, fmt.Errorf("reencrypt: database_url_file: %s is empty", r.DatabaseURLFile)
	}
	if url := os.Getenv(r.DatabaseURLEnv); url != "" {
		return key.NewValue(url), nil
	}
	return key.Value{}, fmt.Errorf("reencrypt: database_url_env: the environment has no %s", r.DatabaseURLEnv)
}
