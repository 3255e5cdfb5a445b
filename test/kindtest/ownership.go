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
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// somebodyElse stages a version whose login exists already and is not the key's. Stage refuses; that login and its sessions
// stay as they are, also after Unstage, and the key rotates once it has gone.
func somebodyElse(s *suite) {
	c := s.plan()
	held := s.use(c.From)
	theirs := s.Occupy(s, c.To.Value)
	s.secrets.add(s, theirs)
	if !s.Valid(s, theirs) {
		s.Fatal("the value that World.Occupy returns is not valid")
	}
	session := s.Use(s, theirs)
	s.Cleanup(session.End)
	before := s.names()
	intact := func(when string) {
		s.Helper()
		if !s.Valid(s, theirs) || !session.Alive() {
			s.Fatalf("%s changes a login of somebody else, which the key has not made", when)
		}
		s.noStrays("after "+when, before)
		s.expect("after "+when, c, true, false)
	}
	for range 2 {
		s.refuses(c)
		s.fails(stage, c, "although somebody else has a login of that name")
		intact("Stage")
		s.ok(unstage, c)
		intact("Unstage")
	}
	if !held.Alive() {
		s.Error("Stage of a login of somebody else ends a session of the old version")
	}
}

// claimed has a key of another mount claim the old version's login, as two mounts with one name may. Retire refuses it, also with
// Cut, and leaves that login and its sessions as they are.
func claimed(s *suite) {
	c := s.plan()
	s.ok(stage, c)
	s.ok(verify, c)
	c = s.promoted(c)
	other := s.key
	other.Mount = otherMount
	s.Claim(s, c.From.Value, other)
	session := s.use(c.From)
	before := s.names()
	for _, c.Cut = range []bool{false, true} {
		s.fails(retire, c, "although another key has claimed the old version's login")
		s.noStrays("after Retire", before)
		s.expect("after Retire of a claimed login", c, true, true)
		if !session.Alive() {
			s.Error("Retire ends a session of a login that another key has claimed")
		}
	}
}

// refuses sees that a plan of the change would name what stops it.
func (s *suite) refuses(c kind.Change) {
	s.Helper()
	if _, ok := s.Kind.(kind.Preflighter); ok && len(s.blockers(c)) == 0 {
		s.Error("Preflight names no blocker although somebody else has a login of that name")
	}
}

// preflight has nothing to say against a rotation that goes well, at each of its steps, and changes nothing.
func preflight(s *suite) {
	c := s.plan()
	before := s.names()
	clear := func(when string) {
		s.Helper()
		for range 2 {
			if blockers := s.blockers(c); len(blockers) > 0 {
				s.Fatalf("Preflight %s: %s", when, strings.Join(blockers, "; "))
			}
		}
	}
	clear("before Stage")
	s.noStrays("after Preflight", before)
	s.expect("after Preflight", c, true, false)
	s.ok(stage, c)
	clear("after Stage")
	s.expect("after Preflight", c, true, true)
	s.whileDown(func() {
		if _, _, err := s.preflighter().Preflight(s.Context(), c); err == nil {
			s.Error("Preflight succeeds while the server is down")
		}
	})
}

func (s *suite) preflighter() kind.Preflighter {
	p, _ := s.Kind.(kind.Preflighter)
	return p
}

// blockers are what Preflight finds.
func (s *suite) blockers(c kind.Change) (blockers []string) {
	s.Helper()
	var notes []string
	err := s.within(patience, "Preflight", func(ctx context.Context) (err error) {
		blockers, notes, err = s.preflighter().Preflight(ctx, c)
		return err
	})
	if err != nil {
		s.Fatalf("Preflight: %v", err)
	}
	s.secrets.absentText(s, "what Preflight says", strings.Join(append(notes, blockers...), "; "))
	return blockers
}

var undelete = call{"Undelete", func(s *suite, k kind.Server, ctx context.Context, c kind.Change) error {
	undeleter, ok := k.(kind.Undeleter)
	if !ok {
		s.Fatal("kindtest: Undelete of a kind that is no Undeleter")
	}
	return undeleter.Undelete(ctx, c)
}}

// undeleted lets a retired version log in again beside the current one, ends it again, and rotates then.
func undeleted(s *suite) {
	now := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	for range rounds {
		c := s.plan()
		s.ok(stage, c)
		s.ok(verify, c)
		c = s.promoted(c)
		s.ok(retire, c)
		s.key = s.with(s.key.WithRetained(c.From.Number, now, now.Add(time.Hour)))
		s.expect("after Retire of a version that is retained", c, false, true)
		before, present := s.names(), s.use(c.To)

		s.key = s.with(s.key.WithUndeleted(c.From.Number, now, now.Add(time.Hour)))
		u := s.change(c.To.Number, c.From.Number)
		s.twice(undelete, u)
		s.ok(verify, u)
		s.expect("after Undelete", u, true, true)
		s.unproblematic(kind.Change{Key: s.key, To: u.From, Connection: s.Connection})
		s.unblocked()
		used := s.use(u.To)
		if n := s.using(back(u)); n < 1 {
			s.Errorf("InUse counts %d of an undeleted version that a session uses", n)
		}
		used.End()
		s.eventually("a count of no session of the undeleted version", func() bool { return s.using(back(u)) == 0 })

		s.twice(retire, back(u))
		s.expect("after Retire of an undeleted version", u, true, false)
		s.noStrays("after Retire of an undeleted version", before)
		if !present.Alive() {
			s.Error("Undelete and Retire end a session of the current version")
		}
		present.End()
		s.key = s.with(s.key.WithErased(u.To.Number))
		s.rotate()
	}
}

// undeleteWhileDown fails, and does the rest when the server is back.
func undeleteWhileDown(s *suite) {
	now := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	c := s.plan()
	s.ok(stage, c)
	c = s.promoted(c)
	s.ok(retire, c)
	s.key = s.with(s.key.WithRetained(c.From.Number, now, now.Add(time.Hour)))
	s.key = s.with(s.key.WithUndeleted(c.From.Number, now, now.Add(time.Hour)))
	u := s.change(c.To.Number, c.From.Number)
	s.whileDown(func() { s.fails(undelete, u, "while the server is down") })
	s.ok(undelete, u)
	s.expect("after Undelete", u, true, true)
}

// unproblematic sees that an inspection of the current version finds nothing wrong with one that is undeleted.
func (s *suite) unproblematic(c kind.Change) {
	s.Helper()
	inspector, ok := s.Kind.(kind.Inspector)
	if !ok {
		return
	}
	err := s.within(patience, "Inspect", func(ctx context.Context) error {
		found, err := inspector.Inspect(ctx, c)
		for _, p := range found.Problems {
			s.Errorf("Inspect while a version is undeleted: %s", p)
		}
		for _, text := range found.Notes {
			s.Errorf("Inspect while a version is undeleted: %s", text)
		}
		return err
	})
	if err != nil {
		s.Errorf("Inspect while a version is undeleted: %v", err)
	}
}

// unblocked sees that the next rotation is not said to be blocked by the undeleted version. The engine says that by itself.
func (s *suite) unblocked() {
	s.Helper()
	preflighter, ok := s.Kind.(kind.Preflighter)
	if !ok {
		return
	}
	before := s.key
	c := s.plan()
	s.key = before // it is a plan
	err := s.within(patience, "Preflight", func(ctx context.Context) error {
		blockers, _, err := preflighter.Preflight(ctx, c)
		for _, text := range blockers {
			s.Errorf("Preflight while a version is undeleted: %s", text)
		}
		return err
	})
	if err != nil {
		s.Errorf("Preflight while a version is undeleted: %v", err)
	}
}

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
