// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/token"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// server is a kind whose values a server verifies: the credentials that are valid there, by key name.
type server struct {
	token.Kind
	w     *world
	valid map[string]map[string]bool
	// ended are the compromised rotations that have retired a credential, by key name and value.
	ended map[string]map[string]string
}

var (
	_ kind.Undeleter = (*server)(nil)
	_ kind.Inspector = (*server)(nil)
)

// Name implements kind.Kind.
func (s *server) Name() string { return "server" }

func (s *server) call(what string, c kind.Change, do func()) error {
	n := s.w.node
	if c.From.Value.Empty() && c.From.Number > 0 || c.To.Value.Empty() {
		s.w.violate("key %s: %s is called without values", c.Key.Name, what)
	}
	if n.dead {
		return errCrashed
	}
	f := s.w.fault()
	s.w.logf("server: %s %s %d → %d %s", what, c.Key.Name, c.From.Number, c.To.Number, f)
	if f == noFault || f == crashAfter || f == failAfter {
		do()
	}
	switch f {
	case crashBefore, crashAfter:
		n.dead = true
		return errCrashed
	case failBefore, failAfter:
		return errors.New("simulated: the server did not answer")
	case noFault:
	}
	return nil
}

func (s *server) of(c kind.Change) map[string]bool {
	if s.valid[c.Key.Name] == nil {
		s.valid[c.Key.Name] = map[string]bool{}
	}
	return s.valid[c.Key.Name]
}

// Stage implements kind.Server.
func (s *server) Stage(_ context.Context, c kind.Change) error {
	if stored, ok := s.w.engine.Key(c.Key.Name); ok {
		if v, ok := stored.Version(c.To.Number); !ok || !v.Value.Equal(c.To.Value) {
			s.w.violate("key %s: the server hears of version %d before it is stored", c.Key.Name, c.To.Number)
		}
	}
	return s.call("stage", c, func() { s.of(c)[c.To.Value.Reveal()] = true })
}

// Verify implements kind.Server.
func (s *server) Verify(_ context.Context, c kind.Change) error {
	valid := false
	if err := s.call("verify", c, func() { valid = s.of(c)[c.To.Value.Reveal()] }); err != nil {
		return err
	}
	if !valid {
		return errors.New("simulated: login refused")
	}
	return nil
}

// InUse implements kind.Server.
func (s *server) InUse(_ context.Context, c kind.Change) (int, string, error) {
	sessions := 0
	err := s.call("in-use", c, func() { sessions = s.w.sessions(c.Key.Env, c.From.Value.Reveal()) })
	return sessions, fmt.Sprintf("%d sessions", sessions), err
}

// Retire implements kind.Server.
func (s *server) Retire(_ context.Context, c kind.Change) error {
	if n := s.w.sessions(c.Key.Env, c.From.Value.Reveal()); n > 0 && !s.w.cut[c.Key.Name] {
		s.w.violate("key %s: version %d is retired at the server with %d sessions", c.Key.Name, c.From.Number, n)
	}
	id := s.leaked(c.Key.Name)
	err := s.call("retire", c, func() {
		delete(s.of(c), c.From.Value.Reveal())
		if id != "" {
			s.end(c, id)
		}
	})
	if id == "" || err != nil || s.w.calm || s.w.chance(70) {
		return err
	}
	if s.w.chance(50) {
		s.w.logf("Vault is killed before it hears that version %d of %s is retired", c.From.Number, c.Key.Name)
		s.w.node.dead = true
		return errCrashed
	}
	return errors.New("simulated: the server did not answer in time")
}

// end notes that a compromised rotation has retired a credential.
func (s *server) end(c kind.Change, id string) {
	if s.ended[c.Key.Name] == nil {
		s.ended[c.Key.Name] = map[string]string{}
	}
	s.ended[c.Key.Name][c.From.Value.Reveal()] = id
	if c.From.State == key.Undeleted {
		s.w.stats.Leaked++
	}
}

// leaked returns the compromised rotation of a key that is at the step in which it ends credentials of the key, or behind it.
func (s *server) leaked(name string) (id string) {
	for _, status := range s.w.engine.Status() {
		if r := status.Rotation; status.Key.Name == name && r != nil && r.Compromised && r.State == rotation.Retiring {
			id = r.ID
		}
	}
	return id
}

// CheckUndelete implements kind.Undeleter.
func (*server) CheckUndelete(kind.Change) error { return nil }

// Inspect implements kind.Inspector. It finds nothing, so that undeleted versions are tried; at times the server has forgotten
// one.
func (s *server) Inspect(_ context.Context, c kind.Change) (kind.Finding, error) {
	err := s.call("inspect", c, func() {})
	for _, number := range c.Key.Undeleted() {
		if v, _ := c.Key.Version(number); s.w.chance(20) && s.of(c)[v.Value.Reveal()] {
			s.w.logf("the server forgets version %d of %s", number, c.Key.Name)
			delete(s.of(c), v.Value.Reveal())
		}
	}
	return kind.Finding{}, err
}

// Undelete implements kind.Undeleter.
func (s *server) Undelete(_ context.Context, c kind.Change) error {
	if stored, ok := s.w.engine.Key(c.Key.Name); ok {
		if v, _ := stored.Version(c.To.Number); !v.State.Live() || v.Ending {
			s.w.violate("key %s: the server is told of version %d, which is %s, ending: %v", c.Key.Name, c.To.Number, v.State, v.Ending)
		}
	}
	if id := s.ended[c.Key.Name][c.To.Value.Reveal()]; id != "" && id == s.leaked(c.Key.Name) {
		s.w.violate("key %s: the server is told of version %d, which rotation %s of a compromised key has retired there", c.Key.Name, c.To.Number, id)
	}
	return s.call("undelete", c, func() { s.of(c)[c.To.Value.Reveal()] = true })
}

// Unstage implements kind.Server.
func (s *server) Unstage(_ context.Context, c kind.Change) error {
	if n := s.w.sessions(c.Key.Env, c.To.Value.Reveal()); n > 0 && !s.w.cut[c.Key.Name] {
		s.w.violate("key %s: version %d is taken back at the server with %d sessions", c.Key.Name, c.To.Number, n)
	}
	return s.call("unstage", c, func() { delete(s.of(c), c.To.Value.Reveal()) })
}

// sessions counts the live processes that present a value.
func (w *world) sessions(env, value string) int {
	n := 0
	for _, p := range w.procs {
		if p.running && p.holds.values[env] == value {
			n++
		}
	}
	return n
}
