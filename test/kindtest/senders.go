// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// impostor is a server that asks every client for a password in the clear, and keeps what it receives.
type impostor struct {
	net.Listener
	mu    sync.Mutex
	heard bytes.Buffer
	calls int
}

func newImpostor(t testing.TB) *impostor {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &impostor{Listener: listener}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go i.talk(conn)
		}
	}()
	return i
}

// PostgreSQL's codes of a request for TLS and of protocol 3.0, and its request for a password in the clear.
const (
	sslRequest = 80877103
	protocol3  = 3 << 16
)

var cleartext = []byte{'R', 0, 0, 0, 8, 0, 0, 0, 3}

func (i *impostor) talk(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // nobody waits for it
	i.mu.Lock()
	i.calls++
	i.mu.Unlock()
	buffer := make([]byte, 4096)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		said := buffer[:n]
		i.mu.Lock()
		i.heard.Write(said)
		i.mu.Unlock()
		answer := []byte("+OK\r\n")
		if n >= 8 {
			switch binary.BigEndian.Uint32(said[4:8]) {
			case sslRequest:
				answer = []byte("N")
			case protocol3:
				answer = cleartext
			}
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// told reports how often it was called, and whether it has received a secret.
func (i *impostor) told(secret string) (calls int, told bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.calls, bytes.Contains(i.heard.Bytes(), []byte(secret))
}

// secretsStay writes an impostor's address into each field of a connection that is said not to decide where a secret is
// sent: the engine lets such a field change without the secret being given again.
func secretsStay(s *suite) {
	fields := s.connector().ConnectionFields()
	scheme, _, _ := strings.Cut(s.Connection.Options[fieldURL], "://")
	for _, f := range fields {
		if f.Secret {
			continue
		}
		rogue := newImpostor(s)
		at := rogue.Addr().String()
		for _, text := range []string{at, scheme + "://" + at, scheme + "://someone@" + at, scheme + "://someone@" + at + "/app"} {
			c := s.Connection
			c.Options, c.Secrets = maps.Clone(c.Options), maps.Clone(c.Secrets)
			c.Options[f.Name] = text
			free := map[string]string{} // secrets that need not be given again, by field
			for _, secret := range fields {
				if secret.Secret && !secret.Lines && len(kind.Moved(fields, secret, s.Connection.Options, c.Options)) == 0 {
					free[secret.Name] = canary + "-" + secret.Name
					c.Secrets[secret.Name] = key.NewValue(free[secret.Name])
					s.secrets.add(s, c.Secrets[secret.Name])
				}
			}
			c, err := s.connector().NormalizeConnection(c)
			if err != nil || len(free) == 0 {
				continue
			}
			c.Revision += 1000
			_ = s.within(failing, "CheckConnection", func(ctx context.Context) error {
				_, err := s.connector().CheckConnection(ctx, c)
				return err
			})
			for name, secret := range free {
				if calls, told := rogue.told(secret); told || calls > 0 && f.Harmless {
					s.Errorf("field %s is said to decide nothing about where %s is sent, and a server that it names is called %d times, and told the secret: %t", f.Name, name, calls, told)
				}
			}
		}
	}
}
