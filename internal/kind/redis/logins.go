// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"bytes"
	"net"
	"sync"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// entered counts, by node, the commands with which sessions of this process log in.
var entered = commands{by: map[string]tally{}}

// commands are AUTH and HELLO, which the node counts too.
type commands struct {
	mu sync.Mutex
	by map[string]tally
}

// tally is how many login commands of ours a node has answered, and how many wait for an answer. The node has counted all that
// it has answered, and may have counted those under way.
type tally struct{ answered, underWay uint64 }

// begin counts a login command that is about to be sent.
func (c *commands) begin(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.by[oneName(addr)]
	one.underWay++
	c.by[oneName(addr)] = one
}

// end counts the end of a login command. Unless the node has certainly run it, it is forgotten: if the node has counted it after
// all, it counts as somebody else's.
func (c *commands) end(addr string, counted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.by[oneName(addr)]
	one.underWay--
	if counted {
		one.answered++
	}
	c.by[oneName(addr)] = one
}

func (c *commands) at(addr string) tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[oneName(addr)]
}

// oneName returns an address with one name for this machine, which has several.
func oneName(addr string) string {
	if host, port, err := net.SplitHostPort(addr); err == nil && kind.IsLoopback(host) {
		return net.JoinHostPort("localhost", port)
	}
	return addr
}

// logsIn reports whether a request is one of the commands that the node counts as logins.
func logsIn(request []byte) bool {
	var words [3][]byte // the number of words, the length of the first, the first
	for n := range words {
		words[n], request, _ = bytes.Cut(request, []byte("\r\n"))
	}
	return bytes.HasPrefix(words[0], []byte("*")) && (bytes.EqualFold(words[2], []byte("AUTH")) || bytes.EqualFold(words[2], []byte("HELLO")))
}

// ran reports whether a reply proves that the node has run a command, and has not refused to: it does not count what it refuses, as
// where it has too many clients or does not know the command.
func ran(reply []byte) bool {
	return !bytes.HasPrefix(reply, []byte("-")) || bytes.HasPrefix(reply, []byte("-NOAUTH ")) || bytes.HasPrefix(reply, []byte("-WRONGPASS "))
}
