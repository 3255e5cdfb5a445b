// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// allowed decides which addresses that nodes have named may be dialed. It is for one goroutine, and for one search for nodes.
type allowed struct {
	admin
	ips map[string][]netip.Addr // of the names that an operator gave: nodes may name thousands of addresses
}

func (a admin) allowed() allowed { return allowed{a, map[string][]netip.Addr{}} }

// dials reports whether an operator allows to dial an address that a node has named: it is url's, one of nodes, an IP
// address of one of these, or hosts= has it.
func (a allowed) dials(ctx context.Context, addr string) bool {
	own := append([]string{a.addr}, a.seeds...)
	if slices.Contains(own, addr) {
		return true
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if a.hosts.Allow(host, port) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && slices.ContainsFunc(own, func(one string) bool { return a.resolves(ctx, one, ip, port) })
}

// resolves reports whether an address that an operator gave with a name leads to an IP address.
func (a allowed) resolves(ctx context.Context, addr string, to netip.Addr, port string) bool {
	host, own, err := net.SplitHostPort(addr)
	if err != nil || own != port {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false // two addresses that differ
	}
	ips, looked := a.ips[host]
	if !looked {
		ctx, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		ips, _ = net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		a.ips[host] = ips
	}
	return slices.ContainsFunc(ips, func(ip netip.Addr) bool { return ip.Unmap() == to.Unmap() })
}

// stranger is an address that a node has named and no operator allows.
type stranger struct{ addr, from string }

func (s stranger) text(c kind.Connection) string {
	// In quotes: the node that announces the address chooses the text.
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
