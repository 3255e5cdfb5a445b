// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// chunk is a part of a column: the rows whose primary keys lie after one and up to another. Nil is no bound.
type chunk struct {
	table
	n           int
	after, upto []string
}

// stage computes all replacements beside the rows, together with all other workers that are at it: each claims a chunk,
// and one whose claim has run out is taken over. A chunk is staged in one transaction, or not at all.
func (j *job) stage(ctx context.Context) ([]workload.ColumnReport, error) {
	if j.options.InPlace { // there is nothing to stage
		return j.countAll(ctx, j.ring, false)
	}
	totals, err := j.totals(ctx)
	if err != nil {
		return nil, err
	}
	group, staging := errgroup.WithContext(ctx)
	for range j.options.Sessions {
		group.Go(func() error { return j.stageChunks(staging, totals) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	reports, err := j.stagedSoFar(ctx, j.db, nil)
	if err == nil {
		err = j.nameStagedBads(ctx, reports)
	}
	return reports, err
}

// stageChunks works in a session of its own until every chunk of every column is staged, by whomever, or is under way in
// another session of this worker.
func (j *job) stageChunks(ctx context.Context, totals []int) error {
	db, err := j.db.another(ctx)
	if err != nil {
		return err
	}
	defer db.close()
	for {
		c, busy, err := j.claimChunk(ctx, db)
		switch {
		case err != nil && !again(err):
			return err
		case err == nil && c != nil:
			if err := j.stageChunk(ctx, db, *c); err != nil {
				return fmt.Errorf("staging rows of %s: %w", c.column, err)
			}
			j.tell(ctx, db, totals)
			continue
		case err == nil && !busy:
			return nil
		}
		if err := backoff.Wait(ctx, claimPoll); err != nil { // others are at the last chunks
			return err
		}
	}
}

// claimChunk returns the next chunk that nobody is at; busy reports whether other workers are at some.
func (j *job) claimChunk(ctx context.Context, db *session) (claimed *chunk, busy bool, err error) {
	err = db.relaxedTx(ctx, func(tx pgx.Tx) error {
		claimed, busy = nil, false
		for _, t := range j.tables {
			c, left, err := j.claimIn(ctx, tx, t)
			if err != nil || c != nil {
				claimed = c
				return err
			}
			busy = busy || left
		}
		return nil
	})
	return claimed, busy, err
}

func (j *job) claimIn(ctx context.Context, tx pgx.Tx, t table) (*chunk, bool, error) {
	c := &chunk{table: t}
	// Materialized, since a plan that looks for the next one again for each row would claim several.
	err := tx.QueryRow(ctx, `
		WITH next AS MATERIALIZED (
			SELECT col, n FROM hyvve_reencrypt.chunks WHERE col = $1 AND NOT done AND until < now() ORDER BY n LIMIT 1 FOR UPDATE SKIP LOCKED)
		UPDATE hyvve_reencrypt.chunks c SET holder = $2, until = now() + $3::interval FROM next WHERE c.col = next.col AND c.n = next.n
		RETURNING c.n, c.after, c.upto`, t.side, j.holder, j.options.ClaimFor.String()).Scan(&c.n, &c.after, &c.upto)
	if err == nil || !errors.Is(err, pgx.ErrNoRows) {
		return c, false, err
	}
	var complete, busy bool
	if err := tx.QueryRow(ctx, "SELECT chunks, last, complete FROM hyvve_reencrypt.columns WHERE id = $1 FOR UPDATE", t.side).Scan(&c.n, &c.after, &complete); err != nil {
		return nil, false, err
	}
	if complete {
		err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM hyvve_reencrypt.chunks WHERE col = $1 AND NOT done AND holder <> $2)", t.side, j.holder).Scan(&busy)
		return nil, busy, err
	}
	if c.upto, err = j.bound(ctx, tx, t, c.after); err != nil {
		return nil, false, err
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO hyvve_reencrypt.chunks (col, n, after, upto, holder, until) VALUES ($1, $2, $3, $4, $5, now() + $6::interval)`,
		t.side, c.n, c.after, c.upto, j.holder, j.options.ClaimFor.String()); err != nil {
		return nil, false, err
	}
	_, err = tx.Exec(ctx, "UPDATE hyvve_reencrypt.columns SET chunks = chunks + 1, last = $2, complete = $3 WHERE id = $1", t.side, c.upto, c.upto == nil)
	return c, false, err
}

// bound is the primary key of the last row of a chunk that begins after one; nil where it is the last chunk, which also
// takes whatever comes behind it. A chunk has fewer rows where their values are long.
func (j *job) bound(ctx context.Context, tx pgx.Tx, t table, after []string) (upto []string, err error) {
	where, args := "", []any{}
	if after != nil {
		where, args = "WHERE "+t.compared(">", "$1::text[]"), []any{after}
	}
	var rows, most int
	err = tx.QueryRow(ctx, fmt.Sprintf(`
		WITH q AS MATERIALIZED (
			SELECT %s AS id, row_number() OVER w AS n, sum(coalesce(octet_length(%s), 0)) OVER w AS bytes
			FROM %s t %s WINDOW w AS (ORDER BY %[5]s ROWS UNBOUNDED PRECEDING) ORDER BY %[5]s LIMIT %[6]d)
		SELECT q.id, q.n, (SELECT max(n) FROM q) FROM q WHERE q.bytes <= %[7]d OR q.n = 1 ORDER BY q.n DESC LIMIT 1`,
		t.id(), t.value(), t.name(), where, t.order(), j.options.BatchSize, maxBatch), args...).Scan(&upto, &rows, &most)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && rows == most && rows < j.options.BatchSize {
		return nil, nil
	}
	return upto, err
}

var errTakenOver = errors.New("another worker has taken the chunk over")

// stageChunk reads the rows of a chunk, and stores their replacements and what it has counted. The table itself is only
// read, at one moment.
func (j *job) stageChunk(ctx context.Context, db *session, c chunk) error {
	begun := time.Now()
	rows, err := j.readChunk(ctx, db, c)
	if err != nil {
		return err
	}
	took := time.Since(begun)
	if err := j.ring(c.table).classify(ctx, rows); err != nil {
		return err
	}
	var counted counts
	var staged []*row
	for _, x := range rows {
		counted.add(x)
		if x.replacement != "" {
			staged = append(staged, x)
		}
	}
	begun = time.Now()
	err = db.relaxedTx(ctx, func(tx pgx.Tx) error {
		if len(staged) > 0 {
			if _, err := tx.Exec(ctx, fmt.Sprintf("INSERT INTO %s SELECT * FROM %s", c.staged, c.given(1)), c.parameters(staged)...); err != nil {
				return err
			}
		}
		tag, err := tx.Exec(ctx, `
			UPDATE hyvve_reencrypt.chunks SET done = true, total = $4, staged = $5, rotated = $6, other = $7, bad = $8, bads = $9
			WHERE col = $1 AND n = $2 AND holder = $3 AND NOT done`,
			c.side, c.n, j.holder, counted.Total, len(staged), counted.Rotated, counted.Other, counted.Bad, counted.bads)
		if err == nil && tag.RowsAffected() == 0 {
			err = errTakenOver
		}
		return err
	})
	if errors.Is(err, errTakenOver) { // it does what we have done
		return nil
	}
	if err == nil {
		err = j.throttle.rest(ctx, db, len(rows), took+time.Since(begun))
	}
	return err
}

func (j *job) readChunk(ctx context.Context, db *session, c chunk) ([]*row, error) {
	query := fmt.Sprintf("SELECT %s, %s FROM %s t WHERE %s", c.id(), shortened(c.value()), c.name(), c.protected())
	var args []any
	for operator, bound := range map[string][]string{">": c.after, "<=": c.upto} {
		if bound != nil {
			args = append(args, bound)
			query += " AND " + c.compared(operator, fmt.Sprintf("$%d::text[]", len(args)))
		}
	}
	return readRows(ctx, db, query+" ORDER BY "+c.order(), args...)
}

func readRows(ctx context.Context, db *session, query string, args ...any) (rows []*row, err error) {
	err = db.tx(ctx, func(tx pgx.Tx) error {
		found, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		rows, err = pgx.CollectRows(found, func(r pgx.CollectableRow) (*row, error) {
			var x row
			err := r.Scan(&x.id, &x.value)
			return &x, err
		})
		return err
	})
	return rows, err
}

// countRows counts the envelopes of all columns, whatever key they are under.
func (j *job) countRows(ctx context.Context) ([]workload.ColumnReport, error) {
	totals, err := j.totals(ctx)
	if err != nil {
		return nil, err
	}
	var reports []workload.ColumnReport
	for n, t := range j.tables {
		reports = append(reports, workload.ColumnReport{Column: t.column.String(), Total: totals[n]})
	}
	return reports, nil
}

// totals counts the envelopes of all columns.
func (j *job) totals(ctx context.Context) ([]int, error) {
	totals := make([]int, len(j.tables))
	err := j.db.tx(ctx, func(tx pgx.Tx) error {
		for n, t := range j.tables {
			if err := tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s t WHERE %s", t.name(), t.protected())).Scan(&totals[n]); err != nil {
				return fmt.Errorf("counting rows of %s: %w", t.column, err)
			}
		}
		return nil
	})
	return totals, err
}

// stagedSoFar sums what all workers have staged. totals are the rows that there are, where not all is staged yet.
func (j *job) stagedSoFar(ctx context.Context, db *session, totals []int) (reports []workload.ColumnReport, err error) {
	err = db.tx(ctx, func(tx pgx.Tx) error {
		reports = nil
		for n, t := range j.tables {
			r := workload.ColumnReport{Column: t.column.String()}
			if err := tx.QueryRow(ctx, `
				SELECT coalesce(sum(total), 0), coalesce(sum(staged), 0), coalesce(sum(rotated), 0), coalesce(sum(other), 0), coalesce(sum(bad), 0)
				FROM hyvve_reencrypt.chunks WHERE col = $1 AND done`, t.side).Scan(&r.Total, &r.Staged, &r.Rotated, &r.Other, &r.Bad); err != nil {
				return err
			}
			if totals != nil {
				r.Total = max(r.Total, totals[n])
			}
			r.Left = r.Total - r.Rotated - r.Other - r.Bad
			reports = append(reports, r)
		}
		return nil
	})
	return reports, err
}

// nameStagedBads tells the first unreadable rows of each column that has some.
func (j *job) nameStagedBads(ctx context.Context, reports []workload.ColumnReport) error {
	for n, t := range j.tables {
		if reports[n].Bad == 0 {
			continue
		}
		var ids []string
		err := j.db.tx(ctx, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, "SELECT b FROM hyvve_reencrypt.chunks, unnest(bads) b WHERE col = $1 AND done ORDER BY n LIMIT $2", t.side, maxBads)
			if err == nil {
				ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
			}
			return err
		})
		if err != nil {
			return err
		}
		j.nameBads(t, ids)
	}
	return nil
}

// tell periodically reports how far the staging is.
func (j *job) tell(ctx context.Context, db *session, totals []int) {
	if j.options.Progress == nil || !j.due() {
		return
	}
	reports, err := j.stagedSoFar(ctx, db, totals)
	if err != nil {
		return // the next report has the figures; the goroutines that re-encrypt find out why the database does not answer
	}
	for _, r := range reports {
		j.options.Progress(r)
	}
}

// throttle keeps a worker from being a burden: it takes no more rows a second than it may, and rests while the database is
// slower than it should be.
type throttle struct {
	perSecond int           // rows; 0: as many as there are
	maxLoad   time.Duration // of a batch's transactions, and of the lag of any replica; 0: whatever it is

	mu   sync.Mutex
	next time.Time // when more rows may be taken
}

// Bounds of a rest for the database's sake.
const (
	maxRest     = 5 * time.Second
	restMeasure = 3 // rests are so many times as long as what took too long
)

// rest waits after so many rows were done, which took so long.
func (t *throttle) rest(ctx context.Context, db *session, rows int, took time.Duration) error {
	wait := t.reserve(rows)
	if t.maxLoad > 0 {
		slow := max(took, lag(ctx, db))
		if slow > t.maxLoad {
			wait = max(wait, min(restMeasure*slow, maxRest))
		}
	}
	if wait <= 0 {
		return nil
	}
	return backoff.Wait(ctx, wait)
}

// reserve returns how long to wait for the sake of the rate, over all sessions of the worker.
func (t *throttle) reserve(rows int) time.Duration {
	if t.perSecond == 0 {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.next.Before(now) {
		t.next = now
	}
	t.next = t.next.Add(time.Duration(rows) * time.Second / time.Duration(t.perSecond))
	return t.next.Sub(now)
}

// lag is the longest that a replica is behind, as far as our role may see.
func lag(ctx context.Context, db *session) (longest time.Duration) {
	var seconds float64
	err := db.tx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT coalesce(max(extract(epoch FROM replay_lag)), 0)::float8 FROM pg_stat_replication").Scan(&seconds)
	})
	if err != nil {
		return 0 // the goroutines that re-encrypt find out what is wrong
	}
	return time.Duration(seconds * float64(time.Second))
}

// unreachedError says in one line why there is no session of a database, and what to do. It holds no password.
type unreachedError struct {
	text  string
	cause error
}

func (e *unreachedError) Error() string { return e.text }
func (e *unreachedError) Unwrap() error { return e.cause }

// unreached puts the driver's error, which has a line for each try at each address, into one line.
func unreached(ctx context.Context, config *pgx.ConnConfig, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("connecting to the database: %w", ctx.Err())
	}
	what := "the database at " + strings.Join(addresses(config), ", ")
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return &unreachedError{fmt.Sprintf("%s refuses user %s: %s (SQLSTATE %s); %s", what, config.User, server.Message, server.Code, remedy(server.Code)), err}
	}
	return &unreachedError{fmt.Sprintf("%s cannot be reached: %s; start it, or mend host, port and sslmode", what, strings.Join(reasons(err), ", ")), err}
}

// addresses are all that a URL names.
func addresses(config *pgx.ConnConfig) (all []string) {
	add := func(host string, port uint16) {
		if _, address := pgconn.NetworkAddress(host, port); !slices.Contains(all, address) {
			all = append(all, address)
		}
	}
	add(config.Host, config.Port)
	for _, f := range config.Fallbacks {
		add(f.Host, f.Port)
	}
	return all
}

// reasons are the innermost causes of all tries, each once.
func reasons(err error) (all []string) {
	var tries interface{ Unwrap() []error }
	if errors.As(err, &tries) {
		for _, try := range tries.Unwrap() {
			if cause := errors.Unwrap(try); cause != nil {
				try = cause // without the address
			}
			for _, reason := range reasons(try) {
				if !slices.Contains(all, reason) {
					all = append(all, reason)
				}
			}
		}
		return all
	}
	var network *net.OpError
	if errors.As(err, &network) {
		err = network.Err
	}
	return []string{strings.Join(strings.Fields(err.Error()), " ")}
}

// remedy is what to do when a server refuses a login. Source of the codes: PostgreSQL's manual, appendix "Error Codes".
func remedy(code string) string {
	switch code {
	case "28P01", "28000": // invalid_password, invalid_authorization_specification
		return "mend user and password, or let the user in from here (pg_hba.conf)"
	case "3D000": // invalid_catalog_name
		return "name a database that is there"
	case "53300", "57P03": // too_many_connections, cannot_connect_now
		return "run it again in a while"
	}
	return "mend the URL, or see the server's log"
}
