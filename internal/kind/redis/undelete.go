// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"fmt"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var _ kind.Undeleter = (*Kind)(nil)

// CheckUndelete implements kind.Undeleter. With two users, the user of every version before last is that of the current one.
func (*Kind) CheckUndelete(c kind.Change) error {
	t, err := readTurn(c)
	if err != nil {
		return err
	}
	admin := t.Connection.Options[fieldUsername] == t.next
	switch {
	case t.toURL.Password.Empty():
		return fmt.Errorf("version %d has no password, so that its user %s would let everybody in", c.To.Number, t.next)
	case !t.dual && t.old == t.next:
		return kind.HasLoginOfCurrent(c, "user "+t.next)
	case t.dual && t.old != t.next:
		return fmt.Errorf("version %d logs in as user %s, and version %d, which is the current one, as %s; strategy=%s keeps the user: give its client the current value", c.To.Number, t.next, c.From.Number, t.old, dualPassword)
	case t.dual && t.from == t.to:
		return fmt.Errorf("version %d has the password of version %d, which is the current one: its client can log in", c.To.Number, c.From.Number)
	case admin && (!t.dual || slices.ContainsFunc(t.Connection.Passwords(), t.toURL.Password.Equal)):
		return fmt.Errorf("connection %s logs in as %s, the user of version %d, which the end of the undeletion would lock; %s", t.Connection.Name, t.next, c.To.Number, ownAdmin)
	}
	return nil
}

// Undelete implements kind.Undeleter. One of the key's own users gets its password again, and what the current version's user
// may do. An operator's user, which Retire has locked, may do what it could. Nodes that do not answer do not keep the others
// waiting: somebody is locked out.
func (k *Kind) Undelete(ctx context.Context, c kind.Change) error {
	if err := k.CheckUndelete(c); err != nil {
		return err
	}
	t, err := readTurn(c)
	if err != nil {
		return err
	}
	nodes, missing := k.discover(ctx, c.Connection)
	all, silent := k.standings(ctx, t, nodes)
	if t.ours {
		_, behind := k.accept(ctx, t, all, t.lacks)
		return together(missing, silent, behind)
	}
	return together(missing, silent, each(all, func(_ int, s standing) error { return k.unlock(ctx, t, s) }))
}

// unlock lets an operator's user log in again at a node with the password of the new version, which is a retired one.
func (k *Kind) unlock(ctx context.Context, t turn, s standing) error {
	if m, foreign := s.next.foreigner(t.Key); foreign {
		return t.notOurs(s.addr, t.next, m)
	}
	switch {
	case s.next == nil:
		return fmt.Errorf("node %s: there is no user %s any more, which an operator brought with version %d; make it again, with its rights", s.addr, t.next, t.To.Number)
	case s.next.accepts(t.to):
	case !s.next.locked():
		return fmt.Errorf("node %s: user %s has another password by now; nothing was changed", s.addr, t.next)
	default:
		if err := k.set(ctx, t.Connection, s.addr, t.next, "resetpass", "on", "#"+t.to, "#"+markOf(t.Key, t.To.Number).digest()); err != nil {
			return err
		}
	}
	if _, err := k.save(ctx, t.Connection, s.node); err != nil {
		return err
	}
	now, err := k.user(ctx, t.Connection, s.addr, t.next)
	if err == nil && !now.accepts(t.to) {
		err = fmt.Errorf("node %s: user %s was given the password of version %d and does not have it; does somebody else change it?", s.addr, t.next, t.To.Number)
	}
	return err
}
