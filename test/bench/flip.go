// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/envelope"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reencrypt"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

const (
	flipTables  = 4
	flipRounds  = 3
	barFlip     = 1 / 1.6 // of a bare update's speed
	memoryRows  = 1_000_000
	barPeak     = 64 // MB
	memoryProbe = 20 * time.Millisecond
)

// flips measures the one moment in which rows are locked, for several numbers of rows in four tables, against a bare UPDATE
// … FROM of as many rows of the same size; and the memory that a run over a million rows takes.
func flips(ctx context.Context, p *place) (results []Result, err error) {
	for _, size := range []struct {
		name string
		rows int
	}{{"reencrypt-flip-10k", 10_000}, {"reencrypt-flip", 100_000}, {"reencrypt-flip-1m", memoryRows}} {
		_, _ = fmt.Fprintf(p.log, "  %d rows\n", size.rows)
		d, err := newFlipDatabase(ctx, p.postgres, size.name, size.rows)
		if err != nil {
			return nil, err
		}
		rounds := flipRounds
		if size.rows == memoryRows {
			rounds = 1
		}
		r, err := d.measure(ctx, size.name, rounds)
		if err != nil {
			return nil, err
		}
		if size.name == "reencrypt-flip" {
			r = r.against(barFlip)
		}
		results = append(results, r)
		if size.rows == memoryRows {
			peak, err := d.peak(ctx)
			if err != nil {
				return nil, err
			}
			results = append(results, Result{Name: "reencrypt-memory", Unit: "MB", Ours: peak}.within(barPeak))
		}
		if err := d.conn.Close(ctx); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// flipDatabase has rows in four tables, under a key.
type flipDatabase struct {
	url     string
	conn    *pgx.Conn
	current key.Value
	runs    int
	columns []key.Column
}

func newFlipDatabase(ctx context.Context, server *bed.Postgres, name string, rows int) (*flipDatabase, error) {
	url, err := server.NewDatabase(ctx, strings.ReplaceAll(name, "-", "_"))
	if err != nil {
		return nil, err
	}
	d := &flipDatabase{url: url, current: masterKey()}
	if d.conn, err = pgx.Connect(ctx, url); err != nil {
		return nil, err
	}
	ring, err := envelope.NewKeyring(key.TagFirst, d.current)
	if err != nil {
		return nil, err
	}
	// The platform's tables, so that the command by hand knows them, and one more.
	for n, c := range []key.Column{
		{Table: "ai_provider_configs", Column: "api_key_encrypted"},
		{Table: "mcp_server_configs", Column: "api_key_encrypted"},
		{Table: "integration_connections", Column: "encrypted_credentials"},
		{Table: "more_configs", Column: "value_encrypted"},
	} {
		c.Layout = key.TagFirst
		d.columns = append(d.columns, c)
		if err := d.fill(ctx, c, ring, rows/flipTables, n); err != nil {
			return nil, fmt.Errorf("filling %s: %w", c, err)
		}
	}
	return d, nil
}

// fill makes a table of envelopes that share a salt a block, as an earlier rotation leaves them.
func (d *flipDatabase) fill(ctx context.Context, c key.Column, ring *envelope.Keyring, rows, seed int) error {
	if _, err := d.conn.Exec(ctx, fmt.Sprintf(`CREATE TABLE %s (id text PRIMARY KEY, workspace_id text NOT NULL, %s text NOT NULL,
		updated_at timestamp(3) NOT NULL DEFAULT '2026-01-01')`, c.Table, c.Column)); err != nil {
		return err
	}
	var salt envelope.Salt
	var derived envelope.Derived
	n := 0
	_, err := d.conn.CopyFrom(ctx, pgx.Identifier{c.Table}, []string{"id", "workspace_id", c.Column}, pgx.CopyFromFunc(func() ([]any, error) {
		if n == rows {
			return nil, nil
		}
		if n%4096 == 0 {
			_, _ = rand.Read(salt[:]) // never fails
			var err error
			if derived, err = ring.Derive(salt); err != nil {
				return nil, err
			}
		}
		id := fmt.Sprintf("%08x-%d", uint32(n)*2654435761, seed)
		e, err := envelope.Seal(key.TagFirst, derived, salt, []byte("sk-live-of-about-the-usual-length-"+id), rand.Reader)
		n++
		return []any{id, "ws-1", e.String()}, err
	}))
	return err
}

func (d *flipDatabase) work(phase workload.Phase) workload.Work {
	return workload.Work{ID: string(phase), Rotation: fmt.Sprintf("r%d", d.runs), Key: "k", Env: "K", Phase: phase, From: 1, To: 2, Columns: d.columns}
}

// measure compares flips of ours with bare updates, in turn.
func (d *flipDatabase) measure(ctx context.Context, name string, rounds int) (Result, error) {
	var ours, bare []time.Duration
	for range rounds {
		d.runs++
		to := masterKey()
		var took time.Duration
		w := reencrypt.NewWorker(d.url, reencrypt.Options{AllowSuperuser: true, Flipped: func(_ int64, t time.Duration) { took = t }})
		accepts := map[string][]key.Value{"K": {to, d.current}}
		if _, err := w.Do(ctx, d.work(workload.PhaseStage), accepts); err != nil {
			return Result{}, err
		}
		if err := d.settle(ctx); err != nil {
			return Result{}, err
		}
		report, err := w.Do(ctx, d.work(workload.PhaseFlip), accepts)
		if err != nil {
			return Result{}, err
		}
		if left, bad := report.Left(); left+bad > 0 {
			return Result{}, fmt.Errorf("%d rows are left and %d unreadable", left, bad)
		}
		ours = append(ours, took)
		if _, err := w.Do(ctx, d.work(workload.PhaseWipe), nil); err != nil {
			return Result{}, err
		}
		d.current = to
		t, err := d.bare(ctx)
		if err != nil {
			return Result{}, err
		}
		bare = append(bare, t)
	}
	return times(name, median(ours), median(bare)), nil
}

// settle brings tables into the state of ones that are in use: without dead rows, with statistics.
func (d *flipDatabase) settle(ctx context.Context) error {
	for _, c := range d.columns {
		if _, err := d.conn.Exec(ctx, "VACUUM ANALYZE "+c.Table); err != nil {
			return err
		}
	}
	_, err := d.conn.Exec(ctx, "CHECKPOINT")
	return err
}

// bare puts prepared values of the same size into all rows, by one transaction of an UPDATE … FROM a table. It puts the rows'
// own values, so that they still open.
func (d *flipDatabase) bare(ctx context.Context) (time.Duration, error) {
	for _, c := range d.columns {
		if _, err := d.conn.Exec(ctx, fmt.Sprintf("CREATE TABLE prepared_%[1]s AS SELECT id, %[2]s AS new FROM %[1]s; ANALYZE prepared_%[1]s", c.Table, c.Column)); err != nil {
			return 0, err
		}
	}
	if err := d.settle(ctx); err != nil {
		return 0, err
	}
	begun := time.Now()
	err := pgx.BeginFunc(ctx, d.conn, func(tx pgx.Tx) error {
		for _, c := range d.columns {
			if _, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %[1]s t SET %[2]s = s.new FROM prepared_%[1]s s WHERE t.id = s.id", c.Table, c.Column)); err != nil {
				return err
			}
		}
		return nil
	})
	took := time.Since(begun)
	for _, c := range d.columns {
		if err == nil {
			_, err = d.conn.Exec(ctx, "DROP TABLE prepared_"+c.Table)
		}
	}
	if err == nil {
		err = d.settle(ctx)
	}
	return took, err
}

// peak is the most memory that a run by hand over the platform's tables has resident, in MB.
func (d *flipDatabase) peak(ctx context.Context) (float64, error) {
	run := exec.CommandContext(ctx, bed.Tool("bin", "hyvve-sidecar"), "reencrypt", "--json", "--allow-superuser")
	run.Env = []string{"DATABASE_URL=" + d.url, "ENCRYPTION_MASTER_KEY_OLD=" + d.current.Reveal(), "ENCRYPTION_MASTER_KEY_NEW=" + masterKey().Reveal()}
	var said strings.Builder
	run.Stderr = &said
	if err := run.Start(); err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() { done <- run.Wait() }()
	peak := 0.0
	for {
		select {
		case err := <-done:
			switch {
			case err != nil:
				return 0, fmt.Errorf("%w: %s", err, said.String())
			case peak == 0:
				return 0, errors.New("the memory of hyvve-sidecar reencrypt could not be read from /proc")
			}
			return peak, nil
		case <-time.After(memoryProbe):
			now, err := memoryOf(fmt.Sprintf("/proc/%d", run.Process.Pid), "VmHWM")
			if err != nil {
				return 0, err
			}
			peak = max(peak, now)
		}
	}
}
