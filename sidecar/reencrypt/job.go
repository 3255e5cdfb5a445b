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
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

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
