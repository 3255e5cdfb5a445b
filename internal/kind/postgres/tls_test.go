// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"os"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// A server that takes nothing but TLS, with a CA of its own, and an administrator with a client certificate and no password.
func TestTLS(t *testing.T) {
	ctx := t.Context()
	b := bed.ForTest(t)
	p, err := b.PostgresWith(ctx, bed.PostgresOptions{TLS: true, HBA: []string{"hostssl all certain 127.0.0.1/32 cert"}})
	if err != nil {
		t.Fatal(err)
	}
	on = p
	t.Cleanup(func() { on = nil })
	ca, err := b.Authority()
	if err != nil {
		t.Fatal(err)
	}
	pem := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	caPEM = pem(ca.File)
	t.Cleanup(func() { caPEM = "" })
	w := newWorld(t, "", nil)
	if _, err := p.NewRole(ctx, "certain"); err != nil {
		t.Fatal(err)
	}
	w.exec("ALTER ROLE certain SUPERUSER")
	certificate, err := ca.Client("certain")
	w.ok(err)
	admin, err := dsn.Parse(p.AdminURL("postgres"), urls.Schemes...)
	w.ok(err)
	host := "postgresql://certain@" + admin.Host() + "/postgres?sslmode=verify-full"
	certain := kind.Connection{Name: "certain", Kind: "postgres", Options: kind.Options{
		login.FieldURL: host, login.FieldCA: caPEM, login.FieldCert: pem(certificate.CertFile),
	}, Secrets: map[string]key.Value{login.FieldKey: key.NewValue(pem(certificate.KeyFile))}}
	for name, c := range map[string]kind.Connection{"password": w.connection, "certificate": certain} {
		c, err := w.kind.NormalizeConnection(c)
		w.ok(err)
		if _, err := w.kind.CheckConnection(ctx, c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		change := w.next(w.first)
		change.Connection = c
		w.ok(w.kind.Stage(ctx, change))
		w.ok(w.kind.Verify(ctx, change))
		w.ok(w.kind.Unstage(ctx, change))
	}
	unknown := w.connection
	unknown.Revision = 9
	unknown.Options = kind.Options{login.FieldURL: w.connection.Options[login.FieldURL]}
	if _, err := w.kind.CheckConnection(ctx, unknown); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the CA: %v", err)
	}
	broken := certain
	broken.Options = kind.Options{login.FieldURL: host, login.FieldCA: "no certificate"}
	broken.Secrets = map[string]key.Value{"password": key.NewValue("x")}
	if _, err := w.kind.NormalizeConnection(broken); err == nil || !strings.Contains(err.Error(), "tls_ca holds no certificate") {
		t.Errorf("a broken CA: %v", err)
	}
}
