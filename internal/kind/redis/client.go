// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

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
			entered.add(addr) // for the HELLO with which the driver has begun
			args := []any{"AUTH", user, password.Reveal()}
			if user == "" {
				args = []any{"AUTH", password.Reveal()}
			}
			if user != "" || !password.Empty() {
				err := conn.Do(ctx, args...).Err()
				if err == nil || answered(err) {
					entered.add(addr)
				}
				if err != nil {
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
			entered.add(addr)
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
