// SPDX-License-Identifier: Apache-2.0

package login

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

var urls = URLs{
	Schemes: []string{"db"}, Example: "db://host/app", Further: "DIRECT_URL=db://host/app", User: "default",
	Read: func(text string) (dsn.URL, error) { return dsn.Parse(text, "db") },
	Check: func(text string) error {
		if strings.HasSuffix(text, "/app") {
			return nil
		}
		return errors.New("it has no database")
	},
	Addresses: func(text string) ([]string, error) {
		u, err := dsn.Parse(text, "db")
		return []string{u.Host()}, err
	},
}

func TestOptions(t *testing.T) {
	fields := []kind.Field{{Name: OptionURL}, {Name: OptionURLs}, {Name: OptionVerify, Default: "true"}, {Name: "strict", Default: "false"}}
	for want, o := range map[string]kind.Options{
		"":                        {OptionURL: "db://host/app", OptionURLs: "A=db://one/app B=db://two/app"},
		"leave both out":          {OptionURL: "db://user@host/app"},
		"url: it has no database": {OptionURL: "db://host/"},
		"urls: A: it is not a URL of the form db://":     {OptionURLs: "A=x://one/app"},
		`verify_urls "1" is neither true nor false`:      {OptionVerify: "1"},
		`strict "yes" is neither true nor false`:         {"strict": "yes"},
		`option "no_such" is not known to this kind; it`: {"no_such": "1"},
	} {
		_, err := urls.NormalizeOptions(fields, o, "strict")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", o, err)
		}
	}
}

// The next value has the URL of the option, or else that of the version before.
func TestNextURL(t *testing.T) {
	next := func(option, from string) (string, error) {
		k := key.Key{Options: kind.Options{OptionURL: option}}
		v, err := urls.Next(rand.Reader, k, key.NewValue(from), func(old dsn.URL) (string, error) { return old.User + "2", nil })
		u, _ := dsn.Parse(v.Reveal(), "db")
		if err == nil && (u.Password.Empty() || strings.Contains(from, u.Password.Reveal())) {
			t.Error("there is no new password")
		}
		return u.Without().Text().Reveal() + " " + u.User, err
	}
	for _, of := range []struct{ option, from, want string }{
		{"", "db://app:old@one/app", "db://one/app app2"},
		{"db://two/app", "db://app:old@one/app", "db://two/app app2"},
		{"db://two/app", "", "db://two/app 2"},
	} {
		if got, err := next(of.option, of.from); got != of.want || err != nil {
			t.Errorf("url=%s after %s: %s (%v), not %s", of.option, of.from, got, err, of.want)
		}
	}
	for from, want := range map[string]string{"": "url=db://host/app, or import", "x://app:s3cret@one/app": "the current version: it is not a URL"} {
		if _, err := next("", from); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("after %q: %v", from, err)
		}
	}
}

func TestLeads(t *testing.T) {
	o := kind.Options{OptionURL: "db://one/app", OptionURLs: "A=db://two/app", OptionVerify: "true"}
	if leads, err := urls.Leads(o, key.NewValue("db://u:p@three/app")); err != nil || len(leads) != 3 {
		t.Errorf("a key leads to %q (%v)", leads, err)
	}
	o[OptionVerify] = "false"
	if leads, err := urls.Leads(o, key.NewValue("db://u:p@three/app")); err != nil || leads != nil {
		t.Errorf("a key that is not tried leads to %q (%v)", leads, err)
	}
}

func TestConnectionURL(t *testing.T) {
	fields := []kind.Field{{Name: FieldURL}, PasswordField(), {Name: FieldCA}, {Name: FieldCert}, KeyField()}
	normalize := func(o kind.Options) (kind.Connection, error) {
		c, _, err := NormalizeConnection(kind.Connection{Options: o}, fields, "one", urls.Read)
		return c, err
	}
	c, err := normalize(kind.Options{FieldURL: "db://admin:s3cret@host/app"})
	if err != nil || c.Options[FieldURL] != "db://admin@host/app" || c.Secrets[kind.FieldPassword].Reveal() != "s3cret" {
		t.Errorf("%v (%v)", c.Options, err)
	}
	for want, o := range map[string]kind.Options{
		"url is empty; give one":  {},
		"url: it is not a URL":    {FieldURL: "x://host"},
		"tls_cert and tls_key be": {FieldURL: "db://host", FieldCert: "x"},
	} {
		if _, err := normalize(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", o, err)
		}
	}
	c.Options[FieldCA], c.Options[FieldCert] = "x", "y"
	if _, err := Roots(c); err == nil || !strings.Contains(err.Error(), "tls_ca holds no certificate") {
		t.Error(err)
	}
	if _, err := Certificates(c); err == nil || !strings.Contains(err.Error(), "are not a certificate and its private key") {
		t.Error(err)
	}
}
