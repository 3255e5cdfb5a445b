// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
)

// place is somewhere to log in.
type place struct {
	what     string // for people
	host     string // the hosts in words: equal for equal hosts
	hosts    dsn.Hosts
	database string
	session  dsn.Session
	pooler   bool // there may be one in between, or it is one
	spare    bool // one of several hosts of a URL, which may be away
	asks     bool // a login counts only if the server has asked for the password
}

// placeOf is the place where the clients of a URL log in.
func placeOf(what string, t dsn.Target) place {
	p := place{what: what, hosts: t.Hosts, database: t.Database, session: t.Session}
	return p.named()
}

// named completes a place with its hosts in words.
func (p place) named() place {
	p.host = p.hosts.String()
	p.what += " " + p.host
	return p
}

// spares are the hosts of a place one by one, where it has several.
func (p place) spares(what string) []place {
	if len(p.hosts) < 2 {
		return nil
	}
	var all []place
	for _, h := range p.hosts {
		one := p
		one.what, one.hosts, one.spare = what, dsn.Hosts{h}, true
		one.session.TargetAttrs = ""
		all = append(all, one.named())
	}
	return all
}

func (p place) equal(o place) bool {
	return p.host == o.host && p.database == o.database && p.session == o.session
}

// splitReplica reads host:port.
func splitReplica(text string) (dsn.HostPort, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return dsn.HostPort{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" {
		return dsn.HostPort{}, errors.New("it is not host:port with a port from 1 to 65535")
	}
	return dsn.HostPort{Host: host, Port: uint16(n)}, nil
}

// settings are all that the driver knows, in its own form, with sslmode as given. What is not named here it would take from
// the environment of this process, and from files below its home directory.
func (p place) settings(sslmode string) string {
	hosts, ports := p.hosts.Lists()
	root := ""
	if p.session.SystemRoots {
		root = "system"
	}
	var text strings.Builder
	for _, s := range [][2]string{
		{"host", hosts},
		{"port", ports},
		{"dbname", p.database},
		{"user", "nobody"}, // and a password, so that none is looked for
		{"password", "none"},
		{"passfile", ""},
		{"servicefile", ""},
		{"sslmode", cmp.Or(sslmode, "prefer")},
		{"sslrootcert", root},
		{"sslcert", ""},
		{"sslkey", ""},
		{"sslpassword", ""},
		{"sslcertmode", "allow"},
		{"sslsni", "1"},
		{"sslnegotiation", cmp.Or(p.session.SSLNegotiation, "postgres")},
		{"target_session_attrs", cmp.Or(p.session.TargetAttrs, "any")},
		{"channel_binding", cmp.Or(p.session.ChannelBinding, "prefer")},
		{"require_auth", p.session.RequireAuth},
		{"connect_timeout", strconv.Itoa(int(patience.Seconds()))},
		{"min_protocol_version", "3.0"},
		{"max_protocol_version", "3.0"},
	} {
		fmt.Fprintf(&text, "%s='%s' ", s[0], strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s[1]))
	}
	return text.String()
}

// parsed has the driver read a place. It knows nobody yet, and sends no parameters.
func (p place) parsed(sslmode string) (*pgx.ConnConfig, error) {
	if len(p.hosts) == 0 {
		return nil, fmt.Errorf("%s: its URL names no host", p.what)
	}
	forgetService()
	config, err := pgx.ParseConfig(p.settings(sslmode))
	if err != nil { // there is no password in it, but there may be no sense either
		return nil, fmt.Errorf("%s: its host, port, database or TLS parameters cannot be used", p.what)
	}
	config.RuntimeParams = map[string]string{}
	if p.session.Options != "" {
		config.RuntimeParams["options"] = p.session.Options
	}
	config.LookupFunc = pgconn.LookupFunc(p.hosts.Resolver(dsn.Resolver(config.LookupFunc)))
	return config, nil
}

// forgetService takes the one setting away that the driver would use whatever we say: of the name of a service, whose file
// it reads.
func forgetService() { _ = os.Unsetenv("PGSERVICE") }
