// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

// later lets time pass for a method.
func (m *Method) later(d time.Duration) {
	m.refused.next, m.refused.last = m.refused.next.Add(-d), m.refused.last.Add(-d)
}

// refusedLogins shows what Vault does about wrong credentials that are tried again and again, and that a sidecar never does that.
func (r *real) refusedLogins() {
	r.write("sys/auth/userpass", map[string]any{"type": "userpass"})
	r.write("auth/userpass/users/ann", map[string]any{"password": "right"})
	r.write("auth/approle/role/locked", map[string]any{"token_policies": "api"})
	for path, wrong := range map[string]map[string]any{
		"auth/userpass/login/ann": {"password": "wrong"},
		"auth/approle/login":      {"role_id": r.word(r.roleFile("locked")), "secret_id": "wrong"},
	} {
		for range 5 {
			if _, err := r.vault.Client.Logical().WriteWithContext(r.t.Context(), path, wrong); err == nil {
				r.t.Fatalf("%s takes wrong credentials", path)
			}
		}
	}
	if locked := r.locked(); locked != 2 {
		r.t.Fatalf("after five refused logins each, %d users are locked, want ann and a role id: this test would prove nothing", locked)
	}
	right := r.write("auth/approle/role/locked/secret-id", nil).Data["secret_id"].(string)
	m := r.method(Settings{Method: "approle", RoleIDFile: r.roleFile("locked"), SecretIDFile: r.file("secret-id", right)})
	r.out(m, r.connect(nil), client.ErrDenied, "and then refuses the right secret id, too", "vault read sys/locked-users")

	m = r.method(Settings{Method: "approle", RoleIDFile: r.roleFile("api"), SecretIDFile: r.file("secret-id", "wrong")})
	c := r.connect(nil)
	for range 200 { // as the agent asks in half an hour
		r.out(m, c, client.ErrDenied, "the same credentials are tried again at", "secret-id")
	}
	for range 5 {
		m.later(3 * time.Minute)
		r.out(m, c, client.ErrDenied)
	}
	for n := range 10 { // somebody writes one wrong secret id after the other
		r.file("secret-id", fmt.Sprintf("wrong-%d", n))
		r.out(m, c, client.ErrDenied)
	}
	if locked := r.locked(); locked != 2 {
		r.t.Errorf("a sidecar with a wrong secret id has locked its role id: %d users are locked", locked)
	}
	m.later(20 * time.Minute)
	secret := r.write("auth/approle/role/api/secret-id", nil).Data["secret_id"].(string)
	r.file("secret-id", secret)
	r.in(m, c)
	r.file("secret-id", "wrong")
	r.out(m, c, client.ErrDenied)
	r.file("secret-id", secret) // put right, it is tried at once
	r.in(m, c)
}

func (r *real) word(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// locked returns how many users Vault has locked.
func (r *real) locked() int {
	r.t.Helper()
	secret, err := r.vault.Client.Logical().ReadWithContext(r.t.Context(), "sys/locked-users")
	if err != nil {
		r.t.Fatal(err)
	}
	total, _ := secret.Data["total"].(interface{ Int64() (int64, error) }).Int64()
	return int(total)
}

// The waits for refused credentials, by method.
func TestRefusedCredentialsAreTriedRarely(t *testing.T) {
	refusal := fmt.Errorf("logging in: %w: %w", client.ErrDenied, &api.ResponseError{StatusCode: 400})
	for method, want := range map[string][]time.Duration{
		appRole:    {2 * time.Minute, 17 * time.Minute, 17 * time.Minute},
		kubernetes: {5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute},
	} {
		path := filepath.Join(t.TempDir(), "credential")
		m := New(Settings{Method: method, SecretIDFile: path, TokenPath: path})
		for n, wait := range want {
			err := m.refuse(m.settings.sum(), refusal)
			if got := m.wait(); got > wait || got < wait-time.Second {
				t.Errorf("%s: after %d refusals it waits for %s, want %s", method, n+1, got, wait)
			}
			if held := m.held(); held == nil || held.Error() != err.Error() || !errors.Is(held, client.ErrDenied) {
				t.Errorf("%s: held by %v, want %v", method, held, err)
			}
			m.later(lockoutReset + 3*time.Minute)
		}
	}
}

// A login that waits continues when the file has changed.
func TestAwaitSeesChangedCredentials(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret-id")
	m := New(Settings{Method: appRole, SecretIDFile: path})
	if err := m.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = m.refuse(m.settings.sum(), client.ErrDenied)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Await(ctx); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("canceled: %v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- m.Await(t.Context()) }()
	if err := os.WriteFile(path, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-waited:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the change was not seen")
	}
}
