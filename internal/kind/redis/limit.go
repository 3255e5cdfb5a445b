// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
)

// Limits of the reply to one request, in bytes. The driver allocates what a reply announces, before it arrives.
const (
	smallReply = 64 << 10 // of logging in, and of all that a workload's login asks
	largeReply = 64 << 20 // of the administrator's requests: some 150,000 sessions in CLIENT LIST
)

// loginRequests is how many requests log in: AUTH and HELLO.
const loginRequests = 2

// What a list in a reply costs, beside its bytes: itself and each of its items. It bounds also how deep lists nest, since
// the driver reads them recursively.
const (
	listCost = 256
	itemCost = 16
)

// meter is a connection to a server that may lie. It fails before the driver allocates more than the limit for a reply.
type meter struct {
	net.Conn
	addr     string
	limit    int // of replies after the login
	requests int
	left     int    // bytes of the reply to the latest request
	line     []byte // the line that is being read
	body     int    // bytes left of the text that is being read
	err      error
}

func (m *meter) Write(p []byte) (int, error) {
	m.requests++
	m.left = m.limit
	if m.requests <= loginRequests {
		m.left = smallReply
	}
	return m.Conn.Write(p)
}

func (m *meter) Read(p []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	n, err := m.Conn.Read(p)
	if m.scan(p[:n]); m.left < 0 {
		m.err = fault{fmt.Sprintf("node %s answers with more than is allowed; is it another server?", m.addr), nil}
		return 0, m.err
	}
	return n, err
}

// scan takes from left what arrives and what it announces.
func (m *meter) scan(p []byte) {
	m.left -= len(p)
	for len(p) > 0 && m.left >= 0 {
		if m.body > 0 {
			n := min(m.body, len(p))
			m.body, p = m.body-n, p[n:]
			continue
		}
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			m.line = append(m.line, p...)
			return
		}
		m.line = append(m.line, p[:end]...)
		p = p[end+1:]
		m.header(bytes.TrimRight(m.line, "\r"))
		m.line = m.line[:0]
	}
}

// header reads a line that announces a text or a list. The driver refuses what is neither a number nor -1.
func (m *meter) header(line []byte) {
	if len(line) < 2 {
		return
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil && !errors.Is(err, strconv.ErrRange) || n < 0 {
		return
	}
	switch line[0] {
	case '$', '=', '!':
		if n > m.left {
			m.left = -1
			return
		}
		m.body = n + len("\r\n")
	case '*', '%', '~', '>', '|':
		if n > m.left/itemCost {
			m.left = -1
			return
		}
		m.left -= listCost + 2*n*itemCost // a map has twice as many
	}
}
