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
