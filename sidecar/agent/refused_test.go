// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
)

// A configuration that is taken while refused credentials are held back is rendered at once, and the status shows the refusal.
func TestConfigurationIsTakenWhileCredentialsAreHeldBack(t *testing.T) {
	dir := t.TempDir()
	auth := config.AuthBlock{Method: "approle", Mount: "approle", RoleIDFile: filepath.Join(dir, "role-id"), SecretIDFile: filepath.Join(dir, "secret-id")}
	for _, path := range []string{auth.RoleIDFile, auth.SecretIDFile} {
		if err := os.WriteFile(path, []byte("it"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := startAgentWith(t, dir, nil, func(_ *running, c *Config) { c.Vault.Auth = auth })
	r.await("loaded", loaded("etag-1-0"))
	r.fake.change(func() { r.fake.fail["auth"], r.fake.fail["watch"], r.fake.version = 403, 403, 2 }) // the token has ended
	r.says("not logged in to vault")
	newer := r.config
	newer.Targets = append(newer.Targets[:0:0], newer.Targets...)
	newer.Targets[0].Path = filepath.Join(dir, "other.json")
	if err := r.agent.reconfigure(newer); err != nil {
		t.Fatal(err)
	}
	r.soon("the file is rendered as it says", func() bool {
		data, _ := os.ReadFile(newer.Targets[0].Path)
		return strings.Contains(string(data), canary)
	})
	r.soon("the workload is reloaded", func() bool { return r.reloads.count() == 2 })
	r.soon("the status shows the refusal", func() bool {
		return strings.Contains(r.agent.board.State().Vault.Error, "the same credentials are tried again at")
	})
	if n := r.fake.count("auth/approle/login"); n != 2 {
		t.Errorf("%d logins were tried, want 2", n)
	}
}
