// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// The fields of a connection.
const (
	fieldUsername   = "username"
	fieldNodes      = "nodes"
	fieldHosts      = "hosts"
	fieldTimeout    = "timeout"
	fieldServerName = "tls_server_name"
)

// Bounds of timeout. The engine gives a call a minute.
const (
	minTimeout = 100 * time.Millisecond
	maxTimeout = 30 * time.Second
)

// ConnectionFields implements kind.Connector.
func (*Kind) ConnectionFields() []kind.Field {
	return []kind.Field{
		{Name: login.FieldURL, Sends: []string{kind.FieldPassword}, Description: "A node, as redis://admin@cache:6379 or rediss://…; user and password in it are moved to username and password. Its replicas, its master and the other nodes of its cluster are found from there, as far as hosts or nodes allow them."},
		{Name: fieldUsername, Sends: []string{kind.FieldPassword}, Default: defaultUser, Description: "The administrator's user, which no key may have. One of its own, not default, where keys adopt default."},
		login.PasswordField(),
		{Name: fieldNodes, Sends: []string{kind.FieldPassword}, Description: "Further nodes, as host:port with commas between: those that cannot be found from url, and replicas that a rotation should wait for when they are down. Where a node announces an address at which it cannot be reached from here: announced=reachable, as 10.0.0.7:6379=cache-2.example:6379."},
		{Name: fieldHosts, Sends: []string{kind.FieldPassword}, Description: "Where nodes that another node names may be, with commas between: hosts, *.domain, IP addresses and networks, each with :port or for any port, as *.cache.internal,10.0.0.0/24:6379. The administrator's password is sent to no other address that a node names; such a node stops rotations."},
		kind.AllowedHostsField(),
		{Name: fieldTimeout, Harmless: true, Default: "5s", Description: "How long a node may take to answer, from 100ms to 30s."},
		{Name: login.FieldCA, Sends: []string{kind.FieldPassword}, Description: "The CA of the servers' certificates, in PEM (@file), where it is not among the system's. It holds for the URLs of keys, too."},
		{Name: login.FieldCert, Description: "A client certificate, in PEM (@file), where the servers ask for one."},
		login.KeyField(),
		{Name: fieldServerName, Sends: []string{kind.FieldPassword}, Description: "The name in the nodes' certificates, where it is not the host at which they are reached."},
	}
}

// NormalizeConnection implements kind.Connector.
func (k *Kind) NormalizeConnection(c kind.Connection) (kind.Connection, error) {
	c, u, err := login.NormalizeConnection(c, k.ConnectionFields(), "a node's, as redis://admin@cache:6379", func(text string) (dsn.URL, error) {
		return dsn.Parse(text, urls.Schemes...)
	})
	if err != nil {
		return c, err
	}
	options := c.Options
	if strings.TrimLeft(u.Rest[len(u.Host()):], "/0") != "" {
		return c, errors.New("url: there is something after the host; leave it out: an administrator's URL has no database and no parameters")
	}
	if u.User != "" { // written later than a username that is stored
		options[fieldUsername] = u.User
	}
	options[login.FieldURL] = u.Scheme + "://" + u.Host()
	if _, err := k.Allowed(c); err != nil {
		return c, err
	}
	return c, checkConnection(c)
}

// checkConnection checks fields whose URL is bare.
func checkConnection(c kind.Connection) error {
	if err := checkUser(c.Options[fieldUsername]); err != nil {
		return fmt.Errorf("username: %w", err)
	}
	if c.Secrets[kind.FieldPassword].Empty() {
		return errors.New("password is empty; give the administrator's on standard input, as password=-")
	}
	if !strings.HasPrefix(c.Options[login.FieldURL], "rediss:") && c.Options[login.FieldCert]+c.Options[fieldServerName] != "" {
		return errors.New("tls_cert or tls_server_name is set and url is not rediss://; set both or neither")
	}
	_, err := readAdmin(c)
	return err
}

// admin is how a connection's administrator logs in.
type admin struct {
	addr     string // of the node that url names
	user     string
	timeout  time.Duration
	secure   bool
	roots    *x509.CertPool // nil: the system's
	certs    []tls.Certificate
	hostname string // in certificates, where it is not the host's

	seeds []string          // nodes beside addr
	alias map[string]string // where those nodes are reached that announce other addresses
	hosts kind.Hosts        // where nodes may be that others name
}

// readAdmin reads a normalized connection. The error names the field.
func readAdmin(c kind.Connection) (admin, error) {
	a := admin{user: c.Options[fieldUsername], hostname: c.Options[fieldServerName], alias: map[string]string{}}
	u, err := dsn.Parse(c.Options[login.FieldURL], urls.Schemes...)
	if err != nil {
		return a, fmt.Errorf("url: %w", err)
	}
	at, err := addresses(u)
	if err != nil {
		return a, fmt.Errorf("url: %w", err)
	}
	if len(at) != 1 {
		return a, errors.New("url names several hosts; name one, and the others in nodes where they cannot be found from it")
	}
	a.addr, a.secure = at[0], u.Scheme == "rediss"
	if a.timeout, err = time.ParseDuration(c.Options[fieldTimeout]); err != nil || a.timeout < minTimeout || a.timeout > maxTimeout {
		return a, fmt.Errorf("timeout %s is not a duration from %v to %v, such as 5s", kind.Quote(c.Options[fieldTimeout]), duration.Text(minTimeout), duration.Text(maxTimeout))
	}
	for n, text := range kind.SplitList(c.Options[fieldNodes]) {
		announced, reachable, mapped := strings.Cut(text, "=")
		if !mapped {
			reachable = announced
		}
		from, ok := address(announced)
		to, ok2 := address(reachable)
		if !ok || !ok2 {
			return a, fmt.Errorf("nodes: number %d is neither host:port nor announced=reachable", n+1) // not quoted: it may be a URL with a password
		}
		a.seeds = append(a.seeds, to)
		a.alias[from] = to
	}
	if a.hosts, err = kind.ParseHosts(c.Options[fieldHosts]); err != nil {
		return a, fmt.Errorf("hosts: %w", err)
	}
	if a.roots, err = login.Roots(c); err != nil {
		return a, err
	}
	a.certs, err = login.Certificates(c)
	return a, err
}

// tls is how to speak to a node, or to the host of a key's URL; nil: in the clear.
func (a admin) tls(addr string, secure bool, name string) *tls.Config {
	if !secure {
		return nil
	}
	if name == "" {
		name, _, _ = net.SplitHostPort(addr)
	}
	return &tls.Config{RootCAs: a.roots, Certificates: a.certs, ServerName: name, MinVersion: tls.VersionTLS12}
}

// RotateRoot implements kind.RootRotator. A user of Redis may have several passwords: the new one is added at every node and
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

// Preflight implements kind.Preflighter: that all nodes are there and allowed, whose the users are, whose rights are to be
// copied, and that the administrator may do at each node what any step needs.
func (k *Kind) Preflight(ctx context.Context, c kind.Change) (blockers, notes []string, err error) {
	t, err := readTurn(c)
	if err != nil {
		return nil, nil, err
	}
	if impossible := k.CheckChange(c); impossible != nil {
		return []string{impossible.Error()}, nil, nil //nolint:nilerr // it is a blocker
	}
	nodes, strangers, err := k.explore(ctx, c.Connection)
	blockers = texts(c.Connection, strangers)
	if err != nil || len(nodes) == 0 {
		return blockers, nil, err
	}
	rights := make([]error, len(nodes))
	lacks, uncounted := make([]string, len(nodes)), make([]string, len(nodes))
	err = each(nodes, func(i int, n node) (err error) {
		rights[i] = k.checkRights(ctx, c.Connection, n.addr)
		if unreached(rights[i]) {
			return rights[i]
		}
		if lacks[i], err = k.lacksKill(ctx, c, n); err == nil && rights[i] == nil && !t.first && !t.dual && !t.Cut {
			uncounted[i], err = k.cannotCount(ctx, c.Connection, n.addr)
		}
		return err
	})
	if err != nil {
		return blockers, nil, err
	}
	for i, err := range rights {
		if err != nil {
			blockers = append(blockers, err.Error())
		}
		if lacks[i] != "" {
			blockers = append(blockers, lacks[i])
		}
	}
	if len(blockers) > len(strangers) {
		return blockers, nil, nil // what follows would ask in vain
	}
	all, err := k.standings(ctx, t, nodes)
	if err != nil {
		return blockers, nil, err
	}
	notes = slices.DeleteFunc(uncounted, func(text string) bool { return text == "" })
	for _, s := range all {
		if err := t.blocks(all, s); err != nil {
			blockers = append(blockers, err.Error())
		}
		if !t.first && s.old == nil {
			notes = append(notes, fmt.Sprintf("node %s has no user %s of version %d", s.addr, t.old, t.From.Number))
		}
	}
	slices.Sort(blockers)
	return slices.Compact(blockers), notes, nil
}

// lacksKill says what is missing where the sessions of the old user are to be ended.
func (k *Kind) lacksKill(ctx context.Context, c kind.Change, n node) (string, error) {
	if !c.Cut {
		return "", nil
	}
	return k.lacksWanted(ctx, c.Connection, n, wanted[0])
}

// blocks returns an error where the new version cannot be made valid at a node.
func (t turn) blocks(all []standing, s standing) error {
	switch {
	case !t.ours && t.lacks(s):
		return t.notValid(s)
	case !t.ours || !t.lacks(s):
		return t.stranger(all, s)
	}
	if err := t.stranger(all, s); err != nil {
		return err
	}
	if t.beside(s) {
		if s.next.nopass {
			return nopass(s.addr, t.next)
		}
		return nil
	}
	_, _, err := t.rights(all, s)
	return err
}

// stranger returns an error where a user at a node is not the key's to change. One of an undeleted version is no stranger.
func (t turn) stranger(all []standing, s standing) error {
	err := t.mayStage(all[0], s)
	if errors.As(err, new(kind.Occupied)) {
		return nil
	}
	return err
}
