// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// pattern is one of hosts=: addresses at which a node that another one names may be dialed.
type pattern struct {
	network netip.Prefix // if it is valid
	host    string       // else: a host's name, or the end of one after "*"
	port    string       // "": any
}

// readPatterns reads hosts=. The error quotes nothing: somebody may have put a URL with a password in.
func readPatterns(text string) ([]pattern, error) {
	var all []pattern
	for n, one := range listed(text) {
		p, ok := readPattern(one)
		if !ok {
			return nil, fmt.Errorf("hosts: number %d is no host, *.domain, IP address or network, such as cache-1.internal, *.cache.internal:6379, 10.0.0.7 or 10.0.0.0/24", n+1)
		}
		all = append(all, p)
	}
	return all, nil
}

// listed divides a list with commas or white space in between.
func listed(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c <= ' ' })
}

func readPattern(text string) (p pattern, ok bool) {
	if network, bits, found := strings.Cut(text, "/"); found {
		bits, port, given := strings.Cut(bits, ":")
		prefix, err := netip.ParsePrefix(network + "/" + bits)
		p = pattern{network: prefix.Masked(), port: port}
		return p, err == nil && validPort(port, given)
	}
	host, port, err := net.SplitHostPort(text)
	given := err == nil
	if !given {
		host, port = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), ""
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return pattern{network: netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()), port: port}, validPort(port, given)
	}
	name, wild := strings.CutPrefix(host, "*.")
	ok = name != "" && !strings.ContainsAny(name, "*:@/[]") && validPort(port, given)
	if wild {
		name = "*." + name
	}
	return pattern{host: canonical(name), port: port}, ok
}

func validPort(port string, given bool) bool {
	_, ok := address("host:" + port)
	return ok || !given && port == ""
}

// canonical is the form in which names of hosts are compared.
func canonical(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

func (p pattern) matches(host, port string) bool {
	if p.port != "" && p.port != port {
		return false
	}
	if p.network.IsValid() {
		ip, err := netip.ParseAddr(host)
		return err == nil && p.network.Contains(ip.Unmap())
	}
	end, wild := strings.CutPrefix(p.host, "*")
	return canonical(host) == p.host || wild && strings.HasSuffix(canonical(host), end) && len(canonical(host)) > len(end)
}

// allows reports whether an operator allows to dial an address that a node has named: it is url's, one of nodes, an IP
// address of one of these, or hosts= has it.
func (a admin) allows(ctx context.Context, addr string) bool {
	own := append([]string{a.addr}, a.seeds...)
	if slices.Contains(own, addr) {
		return true
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if slices.ContainsFunc(a.hosts, func(p pattern) bool { return p.matches(host, port) }) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && slices.ContainsFunc(own, func(one string) bool { return a.resolves(ctx, one, ip, port) })
}

// resolves reports whether an address that an operator gave with a name leads to an IP address.
func (a admin) resolves(ctx context.Context, addr string, to netip.Addr, port string) bool {
	host, own, err := net.SplitHostPort(addr)
	if err != nil || own != port {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false // two addresses that differ
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	ips, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	return slices.ContainsFunc(ips, func(ip netip.Addr) bool { return ip.Unmap() == to.Unmap() })
}

// stranger is an address that a node has named and no operator allows.
type stranger struct{ addr, from string }

func (s stranger) text(c kind.Connection) string {
	// In quotes: whoever announces himself chooses the words.
	return fmt.Sprintf("node %s names a node at %.100q, which is not allowed and was not asked; if it is yours, add it to hosts= (or nodes=) of hyvve/connections/%s, else find out who announces it", s.from, s.addr, c.Name)
}

// fewStrangers is how many of them are named.
const fewStrangers = 5

// texts says what is not allowed, of the first few.
func texts(c kind.Connection, strangers []stranger) (all []string) {
	for _, s := range strangers[:min(len(strangers), fewStrangers)] {
		all = append(all, s.text(c))
	}
	if more := len(strangers) - fewStrangers; more > 0 {
		all = append(all, fmt.Sprintf("nodes name %d more addresses that are not allowed", more))
	}
	return all
}
