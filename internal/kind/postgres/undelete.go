// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var _ kind.Undeleter = (*Kind)(nil)

// Undelete implements kind.Undeleter. The role of a retired version is still there, locked: it is given its password again,
// as Restore does for the current version's.
func (k *Kind) Undelete(ctx context.Context, c kind.Change) error {
	from, to, err := both(c)
	if err != nil {
		return err
	}
	admin, err := parseAdmin(c.Connection)
	switch {
	case err != nil:
		return fmt.Errorf("connection %s: url: %w", c.Connection.Name, err)
	case from.User == to.User:
		return fmt.Errorf("version %d logs in as role %s, as version %d does, which is the current one: a role has one password", c.To.Number, to.User, c.From.Number)
	case admin.User == to.User:
		return fmt.Errorf("connection %s logs in as %s, the role of version %d; give the connection an administrator of its own", c.Connection.Name, to.User, c.To.Number)
	}
	_, err = k.Restore(ctx, c, false)
	return err
}
