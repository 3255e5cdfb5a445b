// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// What calls are given. They are generous, since nobody waits for them but where a kind is wrong; the suite's own tests,
// where kinds are wrong on purpose, shorten the last two.
var (
	patience = 15 * time.Second       // that a call has
	failing  = 2 * time.Second        // that a call has which is to fail before
	hanging  = 300 * time.Millisecond // that a call has of a server that answers nothing
	grace    = 5 * time.Second        // after its context has ended, within which a call returns
	late     = 10 * time.Second       // by when the kind has noticed what happens at the server, such as that a client has gone
)

// poll is how often the suite looks whether it has.
const poll = 5 * time.Millisecond

// mount is the id of the mount that keys without one belong to.
const mount = "kindte"

// otherMount is the id of another.
const otherMount = "othrmt"

// fingerprints are those of that mount.
var fingerprints = key.NewFingerprinter([]byte(mount))

// suite is one case at work: a World, and the key's record as the engine would keep it.
type suite struct {
	testing.TB
	World
	key     key.Key
	random  io.Reader
	drawn   int        // Values taken
	mu      sync.Mutex // of key, while calls are made at once
	secrets secrets    // that no error may hold
}

// seeded is randomness that a test can repeat.
func seeded(seed byte) io.Reader {
	var full [32]byte
	full[0] = seed
	return rand.NewChaCha8(full)
}

// begin readies a World for a case: normalizes as the engine does, and sees to the first version.
func begin(t testing.TB, w World) *suite {
	t.Helper()
	s := bare(t, w)
	s.first()
	return s
}

// bare is begin without a first version.
func bare(t testing.TB, w World) *suite {
	t.Helper()
	s := &suite{TB: t, World: w, random: seeded(1)}
	s.secrets.add(t, w.First, w.Refused)
	s.secrets.add(t, w.Values...)
	w.Key.Kind = w.Kind.Name()
	options, err := w.Kind.Normalize(w.Key.Options)
	if err != nil {
		t.Fatalf("Normalize refuses the options of World.Key: %v", err)
	}
	w.Key.Options = options
	if w.Key.Mount == "" {
		w.Key.Mount = mount
	}
	s.key = w.Key
	if connector, ok := w.Kind.(kind.Connector); ok {
		s.Connection = s.normalized(connector, w.Connection)
	}
	return s
}

// normalized returns a connection as the engine stores it.
func (s *suite) normalized(connector kind.Connector, c kind.Connection) kind.Connection {
	s.Helper()
	c.Kind = s.Kind.Name()
	if c.Name == "" {
		c.Name = "test"
	}
	if c.Revision == 0 {
		c.Revision = 1
	}
	s.secrets.add(s, slices.Collect(maps.Values(c.Secrets))...)
	c, err := connector.NormalizeConnection(c)
	if err != nil {
		s.Fatalf("NormalizeConnection refuses World.Connection: %v", err)
	}
	if c.Secrets[kind.FieldPassword].Empty() {
		s.Fatal("World.Connection has no password: the suite cannot try a wrong one")
	}
	s.secrets.add(s, slices.Collect(maps.Values(c.Secrets))...)
	return c
}

// first makes version 1 of the key.
func (s *suite) first() {
	s.Helper()
	if !s.First.Empty() {
		s.key = s.with(s.key.WithFirst(s.version(1, s.First)))
		return
	}
	if _, ok := s.Kind.(kind.Server); !ok {
		s.key = s.with(s.key.WithFirst(s.version(1, s.next())))
		return
	}
	c := s.planFirst()
	s.ok(stage, c)
	s.ok(verify, c)
	s.key.Versions[0].State = key.Current
}

// planFirst stores a first version that no server knows yet.
func (s *suite) planFirst() kind.Change {
	s.Helper()
	v := s.version(1, s.next())
	v.State = key.Staged
	s.key.Versions = []key.Version{v}
	return kind.Change{Key: s.key, To: v, Connection: s.Connection}
}

func (s *suite) version(number int, v key.Value) key.Version {
	return key.Version{Number: number, State: key.Current, Value: v, Fingerprint: fingerprints.Of(s.key.Name, v), Created: time.Date(2026, 1, number, 0, 0, 0, 0, time.UTC), CreatedBy: "kindtest"}
}

// next draws the value of the next version.
func (s *suite) next() key.Value {
	s.Helper()
	current, _ := s.key.Current()
	generator, ok := s.Kind.(kind.Generator)
	for !ok {
		v := s.Values[s.drawn%len(s.Values)]
		s.drawn++
		if !v.Equal(current.Value) {
			return v
		}
	}
	v, err := generator.Generate(s.random, s.key, current.Value)
	s.secrets.add(s, v)
	if err != nil {
		s.Fatalf("Generate: %v", err)
	}
	return v
}

// plan stores a next version, of which no server knows yet.
func (s *suite) plan() kind.Change {
	s.Helper()
	current, ok := s.key.Current()
	if !ok {
		s.Fatal("kindtest: no current version to rotate from")
	}
	number := s.key.NextNumber()
	s.key = s.with(s.key.WithStaged(s.version(number, s.next())))
	return s.change(current.Number, number)
}

// change is what the engine asks a server about, as the key is now.
func (s *suite) change(from, to int) kind.Change {
	c := kind.Change{Key: s.key, Connection: s.Connection}
	c.From, _ = s.key.Version(from)
	c.To, _ = s.key.Version(to)
	return c
}

// promoted records that workloads present the new version.
func (s *suite) promoted(c kind.Change) kind.Change {
	s.Helper()
	s.key = s.with(s.key.Promoted(c.From.Number, c.To.Number))
	return s.change(c.From.Number, c.To.Number)
}

func (s *suite) retired(c kind.Change) {
	s.Helper()
	s.key = s.with(s.key.Retired(c.From.Number, c.To.Number))
}

func (s *suite) reverted(c kind.Change) {
	s.Helper()
	s.key = s.with(s.key.Reverted(c.From.Number, c.To.Number))
}

func (s *suite) with(k key.Key, err error) key.Key {
	s.Helper()
	if err != nil {
		s.Fatalf("kindtest: %v", err)
	}
	return k
}

// within makes a call that has so much time, sees that it keeps to it, and that its error tells no secret.
func (s *suite) within(limit time.Duration, name string, call func(ctx context.Context) error) error {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	select {
	case err := <-done:
		s.secrets.absent(s, "the error of "+name, err)
		return err
	case <-time.After(limit + grace):
		s.Fatalf("%s has not returned %v after the end of its context", name, grace)
		return nil
	}
}

// eventually waits until something holds that a server notices late.
func (s *suite) eventually(what string, holds func() bool) {
	s.Helper()
	deadline := time.After(late)
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-deadline:
			s.Fatalf("%s does not come about within %v", what, late)
		}
	}
}

// queryCredentials are parameters with which a URL's query logs in as somebody else than it says before the host, and the
// names under which an error should call them.
var queryCredentials = []struct{ parameters, name string }{
	{"password=", "password"},
	{"pass%77ord=", "password"},
	{"x=y&user=", "user"},
	{"UserName=", "username"},
	{"sslPassword=", "sslpassword"},
	{"passfile=/tmp/", "passfile"},
	{"service=", "service"},
}

// withQuery is a URL with parameters more; ok is false for what is no URL.
func withQuery(text, parameters string) (url string, ok bool) {
	mark := "?"
	if strings.Contains(text, "?") {
		mark = "&"
	}
	return text + mark + parameters + canary, strings.Contains(text, "://")
}

// refusesQuery fails unless a URL with credentials in its query is refused by the parameter's name.
func (s *suite) refusesQuery(what, text string, try func(url string) error) {
	s.Helper()
	s.canaries(canary)
	for _, of := range queryCredentials {
		url, ok := withQuery(text, of.parameters)
		if !ok {
			return
		}
		err := try(url)
		s.secrets.absent(s, "the error for a credential in the query of "+what, err)
		if err == nil || !strings.Contains(err.Error(), of.name) {
			s.Errorf("%s with %s in its query is not refused by the name %s: %v", what, of.parameters, of.name, err)
		}
	}
}

// queryOfConnection is for the field from which a password is moved among the secrets.
func queryOfConnection(s *suite) {
	c := s.Connection
	s.refusesQuery("a connection's "+fieldURL, c.Options[fieldURL], func(url string) error {
		with := c
		with.Options = maps.Clone(c.Options)
		with.Options[fieldURL] = url
		_, err := s.connector().NormalizeConnection(with)
		return err
	})
}

// queryOfValue is for values that are URLs.
func queryOfValue(s *suite) {
	current, ok := s.key.Current()
	if !ok {
		return
	}
	s.refusesQuery("a value", current.Value.Reveal(), func(url string) error {
		_, err := s.Kind.Check(s.key.Options, key.NewValue(url))
		return err
	})
}

// shortest is the length in bytes below which a secret could stand in an error by chance.
const shortest = 6

var percent = regexp.MustCompile("%[0-9A-Fa-f]{2}")

// secrets are texts that nothing may hold which a kind says.
type secrets struct{ forms []string }

// add takes values, and the password that a value holds where it is a URL, in every way that they are written.
func (x *secrets) add(t testing.TB, values ...key.Value) {
	t.Helper()
	for _, v := range values {
		text := v.Reveal()
		if text == "" {
			continue
		}
		parts := []string{text}
		if scheme, rest, ok := strings.Cut(text, "://"); ok {
			if u, err := dsn.Parse(text, scheme); err == nil && !u.Password.Empty() {
				raw, _, _ := strings.Cut(rest[strings.Index(rest, ":")+1:], "@")
				parts = append(parts, u.Password.Reveal(), raw)
			}
		}
		for _, part := range parts {
			if len(part) < shortest {
				t.Fatalf("a secret of the World has %d bytes, which may stand in an error by chance; use %d or more", len(part), shortest)
			}
			quoted := strings.Trim(fmt.Sprintf("%q", part), `"`)
			x.forms = append(x.forms, part, quoted)
		}
	}
	slices.Sort(x.forms)
	x.forms = slices.Compact(x.forms)
}

// absent fails if an error, or one that it wraps, tells a secret.
func (x *secrets) absent(t testing.TB, where string, err error) {
	t.Helper()
	for ; err != nil; err = errors.Unwrap(err) {
		x.absentText(t, where, fmt.Sprintf("%v %+v", err, err))
	}
}

// absentText fails if a text tells a secret, as it is or percent-encoded in whichever way. The failure does not show it.
func (x *secrets) absentText(t testing.TB, where, text string) {
	t.Helper()
	decoded := percent.ReplaceAllStringFunc(text, func(code string) string {
		c, err := strconv.ParseUint(code[1:], 16, 8)
		if err != nil {
			return code
		}
		return string([]byte{byte(c)})
	})
	for _, plain := range []string{text, decoded, strings.ReplaceAll(decoded, "+", " ")} {
		for _, form := range x.forms {
			if strings.Contains(plain, form) {
				t.Errorf("%s holds a secret: %s", where, strings.ReplaceAll(plain, form, "[the secret]"))
				return
			}
		}
	}
}
