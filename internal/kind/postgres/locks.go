// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// begin begins a transaction that changes a role, and returns what its first statement finds. Others who want to change the
// role wait for an advisory lock. Every role of the database can take that lock, too: where nobody holds it who could change
// the role, the transaction continues without it.
func begin(ctx context.Context, conn *pgx.Conn, role, first string) (*pgconn.Result, error) {
	const level = "BEGIN ISOLATION LEVEL READ COMMITTED"
	key := "hashtextextended(" + literal("hyvve "+role) + ", 0)"
	results, err := together(ctx, conn, level, "SELECT pg_advisory_xact_lock("+key+")", first)
	if hasState(err, stateLockNotAvailable) {
		if results, err = together(ctx, conn, "ROLLBACK", heldByUs(key)); err != nil {
			return nil, err
		}
		if string(results[1].Rows[0][0]) == "t" {
			return nil, faultf("role %s is being changed by somebody else, who has not ended for %s; it is tried again", role, lockTimeout)
		}
		results, err = together(ctx, conn, level, first)
	}
	if err != nil {
		return nil, err
	}
	return results[len(results)-1], nil
}

// heldByUs asks whether a session holds an advisory lock of the database whose role could change others.
func heldByUs(key string) string {
	return `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_get_activity(NULL) a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND (l.classid::int8 << 32) | l.objid::int8 = ` + key + `
			AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
			AND EXISTS (SELECT FROM pg_roles r WHERE (r.rolsuper OR r.rolcreaterole) AND pg_has_role(a.usesysid, r.oid, 'MEMBER')))`
}

// lockedFor is how long a role's sessions may keep it from being locked before they are ended: less than lockTimeout, so that
// the statement which locks it is waiting by then, and comes before what new sessions want.
const lockedFor = time.Second

// despiteSessions locks a role. A session of the role may hold the role's own row, by ALTER ROLE … PASSWORD in a transaction that
// it keeps open. With Cut it is ended while the lock is waited for.
func (k *Kind) despiteSessions(ctx context.Context, c kind.Change, role string, lock func() error) error {
	err := lock()
	if !c.Cut || !hasState(err, stateLockNotAvailable) {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		if err := backoff.Wait(ctx, lockedFor); err != nil {
			ended <- err
			return
		}
		ended <- k.end(ctx, c.Connection, role)
	}()
	err = lock()
	return errors.Join(err, <-ended)
}
