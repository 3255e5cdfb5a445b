// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
)

// The side schema holds all that there is to know of a job: which parts of its columns are staged and by whom, and per row
// the ciphertext that was there and the one that takes its place. A run that was killed finds it again. Which rows are
// flipped is not noted anywhere: the rows themselves say so.
var createSide = []string{
	"CREATE SCHEMA hyvve_reencrypt",
	`CREATE TABLE hyvve_reencrypt.jobs (
			id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL UNIQUE,
			holder text NOT NULL DEFAULT '', until timestamptz NOT NULL DEFAULT '-infinity',
			found jsonb NOT NULL DEFAULT '{}', rank integer NOT NULL DEFAULT 0)`,
	`CREATE TABLE hyvve_reencrypt.columns (
			id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
			job integer NOT NULL REFERENCES hyvve_reencrypt.jobs ON DELETE CASCADE, name text NOT NULL,
			chunks integer NOT NULL DEFAULT 0, last text[], complete boolean NOT NULL DEFAULT false, UNIQUE (job, name))`,
	`CREATE TABLE hyvve_reencrypt.chunks (
			col integer REFERENCES hyvve_reencrypt.columns ON DELETE CASCADE, n integer,
			after text[], upto text[], holder text NOT NULL, until timestamptz NOT NULL, done boolean NOT NULL DEFAULT false,
			total integer, staged integer, rotated integer, other integer, bad integer, bads text[], PRIMARY KEY (col, n))`,
}

const (
	// closeSide takes away what default privileges have given to others.
	closeSide = `DO $$ DECLARE g record; BEGIN
		FOR g IN
			SELECT 'SCHEMA hyvve_reencrypt' AS what, a.grantee FROM pg_namespace n, aclexplode(n.nspacl) a
			WHERE n.nspname = 'hyvve_reencrypt' AND a.grantee <> n.nspowner
			UNION
			SELECT format('TABLE hyvve_reencrypt.%I', c.relname), a.grantee FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
			WHERE n.nspname = 'hyvve_reencrypt' AND c.relkind = 'r' AND a.grantee <> c.relowner
		LOOP
			EXECUTE format('REVOKE ALL ON %s FROM %s', g.what, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END);
		END LOOP;
	END $$`

	// sideTries is how often a change of the schema is tried that others make or drop at the same time. Each try waits for them.
	sideTries = 100

	closeTime = 5 * time.Second
	claimPoll = 200 * time.Millisecond
)

// prepare makes the side schema, the job and the tables of its staged rows, where they are not there.
func (j *job) prepare(ctx context.Context) error {
	err := j.sideTx(ctx, func(tx pgx.Tx, there bool) (err error) {
		if there {
			err = addRank(ctx, tx)
		} else {
			err = execEach(ctx, tx, createSide...)
		}
		if err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `
			INSERT INTO hyvve_reencrypt.jobs (name) VALUES ($1) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id`,
			j.name).Scan(&j.id); err != nil {
			return err
		}
		for n := range j.tables {
			if err := j.tables[n].prepare(ctx, tx, j.id); err != nil {
				return err
			}
		}
		return execEach(ctx, tx, closeSide)
	})
	if err != nil {
		return fmt.Errorf("making the side schema hyvve_reencrypt: %w", err)
	}
	return nil
}

func (t *table) prepare(ctx context.Context, tx pgx.Tx, job int) error {
	err := tx.QueryRow(ctx, `
		INSERT INTO hyvve_reencrypt.columns (job, name) VALUES ($1, $2) ON CONFLICT (job, name) DO UPDATE SET name = excluded.name RETURNING id`,
		job, t.column.String()).Scan(&t.side)
	if err != nil {
		return err
	}
	t.staged = fmt.Sprintf("hyvve_reencrypt.rows_%d", t.side)
	keys := t.each(", ", func(n int, k keyColumn) string { return fmt.Sprintf("k%d %s NOT NULL", n, k.kind) })
	_, err = execOne(ctx, tx, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (%s, old text NOT NULL, new text NOT NULL)", t.staged, keys))
	return err
}

// sideTx runs do in a transaction in which no other of us makes, changes or drops the schema: where it is there, under a lock
// of its jobs. Every role of the database can take an advisory lock; a table of ours can be locked by nobody else. Of two who
// make the schema at the same time, the second waits for the first, and tries again.
func (j *job) sideTx(ctx context.Context, do func(tx pgx.Tx, there bool) error) error {
	for tries := 1; ; tries++ {
		err := j.db.tx(ctx, func(tx pgx.Tx) error {
			there, err := lockSide(ctx, tx)
			if err != nil {
				return err
			}
			return do(tx, there)
		})
		if tries == sideTries || !sideChanged(err) {
			return err
		}
	}
}

// lockSide locks the schema, where it is there, and makes sure that it is ours.
func lockSide(ctx context.Context, tx pgx.Tx) (there bool, err error) {
	// Waiting here is waiting for another of us to make or drop the schema.
	if _, err := execOne(ctx, tx, "SET LOCAL lock_timeout = '30s'"); err != nil {
		return false, err
	}
	there, mine, err := sideIn(ctx, tx)
	if err != nil || !there {
		return false, err
	}
	if mine { // LOCK TABLE would refuse others' in other words
		if _, err := execOne(ctx, tx, "LOCK TABLE hyvve_reencrypt.jobs IN SHARE UPDATE EXCLUSIVE MODE"); err != nil {
			return true, err
		}
	}
	if err = owned(ctx, tx); err == nil && !mine {
		err = errSideChanged
	}
	return true, err
}

var errSideChanged = errors.New("the side schema belongs to another role each time; try again")

// sideChanged reports whether somebody has made or dropped the schema, or one of its tables, since a transaction has looked.
func sideChanged(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return errors.Is(err, errSideChanged)
	}
	switch pg.Code {
	case "42P06", "3F000", "42P01": // duplicate schema, no such schema, no such table
		return true
	case "23505":
		return pg.SchemaName == "pg_catalog"
	}
	return false
}

// sideIn reports whether the schema is there, and whether it and its jobs are of our role.
func sideIn(ctx context.Context, tx pgx.Tx) (there, mine bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT n.nspowner = r.oid AND (c.relowner IS NULL OR c.relowner = r.oid)
		FROM pg_namespace n JOIN pg_roles r ON r.rolname = current_user LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'jobs'
		WHERE n.nspname = 'hyvve_reencrypt'`).Scan(&mine)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, false, nil
	}
	return err == nil, mine, err
}

// claim makes this worker the one that writes to rows for a job, and waits while another is. It is a convenience: every
// write compares and swaps, so that two at once would do no harm but double work.
//
// It refuses work that is out of date: a worker that was cut off from Vault must not bring rows under a version that the
// rotation has gone back on.
func (j *job) claim(ctx context.Context) error {
	for {
		mine, err := j.hold(ctx, j.db)
		if err != nil && !again(err) {
			return err
		}
		if mine {
			j.claimed.Store(true)
			return nil
		}
		if err := backoff.Wait(ctx, claimPoll); err != nil {
			return err
		}
	}
}

// maxWorkers is how many workers stage at the same time: each has some sessions, and the server has few to give.
const maxWorkers = 4

// awaitRoom waits while so many others are staging.
func (j *job) awaitRoom(ctx context.Context) error {
	for {
		var others int
		err := j.db.tx(ctx, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `
				SELECT count(DISTINCT k.holder) FROM hyvve_reencrypt.chunks k JOIN hyvve_reencrypt.columns c ON c.id = k.col
				WHERE c.job = $1 AND NOT k.done AND k.until > now() AND k.holder <> $2`, j.id, j.holder).Scan(&others)
		})
		if err != nil || others < maxWorkers {
			return err
		}
		if err := backoff.Wait(ctx, claimPoll); err != nil {
			return err
		}
	}
}

// hold takes or keeps the job, where nobody else has it.
func (j *job) hold(ctx context.Context, db *session) (mine bool, err error) {
	err = db.relaxedTx(ctx, func(tx pgx.Tx) error {
		if err := owned(ctx, tx); err != nil { // once more, after prepare: nothing has been written on the strength of it since
			return fmt.Errorf("claiming the job in the side schema hyvve_reencrypt: %w", err)
		}
		tag, err := tx.Exec(ctx, `
			UPDATE hyvve_reencrypt.jobs SET holder = $2, until = now() + $3::interval, rank = greatest(rank, $4::integer)
			WHERE id = $1 AND ($4::integer = 0 OR rank <= $4::integer) AND (holder = $2 OR until < now())`, j.id, j.holder, j.options.ClaimFor.String(), j.rank)
		if mine = err == nil && tag.RowsAffected() == 1; mine || err != nil {
			return err
		}
		var current bool
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM hyvve_reencrypt.jobs WHERE id = $1 AND ($2::integer = 0 OR rank <= $2::integer))", j.id, j.rank).Scan(&current); err != nil || current {
			return err
		}
		return errOutdated
	})
	return mine, err
}

var errOutdated = errors.New("the rotation has gone on; this work is out of date, and no row was changed")

// addRank brings a schema of an earlier release up to date.
func addRank(ctx context.Context, tx pgx.Tx) error {
	var has bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'hyvve_reencrypt.jobs'::regclass AND attname = 'rank' AND NOT attisdropped)").Scan(&has); err != nil || has {
		return err
	}
	_, err := execOne(ctx, tx, "ALTER TABLE hyvve_reencrypt.jobs ADD COLUMN rank integer NOT NULL DEFAULT 0")
	return err
}

// keep holds all that this worker has claimed, in a session of its own, until the function that it returns is called. What it
// has still claimed then is free for others at once. The context that it returns ends when a claim is lost.
func (j *job) keep(ctx context.Context) (context.Context, func(), error) {
	db, err := j.db.another(ctx)
	if err != nil {
		return ctx, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if backoff.Wait(ctx, j.options.ClaimFor/3) != nil {
				return
			}
			if err := j.renew(ctx, db); err != nil {
				cancel(fmt.Errorf("the claim on the job was lost: %w", err))
				return
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
		j.release(db)
		db.close()
	}, nil
}

func (j *job) renew(ctx context.Context, db *session) error {
	return db.relaxedTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "UPDATE hyvve_reencrypt.jobs SET until = now() + $2::interval WHERE holder = $1", j.holder, j.options.ClaimFor.String())
		if err == nil && j.claimed.Load() && tag.RowsAffected() == 0 {
			err = errOutdated
		}
		if err == nil {
			_, err = tx.Exec(ctx, "UPDATE hyvve_reencrypt.chunks SET until = now() + $2::interval WHERE holder = $1 AND NOT done", j.holder, j.options.ClaimFor.String())
		}
		return err
	})
}

// release lets the next worker in at once.
func (j *job) release(db *session) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_ = db.relaxedTx(ctx, func(tx pgx.Tx) error {
		for _, s := range []string{
			"UPDATE hyvve_reencrypt.jobs SET holder = '', until = '-infinity' WHERE holder = $1",
			"UPDATE hyvve_reencrypt.chunks SET holder = '', until = '-infinity' WHERE holder = $1 AND NOT done",
		} {
			if _, err := tx.Exec(ctx, s, j.holder); err != nil {
				return err
			}
		}
		return nil
	})
}

// wipe drops all that is kept of the job, and the schema with the last one.
func (j *job) wipe(ctx context.Context) error {
	err := j.sideTx(ctx, func(tx pgx.Tx, there bool) error {
		if !there {
			return nil
		}
		rows, err := tx.Query(ctx, "SELECT c.id FROM hyvve_reencrypt.columns c JOIN hyvve_reencrypt.jobs j ON j.id = c.job WHERE j.name = $1", j.name)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err != nil {
			return err
		}
		for _, id := range ids {
			if _, err := execOne(ctx, tx, fmt.Sprintf("DROP TABLE IF EXISTS hyvve_reencrypt.rows_%d", id)); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "DELETE FROM hyvve_reencrypt.jobs WHERE name = $1", j.name); err != nil {
			return err
		}
		var left bool
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM hyvve_reencrypt.jobs)").Scan(&left); err != nil || left {
			return err
		}
		_, err = execOne(ctx, tx, "DROP SCHEMA hyvve_reencrypt CASCADE")
		return err
	})
	if err != nil {
		return fmt.Errorf("wiping the side schema hyvve_reencrypt: %w", err)
	}
	return nil
}
