// SPDX-License-Identifier: Apache-2.0

// Package kindtest is the contract that every kind of key satisfies, as a suite of tests. docs/adding-a-kind.md shows its
// use.
package kindtest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// World is a kind with what is behind it, made for one case of the suite. A kind with a server has to fill in everything
// that its capabilities ask for: what is missing fails the suite, so that nothing is left out silently.
type World struct {
	Kind       kind.Kind
	Key        key.Key         // name, env and options; without versions
	First      key.Value       // in use today and valid at the server; empty: the suite generates it, and stages it where there is a server
	Connection kind.Connection // as an operator writes it, password included; zero where the kind is no Connector. RotateRoot sets its administrator other passwords

	// For a Verifier or Server.
	Stop, Start func(t testing.TB)                   // the server goes away; it comes back, and Start returns when it answers
	Freeze      func(t testing.TB) (thaw func())     // the server takes connections and answers nothing, until thaw; nil: not tried, and the log says so
	Valid       func(t testing.TB, v key.Value) bool // asks the server by other means than the kind's
	Refused     key.Value                            // passes Check and is not valid; for a Verifier that is no Server

	// For a Server.
	Use         func(t testing.TB, v key.Value) Session
	Credentials func(t testing.TB) []string // names of those that can log in now, so that strays are found

	// Occupy makes, as somebody else would and by other means than the kind's, the login that a value names, with another
	// password, and returns a value that logs in as it. Nil: the kind's values name no login, and the log says so.
	Occupy func(t testing.TB, v key.Value) key.Value
	// Claim makes the login that a value names one of another key, and marks it as the kind would, by other means than the
	// kind's. Nil: the kind's logins are not marked, or versions share one, and the log says so.
	Claim func(t testing.TB, v key.Value, by key.Key)
	// Hostile has the users of the server write whatever they may there, so that it runs in sessions which take no care; ran
	// tells what has run since. nil: not tried, and the log says so.
	Hostile func(t testing.TB) (ran func() []string)

	// Values are taken as the next versions, over and over, where the kind is no Generator: two at least, of which each can
	// be valid beside First and beside each other.
	Values []key.Value
}

// Session is something that uses a value at the server.
type Session struct {
	Alive func() bool // whether the server still serves it
	End   func()      // may be called again
}

// Run tests that a kind keeps the contract. open is called once for each case, and once before.
func Run(t *testing.T, open func(t testing.TB) World) {
	t.Helper()
	w := open(t)
	of := cases(t, w)
	if _, ok := w.Kind.(kind.Server); ok && w.Freeze == nil {
		t.Log("the World has no Freeze: a server that takes connections and answers nothing is not tried")
	}
	if _, ok := w.Kind.(kind.Server); ok && w.Hostile == nil {
		t.Log("the World has no Hostile: what users of the server have written there is not tried")
	}
	if _, ok := w.Kind.(kind.Server); ok && w.Occupy == nil {
		t.Log("the World has no Occupy: a login of somebody else that has the next version's name is not tried")
	}
	if _, ok := w.Kind.(kind.Server); ok && w.Claim == nil {
		t.Log("the World has no Claim: Retire of a login that another key has claimed is not tried")
	}
	for _, c := range of {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) { c.run(begin(t, open(t))) })
	}
}

type testCase struct {
	name string
	run  func(s *suite)
}

// cases are those that the kind's capabilities ask for.
func cases(t testing.TB, w World) []testCase {
	t.Helper()
	if missing := w.missing(); len(missing) > 0 {
		t.Fatalf("the suite cannot test this kind: its World lacks %s", strings.Join(missing, ", "))
	}
	all := []testCase{
		{"description", description},
		{"options", options},
		{"check tells nothing", checkTellsNothing},
		{"credentials in the query of a value", queryOfValue},
	}
	if _, ok := w.Kind.(kind.Generator); ok {
		all = append(all, testCase{"generate", generate})
	}
	if _, ok := w.Kind.(kind.Renderer); ok {
		all = append(all, testCase{"render", render})
	}
	_, server := w.Kind.(kind.Server)
	if _, ok := w.Kind.(kind.Verifier); ok && !server {
		all = append(all, testCase{"verify", verifyOnly}, testCase{"verify while the server is down", verifyWhileDown})
	}
	_, connector := w.Kind.(kind.Connector)
	if server {
		all = append(all, serverCases...)
		if _, ok := w.Kind.(kind.Sessionless); !ok {
			all = append(all, testCase{"short sessions", shortSessions})
		}
		if _, ok := w.Kind.(kind.Issuer); ok {
			all = append(all, issuerCases...)
		}
		if w.First.Empty() {
			all = append(all, testCase{"first version", firstVersion})
		}
		if w.Hostile != nil {
			all = append(all, testCase{"hostile users", hostileUsers})
		}
		if w.Occupy != nil {
			all = append(all, testCase{"login of somebody else", somebodyElse})
		}
		if w.Claim != nil {
			all = append(all, testCase{"retire of a claimed login", claimed})
		}
		if _, ok := w.Kind.(kind.Undeleter); ok {
			all = append(all, testCase{"undelete", undeleted}, testCase{"undelete while the server is down", undeleteWhileDown})
		}
		if _, ok := w.Kind.(kind.Preflighter); ok {
			all = append(all, testCase{"preflight", preflight})
		}
		if w.Freeze != nil {
			all = append(all, testCase{"server hangs", serverHangs})
		}
		if connector {
			all = append(all, testCase{"wrong administrator password", wrongAdministrator},
				testCase{"names logins", namesLogins}, testCase{"leads nowhere else", leadsNowhereElse})
		}
	}
	if connector {
		all = append(all, connectorCases...)
		if _, ok := w.Kind.(kind.RootRotator); ok {
			all = append(all, rootCases...)
		}
	}
	return all
}

// missing names what the kind's capabilities need and the World has not.
func (w World) missing() []string {
	var missing []string
	need := func(have bool, what string) {
		if !have {
			missing = append(missing, what)
		}
	}
	if w.Kind == nil {
		return []string{"Kind"}
	}
	need(w.Key.Name != "" && w.Key.Env != "", "Key with a name and an env")
	need(len(w.Key.Versions) == 0, "a Key without versions")
	if _, ok := w.Kind.(kind.Generator); !ok {
		need(!w.First.Empty(), "First, since the kind is no Generator")
		need(len(w.Values) >= 2, "two Values, since the kind is no Generator")
	}
	_, server := w.Kind.(kind.Server)
	if _, ok := w.Kind.(kind.Verifier); ok {
		need(w.Stop != nil, "Stop")
		need(w.Start != nil, "Start")
		need(w.Valid != nil, "Valid")
		need(server || !w.First.Empty(), "First")
		need(server || !w.Refused.Empty(), "Refused")
	}
	if server {
		_, none := w.Kind.(kind.Sessionless)
		need(w.Use != nil || none, "Use")
		need(w.Credentials != nil, "Credentials")
	}
	if connector, ok := w.Kind.(kind.Connector); ok {
		_, inURL := w.Connection.Secrets[kind.FieldPassword]
		hasURL := slices.ContainsFunc(connector.ConnectionFields(), func(f kind.Field) bool { return w.Connection.Options[f.Name] != "" })
		need(inURL || hasURL, "Connection with a password")
	}
	return missing
}

// call is one of a Server's.
type call struct {
	name string
	of   func(s *suite, k kind.Server, ctx context.Context, c kind.Change) error
}

var (
	stage   = call{"Stage", func(s *suite, k kind.Server, ctx context.Context, c kind.Change) error { return s.stageAt(ctx, k, c) }}
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
	c = s.latest(c)
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
	if x.name == inUse.name && s.sessionless() {
		return // it asks nobody
	}
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
		count, what, err = server.InUse(ctx, s.latest(c))
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
	if s.sessionless() {
		return Session{Alive: func() bool { return true }, End: func() {}}
	}
	session := s.Use(s, s.latestOf(v).Value)
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
	v = s.latestOf(v)
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
