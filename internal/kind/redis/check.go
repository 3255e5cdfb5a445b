// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"fmt"
	"slices"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// nobody is a user that there is not, for commands that are to change nothing.
const nobody = "hyvve-nobody"

// needed are commands that rotations give, in forms that do no harm: servers look at the administrator's rights before they
// look at what a command says.
var needed = [][]any{
	{"INFO"},
	{"ACL", "GETUSER", nobody},
	{"ACL", "SETUSER", nobody, "+hyvve-no-such-command"}, // is refused as a whole, and makes no user
	{"ACL", "DELUSER", nobody},
	{"CLIENT", "LIST", "TYPE", "pubsub"},
}

// optional is a command, in a form that does no harm, and what is missing without it.
type optional struct {
	args    []any
	without string
}

// wanted are commands without which a rotation continues, and what is missing then.
var wanted = []optional{
	{[]any{"CLIENT", "KILL", "ID", "9223372036854775807"}, "a rotation with compromised=true cannot end sessions of the old user"}, // no client has that number
	{[]any{"ACL", "LOG", "0"}, "nothing shows who still tries a user that is retired"},
}

// CheckConnection implements kind.Connector. It has the nodes write their users down, as each rotation will: whether they
// can is seen no other way.
func (k *Kind) CheckConnection(ctx context.Context, c kind.Connection) ([]string, error) {
	a, err := readAdmin(c)
	if err != nil {
		return nil, err
	}
	if err := k.checkRights(ctx, c, a.addr); err != nil { // at once, and not one after the other
		return nil, err
	}
	nodes, strangers, err := k.explore(ctx, c)
	if err != nil {
		return nil, err
	}
	var refused []string
	for _, text := range texts(c, strangers) { // any client that may replicate can announce addresses: that must not stop an operator
		refused = append(refused, "rotations are stopped: "+text)
	}
	notes := make([][]string, len(nodes))
	err = each(nodes, func(i int, n node) error {
		if err := k.checkRights(ctx, c, n.addr); err != nil {
			return err
		}
		var err error
		notes[i], err = k.notes(ctx, c, n)
		return err
	})
	return append(slices.Concat(notes...), refused...), err
}

// checkRights tries what rotations need, and names what the administrator may not do.
func (k *Kind) checkRights(ctx context.Context, c kind.Connection, addr string) error {
	var missing, rules []string
	for _, args := range needed {
		_, err := k.do(ctx, c, addr, args...)
		switch {
		case goredis.IsPermissionError(err):
			missing, rules = append(missing, command(args)), append(rules, rule(args))
		case err != nil && !answered(err):
			return err
		}
	}
	if len(missing) == 0 {
		return nil
	}
	user := c.Options[fieldUsername]
	return fmt.Errorf("node %s: user %s may not run %s; %s", addr, user, strings.Join(missing, ", "), grant(user, rules...))
}

// notes are what an operator should know of a node.
func (k *Kind) notes(ctx context.Context, c kind.Connection, n node) ([]string, error) {
	var notes []string
	user := c.Options[fieldUsername]
	if !strings.HasPrefix(c.Options[login.FieldURL], "rediss:") && !loopback(n.addr) {
		notes = append(notes, fmt.Sprintf("node %s: passwords cross the network in the clear; use rediss:// with tls_ca", n.addr))
	}
	lost, err := k.save(ctx, c, n)
	if err != nil {
		return nil, err
	}
	if lost != "" {
		notes = append(notes, fmt.Sprintf("ACL users on %s are lost when it restarts: %s", n.addr, lost))
	}
	for _, one := range wanted {
		text, err := k.lacksWanted(ctx, c, n, one)
		if err != nil {
			return nil, err
		}
		if text != "" {
			notes = append(notes, text)
		}
	}
	replicas, err := k.replicasAs(ctx, c, n)
	if err != nil {
		return nil, err
	}
	if len(replicas) > 0 {
		notes = append(notes, fmt.Sprintf("node %s: %s as the administrator, user %s: rotate-root is refused until they do it as a user of their own, with masteruser and masterauth", n.addr, replicating(replicas), user))
	}
	return notes, nil
}

// lacksWanted says what is missing where the administrator may not run a command.
func (k *Kind) lacksWanted(ctx context.Context, c kind.Connection, n node, one optional) (string, error) {
	_, err := k.do(ctx, c, n.addr, one.args...)
	switch {
	case goredis.IsPermissionError(err):
		user := c.Options[fieldUsername]
		return fmt.Sprintf("node %s: user %s may not run %s: %s; %s", n.addr, user, command(one.args), one.without, grant(user, rule(one.args))), nil
	case err != nil && !answered(err):
		return "", err
	}
	return "", nil
}

// replicasAs are the replicas that follow a node as the administrator.
func (k *Kind) replicasAs(ctx context.Context, c kind.Connection, n node) ([]session, error) {
	all, err := k.sessions(ctx, c, n, c.Options[fieldUsername])
	return slices.DeleteFunc(all, func(s session) bool { return !s.replica }), err
}

func replicating(replicas []session) string {
	var addrs []string
	for _, s := range replicas {
		addrs = append(addrs, s.addr)
	}
	return strings.Join(addrs, ", ") + " replicate"
}
