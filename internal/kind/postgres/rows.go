// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgrows"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var _ kind.RowLooker = (*Kind)(nil)

// LookAtRows opens the rows of columns in the database of the connection's URL, as its administrator.
func (k *Kind) LookAtRows(ctx context.Context, c kind.Connection, look kind.RowLook) (report workload.WorkReport, err error) {
	others := make([]pgrows.Other, 0, len(look.Others))
	for _, o := range look.Others {
		others = append(others, pgrows.Other(o))
	}
	err = k.admin(ctx, c, home(c), func(conn *pgx.Conn) error {
		report, err = pgrows.Check(ctx, conn, look.Columns, look.Value, others, look.Most)
		return err
	})
	return report, err
}
