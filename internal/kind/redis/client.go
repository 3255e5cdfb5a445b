// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

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

// login tells apart the clients that are kept.
type login struct {
	connection string
	revision   uint64
	password   int // of the connection's Passwords
	addr       string
}

// client speaks to one address. Nothing is tried twice behind our back, and no more is sent than we say.
func client(addr, user string, password key.Value, timeout time.Duration, secure *tls.Config) *goredis.Client {
	dialer := net.Dialer{Timeout: timeout, KeepAlive: time.Minute}
	dial := dialer.DialContext
	if secure != nil {
		dial = (&tls.Dialer{NetDialer: &dialer, Config: secure}).DialContext
	}
	return goredis.NewClient(&goredis.Options{
		Addr: addr, Username: user, Password: password.Reveal(), Protocol: resp, Dialer: dial,
		OnConnect: func(ctx context.Context, conn *goredis.Conn) error {
			if password.Empty() && user != "" { // the driver takes that for nobody
				if err := conn.Do(ctx, "AUTH", user, "").Err(); err != nil {
					return err
				}
			}
			// Whoever has logged in may do this, unlike CLIENT SETNAME. A proxy that does not know it counts nobody, either.
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
		reply, err = k.ask(ctx, login{c.Name, c.Revision, n, addr}, a, password, args)
		if err == nil || !goredis.IsAuthError(err) {
			return reply, plain(err, addr, a.user, args)
		}
	}
	return nil, plain(err, addr, a.user, args)
}

// ask is do with one of the passwords.
func (k *Kind) ask(ctx context.Context, l login, a admin, password key.Value, args []any) (any, error) {
	for {
		client, kept := k.client(l, a, password)
		reply, err := client.Do(ctx, args...).Result()
		switch {
		case errors.Is(err, goredis.Nil):
			return nil, nil
		case err == nil || answered(err) && !goredis.IsAuthError(err):
			return reply, err
		}
		k.drop(l, client)
		// A server that was started again has ended our sessions without a word, and somebody else may have noticed first.
		if !kept && !errors.Is(err, goredis.ErrClosed) || answered(err) || late(err) || ctx.Err() != nil {
			return nil, err
		}
	}
}

// client gives the one that is kept, or one that will be.
func (k *Kind) client(l login, a admin, password key.Value) (one *goredis.Client, kept bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if one, ok := k.clients[l]; ok {
		return one, true
	}
	for other, old := range k.clients {
		if other.connection == l.connection && other.revision != l.revision {
			delete(k.clients, other)
			_ = old.Close()
		}
	}
	one = client(l.addr, a.user, password, a.timeout, a.tls(l.addr, a.secure, a.hostname))
	k.clients[l] = one
	return one, false
}

func (k *Kind) drop(l login, one *goredis.Client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.clients[l] == one {
		delete(k.clients, l)
	}
	_ = one.Close()
}

// keep drops the clients of nodes that a connection no longer has.
func (k *Kind) keep(c kind.Connection, addrs map[string]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for l, one := range k.clients {
		if l.connection == c.Name && !addrs[l.addr] {
			delete(k.clients, l)
			_ = one.Close()
		}
	}
}

// Close ends all sessions.
func (k *Kind) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for l, one := range k.clients {
		delete(k.clients, l)
		_ = one.Close()
	}
	return nil
}

// answered tells whether the server has said no, and not the network.
func answered(err error) bool {
	var server goredis.Error
	return errors.As(err, &server)
}

// late tells whether nobody has answered in time.
func late(err error) bool {
	var network net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, goredis.ErrPoolTimeout) || errors.As(err, &network) && network.Timeout()
}
