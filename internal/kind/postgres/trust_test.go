// SPDX-License-Identifier: Apache-2.0

package postgres

import (
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

// An administrator who is let in without a password gets the new one all the same.
func TestRotateRootWithTrust(t *testing.T) {
	p := ownServer(t, bed.PostgresOptions{HBA: []string{"host all trusted 127.0.0.1/32 trust"}})
	w := newWorld(t, "", nil)
	w.exec("CREATE ROLE trusted SUPERUSER LOGIN PASSWORD 'the-old-password'")
	c, err := w.kind.NormalizeConnection(kind.Connection{Name: "trusted", Options: kind.Options{
		login.FieldURL: p.URL("postgres", "trusted", "the-old-password"), fieldMethods: "scram-sha-256,none",
	}})
	w.ok(err)
	c.Next = key.NewValue("the-next-password")
	before := w.role("trusted")
	w.ok(w.kind.RotateRoot(t.Context(), c))
	after := w.role("trusted")
	if before == after {
		t.Error("rotate-root says that it has set a password, and the server has the old one")
	}
	if strings.Contains(after, c.Next.Reveal()) {
		t.Error("the password is there in the clear")
	}
}
