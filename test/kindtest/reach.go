// SPDX-License-Identifier: Apache-2.0

package kindtest

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

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
