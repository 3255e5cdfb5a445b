// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
)

// session is one connection's worth of a database: what a URL says, and how to run a transaction. It is for one goroutine.
type session struct {
	database
	conn *pgx.Conn
}

func connect(ctx context.Context, databaseURL string) (*session, error) {
	d, err := parseURL(databaseURL)
	if err != nil {
		return nil, err
	}
	if d.schema == "" {
		d.schema = "public"
	}
	s := &session{database: d}
	return s, s.reconnect(ctx)
}

// another opens a further session of the same database.
func (s *session) another(ctx context.Context) (*session, error) {
	other := &session{database: s.database}
	return other, other.reconnect(ctx)
}

// reconnect makes a new connection if there is none.
func (s *session) reconnect(ctx context.Context) error {
	if s.conn != nil && !s.conn.IsClosed() {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, s.config)
	if err != nil {
		return unreached(ctx, s.config, err)
	}
	s.conn = conn
	return nil
}

func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// localSettings make names mean what PostgreSQL made, undo what a role or database may have set for the application's short
// queries, fix the text form of primary keys, and have a commit last: the old key is removed on the strength of it.
var localSettings = []string{
	"SET TRANSACTION ISOLATION LEVEL READ COMMITTED", // first of all: it must come before a query
	pgsession.SetSearchPath, "SET LOCAL client_encoding = 'UTF8'", "SET LOCAL standard_conforming_strings = on",
	"SET LOCAL row_security = off", "SET LOCAL lock_timeout = '500ms'",
	"SET LOCAL statement_timeout = 0", "SET LOCAL idle_in_transaction_session_timeout = 0",
	"SET LOCAL DateStyle = 'ISO'", "SET LOCAL IntervalStyle = 'postgres'", "SET LOCAL extra_float_digits = 3", "SET LOCAL bytea_output = 'hex'",
	"SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'",
}

// relaxed is for what may be lost with a server that dies, since it is found out and done again: staged rows and claims.
const relaxed = "SET LOCAL synchronous_commit = off"

// tx runs do in a transaction that no row-level security can hide rows from: where a policy would, PostgreSQL refuses
// the query, and so do we. The settings are local, since a pooler may give each transaction another server.
func (s *session) tx(ctx context.Context, do func(tx pgx.Tx) error) error {
	return s.txWith(ctx, localSettings, do)
}

// relaxedTx is tx for what need not outlive a server that dies.
func (s *session) relaxedTx(ctx context.Context, do func(tx pgx.Tx) error) error {
	return s.txWith(ctx, append(slices.Clip(localSettings), relaxed), do)
}

// beginTries is how often a transaction is begun on a server that ends even that by its statement_timeout.
const beginTries = 20

func (s *session) txWith(ctx context.Context, settings []string, do func(tx pgx.Tx) error) error {
	for tries := 1; ; tries++ {
		if err := s.reconnect(ctx); err != nil {
			return err
		}
		begun := false
		err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
			if err := execEach(ctx, tx, settings...); err != nil {
				return err
			}
			begun = true
			return do(tx)
		})
		// Until it is begun, the timeout for the application's short queries holds; on a busy machine it may be too short for
		// these statements, too.
		if begun || tries == beginTries || ctx.Err() != nil || !canceled(err) {
			return s.explain(err)
		}
	}
}

// canceled reports whether the server has ended a statement, as by its statement_timeout.
func canceled(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "57014"
}

// execEach runs statements in one round trip. None is run after one that fails.
func execEach(ctx context.Context, tx pgx.Tx, statements ...string) error {
	_, err := pgsession.Together(ctx, tx.Conn().PgConn(), statements...)
	return err
}

// execOne runs one statement without parameters.
func execOne(ctx context.Context, tx pgx.Tx, statement string) (pgconn.CommandTag, error) {
	return pgsession.Exec(ctx, tx.Conn().PgConn(), statement)
}

// explain puts remedies to errors that an operator can mend.
func (s *session) explain(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch {
	case pg.Code == "42501" && strings.Contains(pg.Message, "row-level security"):
		return fmt.Errorf("row-level security would hide rows of a protected table from role %s (%s): %s", s.config.User, pg.Message, remedyRowSecurity)
	case pg.Code == "42501":
		return fmt.Errorf("role %s lacks a right: %s; it needs SELECT and UPDATE on the protected tables and CREATE on the database", s.config.User, pg.Message)
	case pg.Code == "25006":
		return fmt.Errorf("the database is read-only (%s); connect to the primary", pg.Message)
	}
	return err
}

const remedyRowSecurity = "connect as the table's owner (where it is not forced on the owner, too), or give the role BYPASSRLS"

// again reports whether a transaction may be tried again as it is.
func again(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock not available
		return true
	}
	return false
}
