// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
)

// node is a server that answers: a master, a replica or a node of a cluster.
type node struct {
	addr string // where we reach it
	info map[string]string
}

// discover finds the nodes of a connection: its own, those that it names, and whom these know. The first is the
// connection's own where that answers. The error is of those that do not answer or are not allowed; the others are given
// nevertheless.
func (k *Kind) discover(ctx context.Context, c kind.Connection) ([]node, error) {
	nodes, strangers, err := k.explore(ctx, c)
	errs := []error{err}
	for _, text := range texts(c, strangers) {
		errs = append(errs, fault{text, nil})
	}
	return nodes, together(errs...)
}

// explore is discover that tells apart the addresses that nobody allows. They are not dialed.
func (k *Kind) explore(ctx context.Context, c kind.Connection) (found []node, strangers []stranger, err error) {
	a, err := readAdmin(c)
	if err != nil {
		return nil, nil, err
	}
	var faults []error
	allowed := a.allowed()
	runs := map[string]bool{} // servers, which may be reached at several addresses
	known := map[string]bool{}
	from := map[string]string{} // who has named a node
	next := unknown(append([]string{a.addr}, a.seeds...), known)
	for len(next) > 0 {
		surveys := make([]survey, len(next))
		faults = append(faults, each(next, func(i int, addr string) (err error) {
			surveys[i], err = k.survey(ctx, c, addr)
			switch {
			case err == nil || from[addr] == "":
			case goredis.IsAuthError(err):
				err = fault{fmt.Sprintf("%v (%s has named it; give it the administrator that the other nodes have)", err, from[addr]), err}
			case unreached(err):
				err = fault{fmt.Sprintf("%v (%s has named it; start it, or take it out there, or write nodes=%s=host:port if it is reached elsewhere from here)", err, from[addr], addr), err}
			}
			return err
		}))
		var more []string
		for i, s := range surveys {
			for _, addr := range s.neighbours {
				if to, ok := a.alias[addr]; ok {
					addr = to
				}
				if from[addr] != "" || known[addr] {
					continue
				}
				if from[addr] = next[i]; !allowed.dials(ctx, addr) {
					strangers = append(strangers, stranger{addr, next[i]})
					continue
				}
				if len(from) > maxNodes {
					return found, strangers, fault{fmt.Sprintf("node %s names more than %d nodes; is it another server?", next[i], maxNodes), nil}
				}
				more = append(more, addr)
			}
			if id := s.info["run_id"]; s.info != nil && !runs[id] {
				runs[id] = id != ""
				found = append(found, node{next[i], s.info})
			}
		}
		next = unknown(more, known)
	}
	k.keep(c, known)
	return found, strangers, together(faults...)
}

// unknown are those not known yet, which they are from now on.
func unknown(addrs []string, known map[string]bool) (all []string) {
	for _, addr := range addrs {
		if !known[addr] {
			known[addr] = true
			all = append(all, addr)
		}
	}
	return all
}

// survey is what a node says of itself and of others.
type survey struct {
	info       map[string]string
	neighbours []string
}

// maxNodes is how many nodes a connection may have: Redis advises no more in a cluster.
const maxNodes = 1000

// maxLines is how many lines an answer to INFO may have: a line for each of ten thousand replicas, and some hundreds. What is made
// of lines of a few bytes would take many times their size.
const maxLines = 20_000

// oldest is the first release that has users.
const oldest = 6

func (k *Kind) survey(ctx context.Context, c kind.Connection, addr string) (s survey, err error) {
	reply, err := k.do(ctx, c, addr, "INFO")
	if err != nil {
		return s, err
	}
	text, _ := reply.(string)
	if strings.Count(text, "\n") > maxLines {
		return s, fault{fmt.Sprintf("node %s answers to INFO with more than %d lines; is it another server?", addr, maxLines), nil}
	}
	info := readInfo(text)
	if info["redis_version"] == "" {
		return s, fault{fmt.Sprintf("node %s does not answer as Redis does: INFO has no redis_version; is it another server?", addr), nil}
	}
	major, _, _ := strings.Cut(info["redis_version"], ".")
	if version, err := strconv.Atoi(major); err == nil && version < oldest {
		return s, fault{fmt.Sprintf("node %s is Redis %s; users need %d or newer", addr, info["redis_version"], oldest), nil}
	}
	if info["redis_mode"] == "sentinel" {
		return s, fault{fmt.Sprintf("node %s is a Sentinel; name a Redis server that it watches", addr), nil}
	}
	if !clustered(info) {
		return survey{info, replication(text)}, nil
	}
	reply, err = k.do(ctx, c, addr, "CLUSTER", "NODES")
	if err != nil {
		return s, err
	}
	text, _ = reply.(string)
	neighbours, err := clusterNodes(text, addr, strings.HasPrefix(c.Options[login.FieldURL], "rediss:"))
	return survey{info, neighbours}, err
}

// readInfo reads the fields of INFO. A replica announces itself in words of its own, which may look like further lines: of a
// field that comes twice the first is the server's.
func readInfo(text string) map[string]string {
	info := map[string]string{}
	for name, value := range infoLines(text) {
		if _, twice := info[name]; !twice {
			info[name] = value
		}
	}
	return info
}

func infoLines(text string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for line := range strings.Lines(text) {
			if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok && !yield(name, value) {
				return
			}
		}
	}
}

// clustered reports whether a node is one of a cluster. redis_mode comes before what replicas announce.
func clustered(info map[string]string) bool {
	if mode := info["redis_mode"]; mode != "" {
		return mode == "cluster"
	}
	return info["cluster_enabled"] == "1"
}

// replication returns a master's replicas, or a replica's master (INFO's section of that name). It takes every line that
// looks like a replica's: none can hide another.
func replication(text string) (all []string) {
	info := readInfo(text)
	if host := info["master_host"]; host != "" {
		all = append(all, net.JoinHostPort(host, info["master_port"]))
	}
	for name, value := range infoLines(text) {
		if number, ok := strings.CutPrefix(name, "slave"); !ok || !digits(number) {
			continue
		}
		fields := map[string]string{}
		for part := range strings.SplitSeq(value, ",") {
			field, value, _ := strings.Cut(part, "=")
			if _, twice := fields[field]; !twice {
				fields[field] = value
			}
		}
		if fields["ip"] != "" {
			all = append(all, net.JoinHostPort(fields["ip"], fields["port"]))
		}
	}
	return all
}

func digits(text string) bool {
	_, err := strconv.ParseUint(text, 10, 32)
	return err == nil
}

// clusterNodes are the other nodes in an answer to CLUSTER NODES: id ip:port@bus[,hostname[,…]] flags …. Where there are
// certificates the hostname is in them, if there is one.
func clusterNodes(text, addr string, secure bool) ([]string, error) {
	var all []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		flags := "," + fields[2] + ","
		if strings.Contains(flags, ",myself,") || strings.Contains(flags, ",handshake,") {
			continue
		}
		at, names, _ := strings.Cut(fields[1], ",")
		at, _, _ = strings.Cut(at, "@")
		hostname, _, _ := strings.Cut(names, ",")
		colon := strings.LastIndexByte(at, ':')
		if colon < 0 || colon == 0 && hostname == "" || strings.Contains(flags, ",noaddr,") {
			return nil, fault{fmt.Sprintf("node %s knows a node %s of the cluster without its address; bring it back, or take it out with CLUSTER FORGET", addr, fields[0]), nil}
		}
		host, port := at[:colon], at[colon+1:]
		if hostname != "" && (secure || host == "") {
			host = hostname
		}
		all = append(all, net.JoinHostPort(host, port))
	}
	return all, nil
}

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

var (
	_ kind.AdministratorNamer = (*Kind)(nil)
	_ kind.Addresser          = (*Kind)(nil)
)

// Administrator implements kind.AdministratorNamer: the user.
func (*Kind) Administrator(c kind.Connection) string {
	return cmp.Or(c.Options[fieldUsername], defaultUser)
}

// Servers implements kind.LoginNamer: the nodes that the connection names. Users are the same at all of them.
func (*Kind) Servers(c kind.Connection) []string {
	a, err := readAdmin(c)
	if err != nil {
		return nil
	}
	return append([]string{a.addr}, a.seeds...)
}

// Allowed implements kind.Addresser. Where nodes may be that others name, keys may lead, too.
func (k *Kind) Allowed(c kind.Connection) (kind.Hosts, error) {
	own, err := kind.AllowedHosts(c, k.Servers(c)...)
	if err != nil {
		return own, err
	}
	nodes, err := kind.ParseHosts(c.Options[fieldHosts])
	if err != nil {
		return own, fmt.Errorf("%s: %w", fieldHosts, err)
	}
	return own.And(nodes), nil
}
