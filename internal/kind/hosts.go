// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Hosts is a set of hosts that an operator allows. The zero Hosts allows none.
type Hosts struct {
	rules    []hostRule
	loopback bool // every name and address of this machine
}

// hostRule allows a name, the names below a domain, the addresses in a range, or anything.
type hostRule struct {
	any    bool
	name   string // in lower case, or the path of a socket
	domain string // with its leading dot
	prefix netip.Prefix
	port   string // empty: any
}

// hostForms says what ParseHosts reads.
const hostForms = "a host name, *.domain, an address, a CIDR or the path of a socket; each may end in :port"

// ParseHosts reads hosts with commas or white space between: names, *.domain, addresses, CIDRs and paths of sockets, each
// with :port where only that port is meant ([…]:port for IPv6), or * for any host. The error quotes nothing: somebody may
// have written a URL with a password.
func ParseHosts(text string) (Hosts, error) {
	var h Hosts
	for n, one := range SplitList(text) {
		r, ok := parseHostRule(one)
		if !ok {
			return Hosts{}, fmt.Errorf("number %d is not %s", n+1, hostForms)
		}
		h.rules = append(h.rules, r)
	}
	return h, nil
}

// SplitList splits a list with commas or white space between.
func SplitList(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\n' || c == '\t' || c == '\r' })
}

func parseHostRule(text string) (r hostRule, ok bool) {
	if strings.HasPrefix(text, "/") {
		return hostRule{name: text}, true
	}
	host, port, ok := cutPort(text)
	if !ok {
		return r, false
	}
	r.port = port
	if host == "*" {
		r.any = true
		return r, true
	}
	if prefix, err := netip.ParsePrefix(host); err == nil {
		r.prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()).Masked()
		return r, r.prefix.IsValid()
	}
	if addr, ok := parseAddr(host); ok {
		r.prefix = netip.PrefixFrom(addr, addr.BitLen())
		return r, true
	}
	host = lowerHost(host)
	if domain, ok := strings.CutPrefix(host, "*"); ok {
		r.domain = domain
		return r, len(domain) > 1 && domain[0] == '.' && isHostName(domain[1:])
	}
	r.name = host
	return r, isHostName(host)
}

// cutPort splits host[:port], where an IPv6 address or range with a port stands in brackets.
func cutPort(text string) (host, port string, ok bool) {
	if rest, bracket := strings.CutPrefix(text, "["); bracket {
		inner, rest, closed := strings.Cut(rest, "]")
		port, colon := strings.CutPrefix(rest, ":")
		return inner, port, closed && (rest == "" || colon && isPort(port))
	}
	if strings.Count(text, ":") != 1 { // none, or an IPv6 address by itself
		return text, "", text != ""
	}
	host, port, _ = strings.Cut(text, ":")
	return host, port, host != "" && isPort(port)
}

func isPort(text string) bool {
	n, err := strconv.Atoi(text)
	return err == nil && n >= 1 && n <= 65535
}

func isHostName(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' && c < 0x80
	})
}

func lowerHost(text string) string { return strings.ToLower(strings.TrimSuffix(text, ".")) }

func parseAddr(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return addr, false
	}
	return addr.WithZone("").Unmap(), true
}

// OpenHosts returns a note where FieldAllowedHosts of a connection allows any host, so that it protects nothing.
func OpenHosts(c Connection) []string {
	h, err := ParseHosts(c.Options[FieldAllowedHosts])
	if err != nil || !slices.ContainsFunc(h.rules, func(r hostRule) bool { return r.any || r.prefix.IsValid() && r.prefix.Bits() == 0 }) {
		return nil
	}
	return []string{FieldAllowedHosts + " allows any host: a user who may write a key can have its new passwords sent to any host; name the hosts"}
}

// HostsOf allows the hosts of addresses (host, host:port or the path of a socket), at any port. Where one of them is this
// machine, all of its names, loopback addresses and sockets are meant.
func HostsOf(addresses ...string) Hosts {
	var h Hosts
	for _, at := range addresses {
		host := hostOf(at)
		if IsLoopback(host) {
			h.loopback = true
		}
		if r, ok := parseHostRule(bracketed(host)); ok {
			h.rules = append(h.rules, r)
		}
	}
	return h
}

func hostOf(at string) string {
	if strings.HasPrefix(at, "/") || strings.HasPrefix(at, "@") {
		return at
	}
	if host, _, err := net.SplitHostPort(at); err == nil {
		return host
	}
	return strings.Trim(at, "[]")
}

func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// IsLoopback reports whether a host is this machine: localhost, a loopback address, or a socket. No name is resolved.
func IsLoopback(host string) bool {
	if addr, ok := parseAddr(host); ok {
		return addr.IsLoopback()
	}
	name := lowerHost(host)
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@")
}

// And returns the hosts that either of the two allows.
func (h Hosts) And(o Hosts) Hosts {
	return Hosts{append(slices.Clone(h.rules), o.rules...), h.loopback || o.loopback}
}

// Empty reports whether no host is allowed.
func (h Hosts) Empty() bool { return len(h.rules) == 0 && !h.loopback }

// Allow reports whether an operator allowed a host at a port. An empty port is one that is not known: only what allows all
// ports allows it. No name is resolved: a rule of addresses allows no name.
func (h Hosts) Allow(host, port string) bool {
	if h.loopback && IsLoopback(host) {
		return true
	}
	addr, isAddr := parseAddr(host)
	name := lowerHost(host)
	return slices.ContainsFunc(h.rules, func(r hostRule) bool {
		switch {
		case r.port != "" && r.port != port:
			return false
		case r.any:
			return true
		case isAddr:
			return r.prefix.IsValid() && r.prefix.Contains(addr)
		case strings.HasPrefix(r.name, "/"):
			return r.name == host
		case r.domain != "":
			return strings.HasSuffix(name, r.domain) && len(name) > len(r.domain)
		}
		return r.name != "" && r.name == name
	})
}

// AllowAddress is Allow of host:port; an address without a port has one that is not known.
func (h Hosts) AllowAddress(at string) bool {
	host := hostOf(at)
	_, port, err := net.SplitHostPort(at)
	if err != nil {
		port = ""
	}
	return h.Allow(host, port)
}

// LoginNamer is the capability of a Server with connections to say as whom a value logs in. By it the engine sees that two
// keys share a login, which a rotation of one of them would take away from the other.
type LoginNamer interface {
	// Login returns the identity at the server that a value logs in as.
	Login(value key.Value) (string, error)
	// Servers returns where the server of a connection is reached, as host:port: connections that have one of these in common
	// lead to the same server.
	Servers(c Connection) []string
}

// AdministratorNamer is the capability of a LoginNamer to say as whom a connection itself logs in. By it the engine sees that
// two connections have one administrator, whose password it must not change for one of them alone.
type AdministratorNamer interface {
	LoginNamer
	// Administrator returns the identity at the server; empty: it is not known.
	Administrator(c Connection) string
}

// Addresser is the capability of a kind with connections to say where its keys lead. The engine sends no value to a host
// that the connection does not allow.
type Addresser interface {
	// Allowed returns the hosts to which keys of a connection may lead: see AllowedHosts.
	Allowed(c Connection) (Hosts, error)
	// Leads returns the addresses, as host:port, at which the kind tries a value of a key beyond the connection's own: those
	// of the value, where there is one, and of the options. None, where the options say that it is not tried there.
	Leads(options Options, value key.Value) ([]string, error)
}

// FieldAllowedHosts is the field of a connection with further hosts to which its keys may lead.
const FieldAllowedHosts = "allowed_hosts"

// AllowedHostsField describes FieldAllowedHosts.
func AllowedHostsField() Field {
	return Field{Name: FieldAllowedHosts, Harmless: true, Description: "Hosts to which URLs of keys may lead beside those that this connection names itself, with commas between: names, *.domain, IP addresses and networks, each with :port or for any port. New passwords are tried nowhere else."}
}

// AllowedHosts returns the hosts at the addresses that a connection names, and those of FieldAllowedHosts.
func AllowedHosts(c Connection, addresses ...string) (Hosts, error) {
	more, err := ParseHosts(c.Options[FieldAllowedHosts])
	if err != nil {
		return Hosts{}, fmt.Errorf("%s: %w", FieldAllowedHosts, err)
	}
	return HostsOf(addresses...).And(more), nil
}
