// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Stage implements kind.Server. All nodes must answer before the first is changed.
func (k *Kind) Stage(ctx context.Context, c kind.Change) error {
	t, err := readTurn(c)
	if err == nil {
		err = together(t.absurd(), t.lockout())
	}
	if err != nil || !t.ours {
		return err
	}
	nodes, err := k.discover(ctx, c.Connection)
	if err != nil {
		return err
	}
	all, err := k.standings(ctx, t, nodes)
	if err != nil {
		return err
	}
	var refused []error
	for _, s := range all {
		refused = append(refused, t.mayStage(all[0], s))
	}
	if err := together(refused...); err != nil {
		return err
	}
	_, err = k.accept(ctx, t, all, func(standing) bool { return true })
	return err
}

// Retire implements kind.Server. The old user stays where two take turns, without a way to log in. Nodes that do not answer
// do not keep the others waiting: the version may be compromised.
func (k *Kind) Retire(ctx context.Context, c kind.Change) error {
	t, err := readTurn(c)
	if err != nil || t.first {
		return err
	}
	if err := together(t.absurd(), t.lockout()); err != nil {
		return err
	}
	nodes, missing := k.discover(ctx, c.Connection)
	all, silent := k.standings(ctx, t, nodes)
	good, behind := k.accept(ctx, t, all, t.lacks)
	return together(missing, silent, behind, each(good, func(_ int, s standing) error {
		err := k.lock(ctx, t, s)
		// Also where nothing was to be done: an earlier call may have ended before this.
		_, unsaved := k.save(ctx, c.Connection, s.node)
		return together(err, unsaved)
	}))
}

// lock takes the old version away at a node, and sees that it is.
func (k *Kind) lock(ctx context.Context, t turn, s standing) error {
	if s.old == nil {
		return nil
	}
	own := markOf(t.Key, t.From.Number)
	rules := []string{"off", "resetpass", "#" + own.digest()}
	if t.dual {
		rules = s.old.without(t.from, own)
	} else if err := t.mayLock(s); err != nil {
		return err
	}
	if len(rules) > 0 {
		if err := k.set(ctx, t.Connection, s.addr, t.old, rules...); err != nil {
			return err
		}
	}
	if t.Cut {
		if err := k.end(ctx, t.Connection, s.addr, t.old); err != nil {
			return err
		}
	}
	now, err := k.user(ctx, t.Connection, s.addr, t.old)
	if err == nil && now.accepts(t.from) {
		err = fmt.Errorf("node %s: user %s was locked and can log in still; does somebody else change it?", s.addr, t.old)
	}
	return err
}

// Unstage implements kind.Server.
func (k *Kind) Unstage(ctx context.Context, c kind.Change) error {
	t, err := readTurn(c)
	if err != nil || !t.ours || t.absurd() != nil {
		return err // an absurd one was never staged
	}
	nodes, missing := k.discover(ctx, c.Connection)
	all, silent := k.standings(ctx, t, nodes)
	return together(missing, silent, each(all, func(_ int, s standing) error {
		if err := k.withdraw(ctx, t, s); err != nil {
			return err
		}
		_, err := k.save(ctx, c.Connection, s.node)
		return err
	}))
}

// withdraw takes the new version away at a node, and its user if we made it for this version. What it may do is copied
// again by the next one. With sessions that nobody said to end it stays, locked: they end with their user.
func (k *Kind) withdraw(ctx context.Context, t turn, s standing) error {
	if s.next == nil || !t.mayWithdraw(s) {
		return nil
	}
	own := markOf(t.Key, t.To.Number)
	only := s.next.without(t.to, own)
	others := len(s.next.passwords) > 1 || len(s.next.passwords) == 1 && !s.next.has(t.to)
	locked := []string{"off", "resetpass", "#" + own.digest()}
	switch {
	case t.dual && (!t.first || others), s.next.keeps(t.Key): // what else can log in as the user stays as it is
		if err := k.set(ctx, t.Connection, s.addr, t.next, only...); err != nil || !t.Cut {
			return err
		}
		return k.end(ctx, t.Connection, s.addr, t.next)
	case !t.dual: // before its sessions are counted, so that no more come
		if err := k.set(ctx, t.Connection, s.addr, t.next, locked...); err != nil {
			return err
		}
	}
	if t.Cut {
		if err := k.end(ctx, t.Connection, s.addr, t.next); err != nil {
			return err
		}
	}
	sessions, err := k.sessions(ctx, t.Connection, s.node, t.next)
	if err != nil {
		return err
	}
	if len(sessions) > 0 && !t.Cut {
		return k.set(ctx, t.Connection, s.addr, t.next, locked...)
	}
	_, err = k.do(ctx, t.Connection, s.addr, "ACL", "DELUSER", t.next)
	return err
}

// end ends all sessions of a user at a node but our own.
func (k *Kind) end(ctx context.Context, c kind.Connection, addr, user string) error {
	_, err := k.do(ctx, c, addr, "CLIENT", "KILL", "USER", user)
	return err
}
