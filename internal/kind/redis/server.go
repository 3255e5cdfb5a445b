// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"

	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
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

// door is somewhere to log in.
type door struct {
	what     string // for people, where it is not a node
	addr     string
	secure   *tls.Config // nil: in the clear
	database int
}

// Verify implements kind.Verifier: it logs in at every node, and through the URLs that workloads get.
func (k *Kind) Verify(ctx context.Context, c kind.Change) error {
	t, err := readTurn(c)
	if err != nil {
		return err
	}
	a, err := readAdmin(c.Connection)
	if err != nil {
		return fmt.Errorf("connection %s: %w", c.Connection.Name, err)
	}
	nodes, err := k.discover(ctx, c.Connection)
	if err != nil {
		return err
	}
	if err := k.bring(ctx, t, nodes); err != nil {
		return err
	}
	var doors []door
	for _, n := range nodes {
		doors = append(doors, door{addr: n.addr, secure: a.tls(n.addr, a.secure, a.hostname)})
	}
	enter := func(_ int, d door) error { return d.enter(ctx, a, t) }
	if err := each(doors, enter); err != nil || c.Key.Options[login.OptionVerify] == "false" {
		return err // what the nodes refuse is refused through the URLs, too
	}
	if doors, err = k.workloadDoors(a, t); err != nil {
		return err
	}
	return each(doors, enter)
}

// workloadDoors are where the URLs of a version lead to.
func (k *Kind) workloadDoors(a admin, t turn) ([]door, error) {
	rendered, err := urls.Rendered(t.Key, t.To)
	if err != nil {
		return nil, err
	}
	var doors []door
	for _, one := range rendered {
		u, err := dsn.Stored(one.Text, urls.Schemes...)
		if err != nil {
			return nil, err
		}
		addrs, err := addresses(u)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.Name, err)
		}
		for _, addr := range addrs {
			d := door{one.Name, addr, a.tls(addr, u.Scheme == "rediss", ""), database(u)}
			if !slices.ContainsFunc(doors, func(o door) bool {
				return o.addr == d.addr && o.database == d.database && (o.secure == nil) == (d.secure == nil)
			}) {
				doors = append(doors, d)
			}
		}
	}
	return doors, nil
}

// enter logs in with the new version. That its user may not say PING shows that it is logged in.
func (d door) enter(ctx context.Context, a admin, t turn) error {
	args := []any{"PING"}
	if d.database != 0 { // in one session: a client is free to use several
		args = []any{"SELECT", d.database}
	}
	err := try(ctx, client(d.addr, t.toURL.User, t.toURL.Password, a.timeout, d.secure, smallReply), args)
	if d.database == 0 && goredis.IsPermissionError(err) {
		return nil
	}
	if err = plain(err, d.addr, t.next, args); err == nil || d.what == "" {
		return err
	}
	text := fmt.Sprintf("%s: %v", d.what, err)
	switch {
	case unreached(err):
		text += fmt.Sprintf("; where Vault cannot reach what workloads reach: vault write hyvve/keys/%s verify_urls=false", t.Key.Name)
	case goredis.IsAuthError(err): // the nodes have just let it in
		text += fmt.Sprintf("; is it another server than those of connection %s?", t.Connection.Name)
	case d.database != 0 && !goredis.IsPermissionError(err):
		text += fmt.Sprintf("; write a database that there is, in the place of %d", d.database)
	}
	return fault{text, err}
}

// try runs a command with a client that is for this alone.
func try(ctx context.Context, one *goredis.Client, args []any) error {
	_, err := await(ctx, func() (any, error) {
		defer one.Close() //nolint:errcheck // nothing is pending
		return one.Do(ctx, args...).Result()
	})
	return err
}
