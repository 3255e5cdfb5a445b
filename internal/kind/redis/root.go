// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"errors"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// RotateRoot implements kind.Connector. A user of Redis may have several passwords: the new one is added at every node and
// tried there, and only then is the old one taken away. Others that the administrator has stay.
func (k *Kind) RotateRoot(ctx context.Context, c kind.Connection) error {
	if c.Next.Empty() {
		return errors.New("there is no next password to set")
	}
	a, err := readAdmin(c)
	if err != nil {
		return err
	}
	nodes, err := k.discover(ctx, c)
	if err != nil {
		return err
	}
	before, after := digest(c.Secrets[kind.FieldPassword]), digest(c.Next)
	if err := each(nodes, func(_ int, n node) error { return k.mayRotate(ctx, c, n, a.user, before) }); err != nil {
		return err
	}
	err = each(nodes, func(_ int, n node) error {
		if err := k.set(ctx, c, n.addr, a.user, "#"+after); err != nil {
			return err
		}
		if _, err := k.save(ctx, c, n); err != nil {
			return err
		}
		return a.enter(ctx, n.addr, c.Next)
	})
	if err != nil || before == after {
		return err
	}
	return each(nodes, func(_ int, n node) error {
		u, err := k.user(ctx, c, n.addr, a.user)
		if err != nil {
			return err
		}
		if u.has(before) {
			if err := k.set(ctx, c, n.addr, a.user, "!"+before); err != nil {
				return err
			}
		}
		_, err = k.save(ctx, c, n) // an earlier call may have ended before this
		return err
	})
}

// mayRotate looks whether the old password is what protects the administrator, and nobody else uses it.
func (k *Kind) mayRotate(ctx context.Context, c kind.Connection, n node, user, before string) error {
	u, err := k.user(ctx, c, n.addr, user)
	switch {
	case err != nil:
		return err
	case u == nil: // it was deleted while we are logged in
		return fmt.Errorf("node %s has no user %s any more", n.addr, user)
	case u.nopass:
		return fmt.Errorf("node %s: user %s is nopass: it needs no password, so that a new one protects nothing; give it one with ACL SETUSER %s resetpass and a password", n.addr, user, user)
	case !u.has(before):
		return nil
	}
	replicas, err := k.replicasAs(ctx, c, n)
	if err == nil && len(replicas) > 0 {
		err = fmt.Errorf("node %s: %s as user %s, with the password that would go; give them a user of their own, with masteruser and masterauth", n.addr, replicating(replicas), user)
	}
	return err
}

// enter logs in as the administrator with one password, in a session of its own.
func (a admin) enter(ctx context.Context, addr string, password key.Value) error {
	args := []any{"INFO", "server"}
	return plain(try(ctx, client(addr, a.user, password, a.timeout, a.tls(addr, a.secure, a.hostname), smallReply), args), addr, a.user, args)
}
