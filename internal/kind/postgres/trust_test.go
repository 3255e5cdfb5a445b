// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"net/url"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// On a server that lets everybody in, any password logs in: that proves nothing, so that a role of somebody else is neither
// taken over nor dropped.
func TestTrustProvesNothing(t *testing.T) {
	ownServer(t, bed.PostgresOptions{HBA: []string{"host all postgres 127.0.0.1/32 scram-sha-256", "host all all 127.0.0.1/32 trust"}})
	w := newWorld(t, "", nil)
	c := w.next(w.first)
	a := roleNames.Of(w.key)[0]
	other := mark{mount: w.key.Mount, key: w.key.Name, version: 7, id: "00000000"}
	for name, statements := range map[string][]string{
		"no mark":                {"CREATE ROLE " + a + " LOGIN PASSWORD 'somebody-elses'"},
		"mark of a newer one":    {"CREATE ROLE " + a + " LOGIN PASSWORD 'somebody-elses'", other.statement(a)},
		"no mark and a password": {"CREATE ROLE " + a + " LOGIN"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.exec(statements...)
			w.refuses(c, a, "Nothing was changed")
			w.exec("DROP ROLE IF EXISTS " + a)
		})
	}
	w.t = t
	for range 2 { // the second time Vault did not hear of the first
		w.ok(w.kind.Stage(t.Context(), c))
	}
	w.ok(w.kind.Verify(t.Context(), c))
	w.ok(w.kind.Unstage(t.Context(), c))
	if got := w.role(a); got != "none" {
		t.Errorf("the role that Stage has made stays: %s", got)
	}
}

// An administrator who is let in without a password gets the new one all the same, also where auth_methods, or require_auth of
// the URL, allows nothing but that.
func TestRotateRootWithTrust(t *testing.T) {
	p := ownServer(t, bed.PostgresOptions{HBA: []string{"host all trusted 127.0.0.1/32 trust"}})
	w := newWorld(t, "", nil)
	w.exec("CREATE ROLE trusted SUPERUSER LOGIN")
	for _, tt := range []struct{ methods, query string }{
		{"scram-sha-256,none", ""},
		{"none", ""},
		{"none", "require_auth=none"},
		{"scram-sha-256,none", "require_auth=none"},
		{"none", "require_auth=!scram-sha-256"},
	} {
		w.exec("ALTER ROLE trusted PASSWORD 'the-old-password'")
		u, err := url.Parse(p.URL("postgres", "trusted", "the-old-password"))
		w.ok(err)
		u.RawQuery += "&" + tt.query
		c, err := w.kind.NormalizeConnection(kind.Connection{Name: "trusted", Options: kind.Options{
			login.FieldURL: u.String(), fieldMethods: tt.methods,
		}})
		w.ok(err)
		c.Next = key.NewValue("the-next-password")
		before := w.role("trusted")
		if err := w.kind.RotateRoot(t.Context(), c); err != nil {
			t.Errorf("auth_methods=%s, %s: %v", tt.methods, tt.query, err)
			continue
		}
		after := w.role("trusted")
		if before == after {
			t.Errorf("auth_methods=%s, %s: rotate-root says that it has set a password, and the server has the old one", tt.methods, tt.query)
		}
		if strings.Contains(after, c.Next.Reveal()) {
			t.Error("the password is there in the clear")
		}
	}
}
