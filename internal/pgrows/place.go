// SPDX-License-Identifier: Apache-2.0

package pgrows

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Place asks the server which database the transaction is in. Everybody may execute pg_control_system in PostgreSQL 13 to 18,
// unless somebody has revoked it: then the system is unknown.
func Place(ctx context.Context, tx pgx.Tx, tables []workload.PlaceTable) (workload.Place, error) {
	p := workload.Place{Tables: tables}
	var may bool
	err := tx.QueryRow(ctx, `
		SELECT datname::text, oid, NOT pg_is_in_recovery(), has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
		FROM pg_database WHERE datname = current_database()`).Scan(&p.Database, &p.OID, &p.Primary, &may)
	if err == nil && may { // in a statement of its own: the right is checked when one begins
		err = tx.QueryRow(ctx, "SELECT system_identifier::text FROM pg_control_system()").Scan(&p.System)
	}
	return p, err
}
