// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// The side schema holds, per job, column and row: the ciphertext that was there, the one that takes its place, and
// whether it has. It is our only state; a run that was killed finds it again.
const (
	createSide = `
		CREATE SCHEMA IF NOT EXISTS hyvve_reencrypt;
		REVOKE ALL ON SCHEMA hyvve_reencrypt FROM PUBLIC;
		CREATE TABLE IF NOT EXISTS hyvve_reencrypt.rows (
			job text NOT NULL, col text NOT NULL, id jsonb NOT NULL,
			old text NOT NULL, new text NOT NULL, flipped boolean NOT NULL DEFAULT false,
			PRIMARY KEY (job, col, id));
		CREATE TABLE IF NOT EXISTS hyvve_reencrypt.jobs (
			job text PRIMARY KEY, holder text NOT NULL, until timestamptz NOT NULL)`

	// sideLock is the advisory lock under which the schema comes and goes: "hyvve" in ASCII.
	sideLock = 0x6879767665

	closeTime = 5 * time.Second
	claimFor  = 15 * time.Second // a worker that dies is replaced after that
	claimPoll = 200 * time.Millisecond
)

func ensureSide(ctx context.Context, db *pool) error {
	return db.tx(ctx, func(tx pgx.Tx) error {
		if err := lockSide(ctx, tx); err != nil {
			return err
		}
		var there bool
		if err := tx.QueryRow(ctx, "SELECT to_regclass('hyvve_reencrypt.jobs') IS NOT NULL").Scan(&there); err != nil || there {
			return err
		}
		if err := execEach(ctx, tx, createSide); err != nil {
			return fmt.Errorf("making the side schema hyvve_reencrypt: %w", err)
		}
		return nil
	})
}

func lockSide(ctx context.Context, tx pgx.Tx) error {
	// Waiting here is waiting for another of us to make or drop the schema.
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '30s'"); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(sideLock))
	return err
}

// execEach runs several statements, which only the simple protocol takes at once.
func execEach(ctx context.Context, tx pgx.Tx, statements string) error {
	_, err := tx.Conn().PgConn().Exec(ctx, statements).ReadAll()
	return err
}

func sideExists(ctx context.Context, db *pool) (bool, error) {
	var there bool
	err := db.tx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT to_regclass('hyvve_reencrypt.jobs') IS NOT NULL").Scan(&there)
	})
	return there, err
}

// claim makes this worker the one for a job, and waits while another is. It is a convenience: every write compares and
// swaps, so that two at once would do no harm but double work.
func claim(ctx context.Context, db *pool, job, holder string) error {
	for {
		var mine bool
		err := db.tx(ctx, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, `
				INSERT INTO hyvve_reencrypt.jobs AS j (job, holder, until) VALUES ($1, $2, now() + $3::interval)
				ON CONFLICT (job) DO UPDATE SET holder = excluded.holder, until = excluded.until
				WHERE j.holder = excluded.holder OR j.until < now()`, job, holder, claimFor.String())
			mine = err == nil && tag.RowsAffected() == 1
			return err
		})
		if err != nil && !again(err) {
			return err
		}
		if mine {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(claimPoll):
		}
	}
}

// release lets the next worker in at once.
func release(db *pool, job, holder string) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_ = db.tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM hyvve_reencrypt.jobs WHERE job = $1 AND holder = $2", job, holder)
		return err
	})
}

// wipe drops all that is kept of jobs, and the schema with the last one.
func wipe(ctx context.Context, db *pool, jobs ...string) error {
	there, err := sideExists(ctx, db)
	if err != nil || !there {
		return err
	}
	return db.tx(ctx, func(tx pgx.Tx) error {
		if err := lockSide(ctx, tx); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT to_regclass('hyvve_reencrypt.jobs') IS NOT NULL").Scan(&there); err != nil || !there {
			return err
		}
		for _, job := range jobs {
			if _, err := tx.Exec(ctx, "DELETE FROM hyvve_reencrypt.rows WHERE job = $1", job); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "DELETE FROM hyvve_reencrypt.jobs WHERE job = $1", job); err != nil {
				return err
			}
		}
		var left bool
		err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM hyvve_reencrypt.rows) OR EXISTS (SELECT FROM hyvve_reencrypt.jobs)").Scan(&left)
		if err != nil || left {
			return err
		}
		_, err = tx.Exec(ctx, "DROP SCHEMA hyvve_reencrypt CASCADE")
		return err
	})
}
