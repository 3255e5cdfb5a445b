// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// call is one of a Server's.
type call struct {
	name string
	of   func(s *suite, k kind.Server, ctx context.Context, c kind.Change) error
}

var (
	stage   = call{"Stage", func(_ *suite, k kind.Server, ctx context.Context, c kind.Change) error { return k.Stage(ctx, c) }}
	verify  = call{"Verify", func(_ *suite, k kind.Server, ctx context.Context, c kind.Change) error { return k.Verify(ctx, c) }}
	retire  = call{"Retire", func(_ *suite, k kind.Server, ctx context.Context, c kind.Change) error { return k.Retire(ctx, c) }}
	unstage = call{"Unstage", func(_ *suite, k kind.Server, ctx context.Context, c kind.Change) error { return k.Unstage(ctx, c) }}
	inUse   = call{"InUse", func(s *suite, k kind.Server, ctx context.Context, c kind.Change) error {
		_, what, err := k.InUse(ctx, c)
		s.secrets.absentText(s, "what InUse says", what)
		return err
	}}
)

// try makes a call with so much time.
func (s *suite) try(x call, c kind.Change, limit time.Duration) error {
	s.Helper()
	server, ok := s.Kind.(kind.Server)
	if !ok {
		s.Fatalf("kindtest: %s of a kind without a server", x.name)
	}
	return s.within(limit, x.name, func(ctx context.Context) error { return x.of(s, server, ctx, c) })
}

func (s *suite) ok(x call, c kind.Change) {
	s.Helper()
	if err := s.try(x, c, patience); err != nil {
		s.Fatalf("%s: %v", x.name, err)
	}
}

// twice makes a call, and again as after a crash.
func (s *suite) twice(x call, c kind.Change) {
	s.Helper()
	s.ok(x, c)
	if err := s.try(x, c, patience); err != nil {
		s.Fatalf("%s again: %v; every call is idempotent", x.name, err)
	}
}

func (s *suite) fails(x call, c kind.Change, when string) {
	s.Helper()
	if s.try(x, c, failing) == nil {
		s.Errorf("%s succeeds %s", x.name, when)
	}
}

// using counts what uses From.
func (s *suite) using(c kind.Change) int {
	s.Helper()
	var count int
	var what string
	err := s.within(patience, "InUse", func(ctx context.Context) (err error) {
		server, _ := s.Kind.(kind.Server)
		count, what, err = server.InUse(ctx, c)
		return err
	})
	if err != nil {
		s.Fatalf("InUse: %v", err)
	}
	s.secrets.absentText(s, "what InUse says", what)
	if count > 0 && what == "" {
		s.Error("InUse counts something and does not say what")
	}
	if count < 0 {
		s.Errorf("InUse counts %d", count)
	}
	return count
}

// back is a change as a revert asks InUse about it: whether the new version is in use.
func back(c kind.Change) kind.Change {
	c.From, c.To = c.To, c.From
	return c
}

// use opens a session that ends with the test at the latest.
func (s *suite) use(v key.Version) Session {
	s.Helper()
	session := s.Use(s, v.Value)
	s.Cleanup(session.End)
	if !session.Alive() {
		s.Fatal("a session that World.Use has opened is not alive")
	}
	return session
}

// expect asks the server which of the two versions is valid.
func (s *suite) expect(when string, c kind.Change, from, to bool) {
	s.Helper()
	s.expectOf(when, "the old version", c.From, from)
	s.expectOf(when, "the new version", c.To, to)
}

func (s *suite) expectOf(when, which string, v key.Version, want bool) {
	s.Helper()
	if v.Number == 0 {
		return
	}
	switch got := s.Valid(s, v.Value); {
	case got && !want:
		s.Fatalf("%s: %s is valid", when, which)
	case !got && want:
		s.Fatalf("%s: %s is not valid", when, which)
	}
}

// names are those that can log in now, sorted.
func (s *suite) names() []string {
	s.Helper()
	return slices.Sorted(slices.Values(s.Credentials(s)))
}

// noStrays sees that the same can log in as before.
func (s *suite) noStrays(when string, before []string) {
	s.Helper()
	if after := s.names(); !slices.Equal(before, after) {
		s.Fatalf("%s: %q can log in; before it was %q", when, after, before)
	}
}
