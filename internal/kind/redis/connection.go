// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
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
		return a, fmt.Errorf("timeout %s is not a duration from %v to %v, such as 5s", kind.Quote(c.Options[fieldTimeout]), minTimeout, maxTimeout)
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
