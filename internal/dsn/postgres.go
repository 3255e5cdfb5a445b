// SPDX-License-Identifier: Apache-2.0

package dsn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

var postgresSchemes = []string{"postgresql", "postgres"}

// postgresPort is PostgreSQL's, for URLs that name none.
const postgresPort = 5432

// HostPort is a server that a PostgreSQL URL names.
type HostPort struct {
	Host string // a name, an IP address, or the absolute path of a directory of sockets
	Port uint16
	Addr string // the IP address at which Host is reached (hostaddr); empty: what the name resolves to
}

// Socket reports whether the server is reached by a Unix socket.
func (h HostPort) Socket() bool { return strings.HasPrefix(h.Host, "/") }

// String is host:port, or the path of the socket.
func (h HostPort) String() string {
	port := strconv.Itoa(int(h.Port))
	switch {
	case h.Socket():
		return strings.TrimSuffix(h.Host, "/") + "/.s.PGSQL." + port
	case h.Addr != "" && h.Addr != h.Host:
		return net.JoinHostPort(h.Host, port) + " (" + h.Addr + ")"
	}
	return net.JoinHostPort(h.Host, port)
}

// Hosts are the servers that a PostgreSQL URL names, in the order in which clients try them.
type Hosts []HostPort

func (all Hosts) String() string {
	var words []string
	for _, h := range all {
		words = append(words, h.String())
	}
	return strings.Join(words, ",")
}

// Lists are the hosts and their ports as parameters of libpq, with commas between.
func (all Hosts) Lists() (hosts, ports string) {
	var names, numbers []string
	for _, h := range all {
		names, numbers = append(names, h.Host), append(numbers, strconv.Itoa(int(h.Port)))
	}
	return strings.Join(names, ","), strings.Join(numbers, ",")
}

// Resolver finds the addresses of a name.
type Resolver func(ctx context.Context, name string) ([]string, error)

// Resolver returns the addresses that the URL names (hostaddr), and resolves other names as usual.
func (all Hosts) Resolver(otherwise Resolver) Resolver {
	return func(ctx context.Context, name string) ([]string, error) {
		var known []string
		for _, h := range all {
			if h.Host == name && h.Addr != "" {
				known = append(known, h.Addr)
			}
		}
		if known != nil {
			return known, nil
		}
		return otherwise(ctx, name)
	}
}

// Session is what a PostgreSQL URL says about the session, as far as it decides where a client logs in, and whether it can.
// A field is empty where the URL does not say. Paths of files are left out: they are of the application's host.
type Session struct {
	SSLMode        string // disable, allow, prefer, require, verify-ca or verify-full
	SystemRoots    bool   // sslrootcert=system
	SSLNegotiation string
	ChannelBinding string
	RequireAuth    string
	TargetAttrs    string // target_session_attrs
	Options        string
}

// Target is a PostgreSQL URL as its clients understand it.
type Target struct {
	URL
	Hosts    Hosts
	Database string
	Session  Session

	notes []string
}

// Notes say what an operator should know of a URL that is accepted.
func (t Target) Notes() []string { return t.notes }

// Postgres reads a PostgreSQL URL the way libpq and pgx do. It refuses what they, node-postgres and Prisma read differently,
// so that a client would log in at another server, database or as somebody else. Errors hold no part of the URL but names of
// parameters.
func Postgres(text string) (Target, error) {
	u, err := Parse(text, postgresSchemes...)
	if err != nil {
		return Target{}, err
	}
	t := Target{URL: u}
	switch {
	case strings.Contains(u.info, "@"):
		return t, errors.New("the user or the password in the URL holds '@' that is not percent-encoded; write %40")
	case strings.Contains(u.Rest, "#"):
		return t, errors.New("the URL holds '#', which some clients take for its end; write %23")
	case strings.ContainsRune(u.User+u.Password.Reveal(), 0):
		return t, errors.New("the user or the password in the URL holds %00, which no server accepts")
	}
	query, err := u.placeParameters()
	if err != nil {
		return t, err
	}
	if t.Database, err = u.database(query); err != nil {
		return t, err
	}
	if err := t.readHosts(query); err != nil {
		return t, err
	}
	if u.Repeats() {
		t.notes = append(t.notes, "the URL repeats its user or its password in its query; each new version changes them there, too")
	}
	t.Session, err = readSession(query)
	return t, err
}

// Parameters that decide where a client goes, and those that decide how it logs in there.
var (
	placeNames   = []string{"host", "hostaddr", "port", "dbname", "database"}
	sessionNames = []string{"sslmode", "ssl", "sslrootcert", "sslnegotiation", "channel_binding", "require_auth", "target_session_attrs", "options"}
)

// placeParameters are the parameters that we use, by name. Of others there may be any.
func (u URL) placeParameters() (map[string]string, error) {
	found := map[string]string{}
	for _, p := range u.parameters() {
		name := p.plainName()
		place := slices.Contains(placeNames, name)
		if !place && !slices.Contains(sessionNames, p.name) {
			continue
		}
		if place && name != p.name {
			return nil, fmt.Errorf("the URL's query holds the parameter %q, not in lower case: some clients fail and others ignore it; write %s", name, name)
		}
		if _, twice := found[name]; twice {
			return nil, fmt.Errorf("the URL's query holds the parameter %q twice, and clients differ in which one they use; leave one out", name)
		}
		value, err := url.PathUnescape(p.value)
		switch {
		case err != nil:
			return nil, fmt.Errorf("the value of the URL's parameter %q is not percent-encoded; write '%%' as %%25", name)
		case strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7f }) || !utf8.ValidString(value):
			return nil, fmt.Errorf("the value of the URL's parameter %q holds a control character or bytes that are not UTF-8", name)
		case place && value == "":
			return nil, fmt.Errorf("the URL's parameter %q is empty, which clients read differently; give it a value or leave it out", name)
		case place && strings.ContainsAny(p.value, "+="):
			return nil, fmt.Errorf("the value of the URL's parameter %q holds '+' or '=', which clients read differently; write %%2B or %%3D", name)
		}
		found[name] = value
	}
	return found, nil
}

// database is what stands after the host, decoded.
func (u URL) database(query map[string]string) (string, error) {
	_, path, _ := strings.Cut(strings.SplitN(u.Rest, "?", 2)[0], "/")
	name, err := url.PathUnescape(path)
	switch {
	case err != nil:
		return "", errors.New("the database in the URL is not percent-encoded; write '%' as %25")
	case strings.Contains(path, "/"):
		return "", errors.New("the database in the URL holds '/', at which some clients end it; leave it out, or write %2F")
	case strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f }) || !utf8.ValidString(name):
		return "", errors.New("the database in the URL holds a control character or bytes that are not UTF-8")
	}
	for _, param := range []string{"dbname", "database"} {
		if value, given := query[param]; given && value != name {
			return "", fmt.Errorf("the URL's parameter %q is not the database that stands after the host, and some clients use the one, some the other; leave the parameter out and write the database after the host", param)
		}
	}
	return name, nil
}

// authority reads host[:port],… as libpq does: brackets go, and what is percent-encoded is decoded after commas have joined
// both lists.
func (u URL) authority() (hosts, ports []string, err error) {
	for _, one := range strings.Split(u.Host(), ",") {
		var host, port string
		if strings.HasPrefix(one, "[") {
			end := strings.IndexByte(one, ']')
			if end < 0 || one[end+1:] != "" && one[end+1] != ':' {
				return nil, nil, errors.New("the URL's host is not of the form [address]:port")
			}
			host, port = one[1:end], strings.TrimPrefix(one[end+1:], ":")
			if plain, err := url.PathUnescape(host); err != nil || !strings.Contains(plain, ":") {
				return nil, nil, errors.New("what stands in brackets in the URL is not an IPv6 address")
			}
		} else {
			host, port, _ = strings.Cut(one, ":")
		}
		hosts, ports = append(hosts, host), append(ports, port)
	}
	decoded, err := url.PathUnescape(strings.Join(hosts, ","))
	if err != nil {
		return nil, nil, errors.New("the URL's host is not percent-encoded; write '%' as %25")
	}
	return strings.Split(decoded, ","), ports, nil
}

// readHosts sets the hosts: parameters of the query go over what stands before the path.
func (t *Target) readHosts(query map[string]string) error {
	hosts, ports, err := t.authority()
	if err != nil {
		return err
	}
	before, explicit := strings.Join(hosts, ","), strings.Trim(strings.Join(ports, ","), ",")
	if value, given := query["host"]; given {
		if strings.HasPrefix(before, "/") && before != value {
			return errors.New("the URL names a socket before the path and another host in its query; leave one out")
		}
		hosts = strings.Split(value, ",")
	} else if before == "" {
		hosts = nil
	}
	if value, given := query["port"]; given {
		if explicit != "" && value != strings.Join(ports, ",") {
			return errors.New("the URL names a port before the path and another in its query, and clients differ in which one they use (Prisma does not read the query's); leave one out")
		}
		ports = strings.Split(value, ",")
		if before != "" && explicit == "" && value != strconv.Itoa(postgresPort) {
			t.notes = append(t.notes, "the URL names its port in the query, where Prisma does not read it; write it after the host before the path")
		}
	}
	addrs := make([]string, len(hosts))
	if value, given := query["hostaddr"]; given {
		addrs = strings.Split(value, ",")
		if hosts == nil {
			hosts = make([]string, len(addrs))
		}
		if len(addrs) != len(hosts) {
			return errors.New("the URL's hostaddr lists another number of addresses than there are hosts")
		}
		t.notes = append(t.notes, "the URL's hostaddr is read by clients of libpq only; others connect to its host, or fail")
	}
	if len(ports) != 1 && len(ports) != len(hosts) {
		return errors.New("the URL lists another number of ports than there are hosts; give one for all, or one for each")
	}
	for n, host := range hosts {
		port := ports[0]
		if len(ports) > 1 {
			port = ports[n]
		}
		h, err := hostPort(host, port, addrs[n])
		if err != nil {
			return err
		}
		t.Hosts = append(t.Hosts, h)
	}
	if len(t.Hosts) == 0 {
		return errors.New("the URL names no host; it should be of the form postgresql://user:password@host:port/database")
	}
	return nil
}

// hostPort checks one host.
func hostPort(host, port, addr string) (HostPort, error) {
	h := HostPort{Host: host, Addr: addr, Port: postgresPort}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return h, errors.New("the URL's port is not a number from 1 to 65535")
		}
		h.Port = uint16(n)
	}
	if addr != "" {
		ip, err := netip.ParseAddr(addr)
		if err != nil {
			return h, errors.New("the URL's hostaddr is not an IP address")
		}
		if h.Host == "" {
			h.Host = addr
		}
		if _, err := netip.ParseAddr(h.Host); h.Socket() || err == nil && h.Host != addr || h.Host == "localhost" && !ip.IsLoopback() {
			return h, errors.New("the URL's hostaddr is another address than its host, and only clients of libpq read it; leave one out")
		}
	}
	switch {
	case h.Host == "":
		return h, errors.New("one of the URL's hosts is empty; what it means differs from client to client")
	case strings.ContainsAny(h.Host, `@[]\?#`) || strings.ContainsFunc(h.Host, func(c rune) bool { return c <= ' ' || c == 0x7f }) || !utf8.ValidString(h.Host):
		return h, errors.New(`the URL's host holds a blank, a control character or one of @ [ ] \ ? #; a host is a name, an address (in brackets before the path only) or the absolute path of a directory of sockets`)
	case !h.Socket() && strings.ContainsAny(h.Host, "/"):
		return h, errors.New("the URL's host holds '/' and does not begin with it; a directory of sockets is an absolute path")
	}
	return h, nil
}

// What values there are.
var (
	sslModes    = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
	targetAttrs = []string{"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}
)

// noVerify is what node-postgres has for libpq's require.
const noVerify = "no-verify"

// readSession reads what decides how a client logs in.
func readSession(query map[string]string) (Session, error) {
	s := Session{
		SSLMode: query["sslmode"], SystemRoots: query["sslrootcert"] == "system", SSLNegotiation: query["sslnegotiation"],
		ChannelBinding: query["channel_binding"], RequireAuth: query["require_auth"], TargetAttrs: query["target_session_attrs"],
		Options: query["options"],
	}
	if s.SSLMode == noVerify {
		s.SSLMode = "require"
	}
	if ssl := query["ssl"]; ssl == "true" || ssl == "1" { // JDBC's, which libpq reads too
		if s.SSLMode != "" && s.SSLMode != "require" {
			return s, errors.New("the URL's parameters ssl and sslmode contradict each other; leave ssl out")
		}
		s.SSLMode = "require"
	}
	if s.SystemRoots {
		s.SSLMode = "verify-full"
	}
	for _, one := range []struct {
		name, value string
		all         []string
	}{
		{"sslmode", s.SSLMode, sslModes},
		{"sslnegotiation", s.SSLNegotiation, []string{"postgres", "direct"}},
		{"channel_binding", s.ChannelBinding, []string{"disable", "prefer", "require"}},
		{"target_session_attrs", s.TargetAttrs, targetAttrs},
	} {
		if _, given := query[one.name]; (given || one.value != "") && !slices.Contains(one.all, one.value) {
			return s, fmt.Errorf("the URL's %s is none of %s", one.name, strings.Join(one.all, ", "))
		}
	}
	return s, nil
}
