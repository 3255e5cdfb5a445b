// SPDX-License-Identifier: Apache-2.0

package login

import (
	"path/filepath"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

func TestMain(m *testing.M) { bed.Main(m) }

// A service account's token logs in where Vault's own kubernetes method asks a real API server whose it is.
func TestRealServiceAccount(t *testing.T) {
	k, ns := bed.Namespace(t)
	b := bed.ForTest(t)
	v, err := b.Vault(t.Context(), bed.VaultOptions{Durable: true, TLS: true, NoMount: true})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := b.Authority()
	if err != nil {
		t.Fatal(err)
	}
	if err := v.KubernetesAuth(t.Context(), k, "kubernetes"); err != nil {
		t.Fatal(err)
	}
	r := &real{t: t, vault: v, authority: authority, dir: t.TempDir()}
	r.write("auth/kubernetes/role/api", map[string]any{
		"bound_service_account_names": "api", "bound_service_account_namespaces": ns, "audience": bed.VaultAudience, "token_policies": "api", "token_ttl": "1h",
	})
	path := filepath.Join(r.dir, "token")
	m, c := r.method(Settings{Method: "kubernetes", Role: "api", TokenPath: path}), r.connect(nil)
	for _, account := range []string{"default", "api"} {
		if err := k.ServiceAccount(t.Context(), ns, account); err != nil {
			t.Fatal(err)
		}
		token, err := k.Token(t.Context(), ns, account, bed.VaultAudience)
		if err != nil {
			t.Fatal(err)
		}
		r.file("token", token)
		if account == "default" {
			r.out(m, c, client.ErrDenied, "not authorized")
			continue
		}
		if got, policies := r.in(m, c); policies != "api,default" || !got.Renewable {
			t.Errorf("%+v, policies %s", got, policies)
		}
	}
}
