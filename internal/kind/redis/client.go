// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// adminRights are what the administrator needs (docs/redis.md says what for).
const adminRights = "+info +acl|getuser +acl|setuser +acl|deluser +acl|log +client|list +client|kill +config|get +config|rewrite +acl|save +cluster|nodes"

const (
	// ownName marks our sessions, which count as nobody's use.
	ownName = "hyvve-engine"
	// adminSessions is how many sessions an administrator has at a node at most: what rotations do at the same time waits
	// for them.
	adminSessions = 8
	// idleSession is after what time a session is not used again: servers and firewalls end those that are silent.
	idleSession = time.Minute
	// resp is the protocol: of version 2, in which a reply has one form only.
	resp = 2
)

// account identifies a client that is kept.
type account struct {
	connection string
	revision   uint64
	password   int // of the connection's Passwords
	addr       string
}

// client speaks to one address. Nothing is tried twice behind our back, no more is sent than we say, and no reply is larger
// than the limit.
func client(addr, user string, password key.Value, timeout time.Duration, secure *tls.Config, limit int) *goredis.Client {
	dialer := net.Dialer{Timeout: timeout, KeepAlive: time.Minute}
	dial := dialer.DialContext
	if secure != nil {
		dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			spoken := tls.Client(conn, secure)
			if err := spoken.HandshakeContext(ctx); err != nil {
				_ = conn.Close()
				return nil, handshake{err}
			}
			return spoken, nil
		}
	}
	return goredis.NewClient(&goredis.Options{
		Addr: addr, Protocol: resp,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &meter{Conn: conn, addr: addr, limit: limit}, nil
		},
		OnConnect: func(ctx context.Context, conn *goredis.Conn) error {
			// The driver would log in with HELLO, and give us the words of a server that quotes what it does not understand.
			args := []any{"AUTH", user, password.Reveal()}
			if user == "" {
				args = []any{"AUTH", password.Reveal()}
			}
			if user != "" || !password.Empty() {
				if err := conn.Do(ctx, args...).Err(); err != nil {
					if answered(err) && !goredis.IsAuthError(err) {
						return noLogin
					}
					return err
				}
			}
			// Every user may run HELLO after login, unlike CLIENT SETNAME. A proxy that does not know it lists no clients, either.
			if err := conn.Do(ctx, "HELLO", resp, "SETNAME", ownName).Err(); err != nil && !answered(err) {
				return err
			}
			return nil
		},
		DialTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout, PoolTimeout: timeout, ContextTimeoutEnabled: true,
		MaxRetries: -1, DialerRetries: 1, PoolSize: adminSessions, PipelinePoolSize: -1, ConnMaxIdleTime: idleSession,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// do runs a command at a node, as the administrator, with whichever password is in force. Sessions are kept for the next
// time. Every command that we run may be run again.
func (k *Kind) do(ctx context.Context, c kind.Connection, addr string, args ...any) (any, error) {
	a, err := readAdmin(c)
	if err != nil {
		return nil, err
	}
	for n, password := range c.Passwords() {
		var reply any
		reply, err = k.ask(ctx, account{c.Name, c.Revision, n, addr}, a, password, args)
		if err == nil || !goredis.IsAuthError(err) {
			return reply, plain(err, addr, a.user, args)
		}
	}
	err = plain(err, addr, a.user, args)
	return nil, fault{fmt.Sprintf("%v. Has somebody changed the password, or has the node been started again without its users? Give the administrator a password of your choice there: ACL SETUSER %s on >PASSWORD %s; then write it with: vault write hyvve/connections/%s password=-", err, a.user, adminRights, c.Name), err}
}

// ask is do with one of the passwords.
func (k *Kind) ask(ctx context.Context, l account, a admin, password key.Value, args []any) (any, error) {
	for again := false; ; again = true {
		one, kept := k.borrow(l, a, password)
		reply, err := await(ctx, func() (any, error) {
			defer k.giveBack(one)
			return one.Do(ctx, args...).Result()
		})
		switch {
		case errors.Is(err, goredis.Nil):
			return nil, nil
		case err == nil || answered(err) && !goredis.IsAuthError(err):
			return reply, err
		}
		busy := errors.Is(err, goredis.ErrPoolTimeout) || ctx.Err() != nil
		if !busy {
			k.drop(l, one)
		}
		// A server that was started again has ended the sessions that we keep without a word.
		if again || !kept || busy || answered(err) || late(err) {
			return nil, err
		}
	}
}

// await waits for a command until its context ends. The driver looks at a context's deadline, and not whether it is cancelled.
func await(ctx context.Context, run func() (any, error)) (any, error) {
	var reply any
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		reply, err = run()
	}()
	select {
	case <-done:
		return reply, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// pool is the client of a login. It is closed when it is dropped and nobody is in the midst of using it: what a call finds
// out must not end what others are about.
type pool struct {
	*goredis.Client
	users   int
	dropped bool
}

// borrow returns the client that is kept, or one that will be. It is to be given back.
func (k *Kind) borrow(l account, a admin, password key.Value) (one *pool, kept bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	one, kept = k.clients[l]
	if !kept {
		for other := range k.clients {
			if other.connection == l.connection && other.revision != l.revision {
				k.forget(other)
			}
		}
		one = &pool{Client: client(l.addr, a.user, password, a.timeout, a.tls(l.addr, a.secure, a.hostname), largeReply)}
		k.clients[l] = one
	}
	one.users++
	return one, kept
}

func (k *Kind) giveBack(one *pool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if one.users--; one.users == 0 && one.dropped {
		_ = one.Close()
	}
}

// drop has a client used no more, unless another is in its place already.
func (k *Kind) drop(l account, one *pool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.clients[l] == one {
		k.forget(l)
	}
}

// forget is drop for who holds the mutex.
func (k *Kind) forget(l account) {
	one := k.clients[l]
	delete(k.clients, l)
	if one.dropped = true; one.users == 0 {
		_ = one.Close()
	}
}

// keep drops the clients of nodes that a connection no longer has.
func (k *Kind) keep(c kind.Connection, addrs map[string]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for l := range k.clients {
		if l.connection == c.Name && !addrs[l.addr] {
			k.forget(l)
		}
	}
}

// Close ends all sessions; those of calls that go on end with these.
func (k *Kind) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for l := range k.clients {
		k.forget(l)
	}
	return nil
}

// answered reports whether the server has said no, and not the network.
func answered(err error) bool {
	var server goredis.Error
	return errors.As(err, &server)
}

// late reports whether nobody has answered in time.
func late(err error) bool {
	var network net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, goredis.ErrPoolTimeout) || errors.As(err, &network) && network.Timeout()
}

// unreached reports whether a node is away, or so it seems from here.
func unreached(err error) bool { return !answered(err) && (late(err) || network(err)) }

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

// meter is a connection to a server that may lie. It fails before the driver allocates more than the limit for a reply. It also
// counts the commands that log in.
type meter struct {
	net.Conn
	addr     string
	limit    int // of replies after the login
	requests int
	left     int    // bytes of the reply to the latest request
	line     []byte // the line that is being read
	body     int    // bytes left of the text that is being read
	err      error
	entering atomic.Bool // a command that logs in is under way
}

func (m *meter) Write(p []byte) (int, error) {
	if logsIn(p) && !m.entering.Swap(true) {
		entered.begin(m.addr)
	}
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
	if n > 0 || err != nil {
		m.answered(n > 0 && ran(p[:n]))
	}
	if m.scan(p[:n]); m.left < 0 {
		m.err = fault{fmt.Sprintf("node %s answers with more than is allowed; is it another server?", m.addr), nil}
		return 0, m.err
	}
	return n, err
}

func (m *meter) Close() error {
	m.answered(false)
	return m.Conn.Close()
}

// answered ends the count of a login command that is under way.
func (m *meter) answered(counted bool) {
	if m.entering.Swap(false) {
		entered.end(m.addr, counted)
	}
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

// defaultPort is Redis's, for URLs that name none.
const defaultPort = "6379"

// defaultUser is whom a URL means that names no user.
const defaultUser = "default"

// addresses are the hosts of a URL as host:port. The error quotes nothing: somebody may have put a password in.
func addresses(u dsn.URL) ([]string, error) {
	var all []string
	for _, host := range strings.Split(u.Host(), ",") {
		addr, ok := address(host)
		if !ok {
			return nil, errors.New("the URL's host is not host:port with a port from 1 to 65535, as redis://cache:6379/0")
		}
		all = append(all, addr)
	}
	return all, nil
}

// address completes host[:port].
func address(text string) (string, bool) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port, err = net.SplitHostPort(text + ":" + defaultPort)
	}
	n, numeric := strconv.Atoi(port)
	if err != nil || host == "" || numeric != nil || n < 1 || n > 65535 {
		return "", false
	}
	return net.JoinHostPort(host, port), true
}

// loopback reports whether an address is this host's own, as far as one sees without asking for names.
func loopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr)
	return kind.IsLoopback(host)
}

// checkDatabase refuses a database that is no number: clients take it for 0, or fail.
func checkDatabase(u dsn.URL) error {
	text := u.Path()
	if text == "" {
		text = u.Query().Get("db")
	}
	if n, err := strconv.Atoi(text); text != "" && (err != nil || n < 0) {
		return errors.New("the URL's database, after the host, is not a number; write one, as redis://cache:6379/0")
	}
	return nil
}

// database is what a URL selects: by its path, or by its parameter db. A URL that an earlier release stored may have one that
// is no number.
func database(u dsn.URL) int {
	text := u.Path()
	if text == "" {
		text = u.Query().Get("db")
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}
