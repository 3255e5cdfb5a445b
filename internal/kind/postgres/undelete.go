// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var _ kind.Undeleter = (*Kind)(nil)

// CheckUndelete implements kind.Undeleter.
func (*Kind) CheckUndelete(c kind.Change) error {
	from, to, err := urls.Both(c)
	if err != nil {
		return err
	}
	admin, err := parseAdmin(c.Connection)
	switch {
	case from.User == to.User:
		return kind.HasLoginOfCurrent(c, "role "+to.User)
	case err != nil:
		return fmt.Errorf("connection %s: url: %w", c.Connection.Name, err)
	case admin.User == to.User:
		return fmt.Errorf("connection %s logs in as %s, the role of version %d; give the connection an administrator of its own", c.Connection.Name, to.User, c.To.Number)
	}
	return nil
}

// Undelete implements kind.Undeleter. The role of a retired version is still there, locked: it is given its password again,
// as Restore does for the current version's.
func (k *Kind) Undelete(ctx context.Context, c kind.Change) error {
	if err := k.CheckUndelete(c); err != nil {
		return err
	}
	_, err := k.Restore(ctx, c, false)
	return err
}
