// SPDX-License-Identifier: Apache-2.0

// Package pgsession is what all sessions of ours at PostgreSQL servers have in common: the engine's and those of the
// sidecar's re-encryption. A database's roles decide what a name means in a session that looks for it in their schemas
// (CVE-2018-1058), and what a server or an application says may end up in a statement; neither may run anything as us.
package pgsession

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SearchPath is the search_path of every session: names mean what PostgreSQL made. The schema of temporary objects is
// named, since otherwise it comes first.
const SearchPath = "pg_catalog, pg_temp"

// longest bounds a statement, and a transaction that waits for us: callers have deadlines of their own, which are shorter.
const longest = "2min"

// Startup returns the parameters with which every session begins that has no pooler before it. They win over all that roles
// and databases have set: the owner of a database decides neither what our statements mean nor how long they may take.
// PostgreSQL 9.6 and newer know all of them.
func Startup() map[string]string {
	return map[string]string{
		"search_path": SearchPath,
		// What constants and their text mean.
		"client_encoding": "UTF8", "standard_conforming_strings": "on", "backslash_quote": "safe_encoding", "array_nulls": "on",
		"transform_null_equals": "off", "quote_all_identifiers": "off",
		"DateStyle": "ISO", "IntervalStyle": "postgres", "TimeZone": "UTC", "bytea_output": "hex", "extra_float_digits": "1",
		// Whether statements end, see everything and may change anything.
		"statement_timeout": longest, "lock_timeout": "0", "idle_in_transaction_session_timeout": longest,
		"default_transaction_read_only": "off", "default_transaction_isolation": "read committed", "default_transaction_deferrable": "off",
		"row_security": "on", "client_min_messages": "notice",
	}
}

// SetSearchPath sets the search path for a transaction. It is for sessions whose search_path cannot be a startup parameter,
// which PgBouncer refuses.
const SetSearchPath = "SET LOCAL search_path = pg_catalog, pg_temp"

// Together runs statements in one round trip, each in messages of its own: the server reads no text as more than one
// statement. None is run after one that fails.
func Together(ctx context.Context, conn *pgconn.PgConn, statements ...string) ([]*pgconn.Result, error) {
	var batch pgconn.Batch
	for _, s := range statements {
		batch.ExecParams(s, nil, nil, nil, nil)
	}
	return conn.ExecBatch(ctx, &batch).ReadAll()
}

// Exec runs one statement without parameters. pgx's Exec would let the server read it as several.
func Exec(ctx context.Context, conn *pgconn.PgConn, statement string) (pgconn.CommandTag, error) {
	result := conn.ExecParams(ctx, statement, nil, nil, nil, nil).Read()
	return result.CommandTag, result.Err
}

// Quote quotes an identifier.
func Quote(identifier string) string { return pgx.Identifier{identifier}.Sanitize() }

// Literal quotes a string constant. It means the same whether standard_conforming_strings is on or off.
func Literal(text string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(strings.ReplaceAll(text, "\x00", "")) + "'"
}
