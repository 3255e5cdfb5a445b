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
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
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

	mu       sync.Mutex
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
	return &jobs{worker: worker, mask: mask, news: make(chan struct{}, 1), known: map[string]workload.WorkReport{}}
}

// want takes what the bundle asks for. Work that is asked no more is given up; work that is asked still continues.
func (j *jobs) want(b client.Bundle) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.values = b.Values
	asked := b.Work
	if j.worker == nil { // nobody waits for a count, so that it fails nothing
		asked = slices.DeleteFunc(slices.Clone(asked), func(w workload.Work) bool { return w.Phase == workload.PhaseCount })
	}
	id := func(w workload.Work) string { return w.ID }
	if slices.Equal(ids(j.asked, id), ids(asked, id)) {
		return
	}
	j.halt()
	j.asked, j.accepts = asked, b.Accepts
	maps.DeleteFunc(j.known, func(known string, _ workload.WorkReport) bool {
		return !slices.Contains(ids(j.asked, id), known)
	})
	if len(j.asked) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	j.cancel, j.finished = cancel, make(chan struct{})
	go j.run(ctx, slices.Clone(j.asked), j.accepts, j.finished)
}

func ids(list []workload.Work, id func(workload.Work) string) []string {
	all := make([]string, 0, len(list))
	for _, w := range list {
		all = append(all, id(w))
	}
	return all
}

// halt ends the goroutine. mu is held; it is let go meanwhile, since the goroutine takes it too.
func (j *jobs) halt() {
	if j.cancel == nil {
		return
	}
	j.cancel()
	finished := j.finished
	j.cancel = nil
	j.mu.Unlock()
	<-finished
	j.mu.Lock()
}

func (j *jobs) stop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.halt()
	j.asked = nil
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
	j.mu.Lock()
	values := j.values
	j.mu.Unlock()
	return j.worker(values)
}

// satisfied reports whether work need not be done again. A sweep is done for as long as it is asked.
func (j *jobs) satisfied(w workload.Work) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	report, ok := j.known[w.ID]
	if !ok || !report.Done || w.Phase == workload.PhaseSweep {
		return false
	}
	left, bad := report.Left()
	return w.Phase == workload.PhaseCount || w.Phase == workload.PhaseStage && bad == 0 || left+bad == 0
}

func (j *jobs) begin(id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.running, j.since, j.before = id, time.Now(), -1
}

// note keeps a result, and tells if it is news.
func (j *jobs) note(report workload.WorkReport) {
	j.mu.Lock()
	before, had := j.known[report.ID]
	j.known[report.ID] = report
	j.running = ""
	j.mu.Unlock()
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
	j.mu.Lock()
	report := j.known[j.running]
	if j.running == "" || report.Done {
		j.mu.Unlock()
		return
	}
	report.ID = j.running
	report.Error = ""
	report.Columns = slices.Clone(report.Columns)
	at := slices.IndexFunc(report.Columns, func(c workload.ColumnReport) bool { return c.Column == column.Column })
	if at < 0 {
		report.Columns = append(report.Columns, column)
	} else {
		report.Columns[at] = column
	}
	report.Rate = j.rate(report)
	j.known[j.running] = report
	due := time.Since(j.told) >= progressRate
	if due {
		j.told = time.Now()
	}
	j.mu.Unlock()
	if due {
		j.tell()
	}
}

// rate is rows a second since the work was begun. mu is held.
func (j *jobs) rate(report workload.WorkReport) float64 {
	done := 0
	for _, c := range report.Columns {
		done += c.Staged + c.Rotated + c.Other + c.Bad
	}
	if j.before < 0 {
		j.before, j.since = done, time.Now()
		return 0
	}
	return float64(done-j.before) / max(time.Since(j.since).Seconds(), 0.001)
}

func (j *jobs) tell() {
	select {
	case j.news <- struct{}{}:
	default:
	}
}

// reports returns what is known of the work that is asked.
func (j *jobs) reports() []workload.WorkReport {
	j.mu.Lock()
	defer j.mu.Unlock()
	var all []workload.WorkReport
	for _, id := range slices.Sorted(maps.Keys(j.known)) {
		all = append(all, j.known[id])
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
