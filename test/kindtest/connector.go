// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"encoding/hex"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var connectorCases = []testCase{
	{"connection fields", connectionFields},
	{"normalize connection", normalizeConnection},
	{"credentials in the query of a connection", queryOfConnection},
	{"secrets stay where they were given for", secretsStay},
	{"check connection", checkConnection},
}

// rootCases are for a kind.RootRotator.
var rootCases = []testCase{
	{"rotate root", rotateRoot},
	{"cut rotate root is repeated", cutRotateRoot},
}

// fieldURL is the field of a connection from which a password is moved among the secrets.
const fieldURL = "url"

func (s *suite) connector() kind.Connector {
	connector, _ := s.Kind.(kind.Connector)
	return connector
}

func connectionFields(s *suite) {
	fields := s.connector().ConnectionFields()
	s.fields(fields)
	if !kind.Secret(fields, kind.FieldPassword) {
		s.Errorf("a connection has no secret field %q, which rotate-root replaces", kind.FieldPassword)
	}
	known := map[string]bool{}
	for _, f := range s.Kind.Fields() {
		known[f.Name] = true
	}
	if !known[kind.OptionConnection] {
		s.Errorf("keys of a kind with connections have no option %q", kind.OptionConnection)
	}
}

func same(a, b kind.Connection) bool {
	return a.Name == b.Name && a.Kind == b.Kind && maps.Equal(a.Options, b.Options) && maps.EqualFunc(a.Secrets, b.Secrets, key.Value.Equal)
}

func normalizeConnection(s *suite) {
	connector, c := s.connector(), s.Connection
	fields := connector.ConnectionFields()
	if again, err := connector.NormalizeConnection(c); err != nil || !same(c, again) {
		s.Errorf("NormalizeConnection again gives another one (%v)", err)
	}
	for name, value := range c.Options {
		s.secrets.absentText(s, "option "+name+" of a connection", value)
		if kind.Secret(fields, name) {
			s.Errorf("the secret field %s stands among the options", name)
		}
	}
	for name := range c.Secrets {
		if !kind.Secret(fields, name) {
			s.Errorf("%s stands among the secrets and is no secret field", name)
		}
	}
	more := c
	more.Options = maps.Clone(c.Options)
	more.Options[unknown] = "1"
	if _, err := connector.NormalizeConnection(more); err == nil || !strings.Contains(err.Error(), unknown) {
		s.Errorf("an unknown field %q of a connection is not refused by its name: %v", unknown, err)
	}
	s.quotesNone("NormalizeConnection", fields, c.Options, func(o kind.Options) error {
		wrong := c
		wrong.Options = o
		_, err := connector.NormalizeConnection(wrong)
		return err
	})
	s.passwordInURL(c)
}

// passwordInURL writes a connection as operators do, with the password where the URL has its place.
func (s *suite) passwordInURL(c kind.Connection) {
	s.Helper()
	text := c.Options[fieldURL]
	scheme, _, ok := strings.Cut(text, "://")
	if !ok {
		s.Logf("connections of this kind have no %s: nothing to move a password out of", fieldURL)
		return
	}
	u, err := dsn.Parse(text, scheme)
	if err != nil {
		s.Fatalf("the normalized %s: %v", fieldURL, err)
	}
	password := key.NewValue("p/a@s:s%w?o#r d7Yq")
	s.secrets.add(s, password)
	user := u.User
	if user == "" {
		user = c.Options["username"]
	}
	written := c
	written.Options, written.Secrets = maps.Clone(c.Options), maps.Clone(c.Secrets)
	delete(written.Secrets, kind.FieldPassword)
	written.Options[fieldURL] = u.With(user, password).Text().Reveal()
	moved, err := s.connector().NormalizeConnection(written)
	s.secrets.absent(s, "the error of NormalizeConnection", err)
	if err != nil || !moved.Secrets[kind.FieldPassword].Equal(password) {
		s.Errorf("NormalizeConnection does not move a password out of the URL (%v)", err)
	}
	for name, value := range moved.Options {
		s.secrets.absentText(s, "option "+name+" of a connection", value)
	}
	written.Options = maps.Clone(written.Options)
	written.Options[fieldURL] = scheme + "://someone:" + canary + "%zz@[::1/"
	s.canaries(canary)
	_, err = s.connector().NormalizeConnection(written)
	s.secrets.absent(s, "the error of NormalizeConnection", err)
}

func (s *suite) check(c kind.Connection) error {
	s.Helper()
	return s.within(patience, "CheckConnection", func(ctx context.Context) error {
		notes, err := s.connector().CheckConnection(ctx, c)
		s.secrets.absentText(s, "a note of CheckConnection", strings.Join(notes, "; "))
		return err
	})
}

func (s *suite) tryRoot(c kind.Connection, limit time.Duration) error {
	s.Helper()
	rotator, _ := s.Kind.(kind.RootRotator)
	return s.within(limit, "RotateRoot", func(ctx context.Context) error { return rotator.RotateRoot(ctx, c) })
}

func (s *suite) rotateRoot(c kind.Connection) {
	s.Helper()
	if err := s.tryRoot(c, patience); err != nil {
		s.Fatalf("RotateRoot: %v", err)
	}
}

func checkConnection(s *suite) {
	for range 2 {
		if err := s.check(s.Connection); err != nil {
			s.Fatalf("CheckConnection: %v", err)
		}
		if s.check(s.wrongPassword()) == nil {
			s.Fatal("CheckConnection takes a wrong password")
		}
		if s.Stop != nil {
			s.whileDown(func() {
				if s.check(s.Connection) == nil {
					s.Error("CheckConnection succeeds while the server is down")
				}
			})
		}
	}
}

// withNext is the connection as the engine stores it before a server hears of the new password.
func (s *suite) withNext() kind.Connection {
	s.Helper()
	random := make([]byte, 32)
	if _, err := io.ReadFull(s.random, random); err != nil {
		s.Fatal(err)
	}
	c := s.Connection
	c.Next = key.NewValue(hex.EncodeToString(random))
	s.secrets.add(s, c.Next)
	return c
}

// taken is the connection as the engine stores it after RotateRoot.
func taken(c kind.Connection) kind.Connection {
	c.Secrets = maps.Clone(c.Secrets)
	c.Secrets[kind.FieldPassword], c.Next = c.Next, key.Value{}
	c.Revision += 100
	return c
}

// works sees that a connection serves what the kind can do with it.
func (s *suite) works(when string, c kind.Connection) {
	s.Helper()
	if err := s.check(c); err != nil {
		s.Fatalf("%s: CheckConnection: %v", when, err)
	}
	if _, ok := s.Kind.(kind.Server); ok {
		before := s.Connection
		s.Connection = c
		s.rotate()
		s.Connection = before
	}
}

func rotateRoot(s *suite) {
	for range 2 {
		old, c := s.Connection, s.withNext()
		s.works("with a next password of which the server has not heard", c)
		wrong := s.wrongPassword()
		wrong.Next = key.NewValue("next-after-a-wrong-one")
		if s.tryRoot(wrong, failing) == nil {
			s.Error("RotateRoot succeeds with a wrong password")
		}
		if s.Stop != nil {
			s.whileDown(func() {
				if s.tryRoot(c, failing) == nil {
					s.Error("RotateRoot succeeds while the server is down")
				}
			})
		}
		s.rotateRoot(c)
		s.works("with a next password that is in force and not stored as such", c)
		s.rotateRoot(c)
		s.Connection = taken(c)
		s.works("with the password that RotateRoot has set", s.Connection)
		old.Revision = s.Connection.Revision + 1
		if s.check(old) == nil {
			s.Fatal("the password before RotateRoot is still in force")
		}
	}
}

// cutRotateRoot repeats RotateRoot, cut later each time. All the while one of the two passwords is in force.
func cutRotateRoot(s *suite) {
	c := s.withNext()
	for _, after := range cuts {
		err := s.tryRoot(c, after)
		if check := s.check(c); check != nil {
			s.Fatalf("after RotateRoot was cut neither password is in force: %v", check)
		}
		if err == nil {
			break
		}
	}
	s.rotateRoot(c)
	s.Connection = taken(c)
	s.works("with the password that RotateRoot has set when repeated", s.Connection)
}

// namesLogins sees that the engine can report whether two keys share a login.
func namesLogins(s *suite) {
	namer, ok := s.Kind.(kind.LoginNamer)
	if !ok {
		s.Fatal("the kind is no LoginNamer: that two keys share a login would not be seen, and a rotation of one locks the other out")
	}
	if len(namer.Servers(s.Connection)) == 0 {
		s.Error("Servers names none for the World's connection")
	}
	current, _ := s.key.Current()
	c := s.plan()
	s.ok(stage, c)
	names := map[string]bool{}
	for range 2 {
		for _, v := range []key.Value{current.Value, c.To.Value} {
			name, err := namer.Login(v)
			s.secrets.absent(s, "the error of Login", err)
			if err != nil || name == "" || strings.Contains(v.Reveal()+"@", ":"+name+"@") {
				s.Errorf("Login names nobody, or by a password (%v)", err)
			}
			s.secrets.absentText(s, "what Login names", name)
			names[name] = true
		}
	}
	if len(names) > 2 {
		s.Errorf("Login names %d logins for two values", len(names))
	}
	for _, text := range []string{"", canary, "postgresql://" + canary, "redis://:" + canary + "@"} {
		s.canaries(text)
		_, err := namer.Login(key.NewValue(text))
		s.secrets.absent(s, "the error of Login", err)
	}
	s.ok(unstage, c)
}

// leadsNowhereElse writes an impostor's address wherever a key can name a host, and sees that Leads names it if Verify calls
// it: by that the engine refuses hosts that no operator has allowed.
func leadsNowhereElse(s *suite) {
	addresser, ok := s.Kind.(kind.Addresser)
	if !ok {
		s.Fatal("the kind is no Addresser: values would be sent to any host that a key names")
	}
	current, _ := s.key.Current()
	scheme, _, isURL := strings.Cut(current.Value.Reveal(), "://")
	try := func(what string, options kind.Options, value key.Value, rogue *impostor) {
		k := s.key
		k.Options = options
		v := current
		v.Value = value
		c := kind.Change{Key: k, To: v, Connection: s.Connection}
		_ = s.within(failing, "Verify", func(ctx context.Context) error { return s.Kind.(kind.Verifier).Verify(ctx, c) }) //nolint:forcetypeassert // asked for by a Server
		at := rogue.Addr().String()
		leads, err := addresser.Leads(options, value)
		s.secrets.absent(s, "the error of Leads", err)
		if calls, _ := rogue.told(canary); calls > 0 && !slices.Contains(leads, at) {
			s.Errorf("Verify calls a host that %s names, and Leads does not say so (%v)", what, err)
		}
	}
	for _, f := range s.Kind.Fields() {
		rogue := newImpostor(s)
		at := rogue.Addr().String()
		for _, text := range []string{at, scheme + "://" + at, scheme + "://" + at + "/app", "OTHER_URL=" + scheme + "://" + at + "/app"} {
			options := maps.Clone(s.key.Options)
			options[f.Name] = text
			if options, err := s.Kind.Normalize(options); err == nil && f.Name != kind.OptionConnection {
				try("option "+f.Name, options, current.Value, rogue)
			}
		}
	}
	if !isURL {
		return
	}
	u, err := dsn.Parse(current.Value.Reveal(), scheme)
	if err != nil {
		s.Fatalf("the first version: %v", err)
	}
	rogue := newImpostor(s)
	u.Rest = rogue.Addr().String() + strings.TrimPrefix(u.Rest, u.Host())
	s.secrets.add(s, u.Text())
	try("the value", s.key.Options, u.Text(), rogue)
}
