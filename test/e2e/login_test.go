// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// loginWorld is a Vault that speaks TLS, one key, one workload that presents it, and its sidecar, in this process.
type loginWorld struct {
	t      *testing.T
	vault  *bed.Vault
	engine *client.Client
	dir    string
	config string
	log    *kit.Log
	stop   func()
}

// newLoginWorld starts no sidecar yet. The text is that of the auth block, and of what else the vault block is to hold.
func newLoginWorld(t *testing.T, text string, setUp func(w *loginWorld, ca string)) *loginWorld {
	t.Helper()
	b := bed.ForTest(t)
	v, err := b.Vault(t.Context(), bed.VaultOptions{Durable: true, TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := b.Authority()
	if err != nil {
		t.Fatal(err)
	}
	one, err := authority.Client("api")
	if err != nil {
		t.Fatal(err)
	}
	w := &loginWorld{t: t, vault: v, engine: client.New(v.Client, bed.Mount), dir: t.TempDir(), log: &kit.Log{}, stop: func() {}}
	w.write("hyvve/config", map[string]any{"lease_ttl": "1m", "soak": "0s", "observe": "0s"})
	w.write("hyvve/keys/agent-service-token", map[string]any{"format": "hex", "length": 32, "generate": true})
	w.write("hyvve/workloads/api", map[string]any{"presents": "agent-service-token", "min_instances": 1})
	w.write("sys/policies/acl/api", map[string]any{"policy": `
		path "hyvve/creds/api"   { capabilities = ["read", "update"] }
		path "hyvve/watch/api"   { capabilities = ["read"] }
		path "hyvve/report/api"  { capabilities = ["update"] }
		path "hyvve/leave/api"   { capabilities = ["update"] }`})
	setUp(w, authority.File)
	w.config = filepath.Join(w.dir, "sidecar.hcl")
	text = strings.NewReplacer("DIR", w.dir, "CERT", one.CertFile, "KEY", one.KeyFile).Replace(text)
	text = fmt.Sprintf("workload = \"api\"\ninstance = \"api-1\"\nvault {\n address = %q\n ca_cert = %q\n%s\n}\nrender \"dotenv\" { path = \"%s/run/.env\" }\n",
		v.Addr, authority.File, text, w.dir)
	if err := errors.Join(os.WriteFile(w.config, []byte(text), 0o600), os.Mkdir(filepath.Join(w.dir, "run"), 0o700)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *loginWorld) write(path string, data map[string]any) map[string]any {
	w.t.Helper()
	secret, err := w.vault.Client.Logical().WriteWithContext(w.t.Context(), path, data)
	if err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
	if secret == nil {
		return nil
	}
	return secret.Data
}

// start starts the sidecar.
func (w *loginWorld) start() {
	w.t.Helper()
	f, err := config.Load(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := agent.Check(f)
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := agent.New(c, slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

func (w *loginWorld) file() string {
	data, _ := os.ReadFile(filepath.Join(w.dir, "run", ".env"))
	return string(data)
}

func (w *loginWorld) holds(what string, so func() bool) {
	w.t.Helper()
	kit.Until(w.t, what, so, w.log.String)
}

func (w *loginWorld) says(what string, times int) {
	w.t.Helper()
	w.holds(fmt.Sprintf("%q is said %d times", what, times), func() bool { return strings.Count(w.log.String(), what) >= times })
}

// rotate makes a rotation, which ends only if the sidecar takes it up.
func (w *loginWorld) rotate() {
	w.t.Helper()
	before := w.file()
	r, err := w.engine.Rotate(w.t.Context(), "scenario", "agent-service-token")
	if err != nil {
		w.t.Fatal(err)
	}
	w.holds("the rotation ends", func() bool {
		now, err := w.engine.Rotation(w.t.Context(), r.ID)
		return err == nil && now.State == "done"
	})
	if after := w.file(); after == before || after == "" {
		w.t.Error("the file is as before the rotation")
	}
	w.silent(before)
	w.silent(w.file())
}

// silent looks for a file's value in the log.
func (w *loginWorld) silent(file string) {
	w.t.Helper()
	_, value, _ := strings.Cut(strings.TrimSpace(file), "=")
	if value != "" && strings.Contains(w.log.String(), value) {
		w.t.Error("a value stands in the log")
	}
}

// revokeLogins ends all tokens of a method, as an operator would.
func (w *loginWorld) revokeLogins(mount string) {
	w.t.Helper()
	secret, err := w.vault.Client.Logical().ListWithContext(w.t.Context(), "auth/token/accessors")
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, accessor := range secret.Data["keys"].([]any) {
		token, err := w.vault.Client.Auth().Token().LookupAccessorWithContext(w.t.Context(), accessor.(string))
		if err != nil || token.Data["path"] != "auth/"+mount+"/login" {
			continue
		}
		if err := w.vault.Client.Auth().Token().RevokeAccessorWithContext(w.t.Context(), accessor.(string)); err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	if n == 0 {
		w.t.Fatal("there is no token to revoke")
	}
}

// A token is revoked, Vault is sealed, and is not there when the sidecar starts: the files stay or come from the copy, and
// the next rotation is taken up each time.
func TestSidecarAndItsVault(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newLoginWorld(t, `
		auth "cert" {
			cert_file = "CERT"
			key_file  = "KEY"
			name      = "api"
		}
		last_good {
			path     = "DIR/last-good"
			key_file = "DIR/key"
		}`, func(w *loginWorld, ca string) {
		text, err := os.ReadFile(ca)
		if err != nil {
			w.t.Fatal(err)
		}
		w.write("sys/auth/cert", map[string]any{"type": "cert"})
		w.write("auth/cert/certs/api", map[string]any{"certificate": string(text), "allowed_common_names": "api", "token_policies": "api", "token_ttl": "1h"})
		if err := os.WriteFile(filepath.Join(w.dir, "key"), []byte(strings.Repeat("c3", 32)), 0o400); err != nil {
			w.t.Fatal(err)
		}
	})
	w.start()
	w.holds("the file is there", func() bool { return w.file() != "" })
	w.rotate()

	w.revokeLogins("cert") // and with the token the lease, so that there is no instance until it has logged in again
	w.says("logged in to vault", 2)
	w.rotate()

	held := w.file()
	if err := w.vault.Client.Sys().SealWithContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.says("Vault is sealed", 2)
	if w.file() != held {
		t.Error("the file changed while Vault was sealed")
	}
	if err := errors.Join(w.vault.Stop(), w.vault.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.rotate()

	held = w.file()
	w.stop()
	w.vault.Kill()
	<-w.vault.Done()
	if err := os.Remove(filepath.Join(w.dir, "run", ".env")); err != nil { // the machine was started again
		t.Fatal(err)
	}
	w.start()
	w.says("running from the last-good copy", 1)
	w.holds("the file is there again", func() bool { return w.file() == held })
	if err := w.vault.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.says("vault is back", 1)
	w.rotate()
	if strings.Contains(w.log.String(), "last-good copy not") {
		t.Errorf("the sidecar says:\n%s", w.log)
	}
}

// Tokens that cannot be renewed, or no longer: the sidecar logs in again before they end, by the secret id that it has
// unwrapped once, and its files are not touched for that.
func TestSidecarLogsInAgain(t *testing.T) {
	t.Parallel() // it waits most of the time
	for name, role := range map[string]map[string]any{
		"batch":        {"token_type": "batch", "token_ttl": "9s"},
		"with an end":  {"token_ttl": "9s", "token_max_ttl": "9s"},
		"last renewal": {"token_ttl": "8s", "token_explicit_max_ttl": "12s"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newLoginWorld(t, `
				auth "approle" {
					role_id_file      = "DIR/role-id"
					secret_id_file    = "DIR/secret-id"
					secret_id_wrapped = true
					role              = "api"
				}`, func(w *loginWorld, _ string) {
				w.write("sys/auth/approle", map[string]any{"type": "approle"})
				role["token_policies"] = "api"
				w.write("auth/approle/role/api", role)
				id, err := w.vault.Client.Logical().ReadWithContext(w.t.Context(), "auth/approle/role/api/role-id")
				if err != nil {
					w.t.Fatal(err)
				}
				wrapping, err := w.vault.Client.Clone()
				if err != nil {
					w.t.Fatal(err)
				}
				wrapping.SetToken(w.vault.Token)
				wrapping.SetWrappingLookupFunc(func(string, string) string { return "5m" })
				secret, err := wrapping.Logical().WriteWithContext(w.t.Context(), "auth/approle/role/api/secret-id", nil)
				if err != nil {
					w.t.Fatal(err)
				}
				if err := errors.Join(os.WriteFile(filepath.Join(w.dir, "role-id"), []byte(id.Data["role_id"].(string)), 0o600),
					os.WriteFile(filepath.Join(w.dir, "secret-id"), []byte(secret.WrapInfo.Token), 0o600)); err != nil {
					w.t.Fatal(err)
				}
			})
			w.start()
			w.says("logged in to vault", 2)
			if n := strings.Count(w.log.String(), `"msg":"bundle rendered"`); n != 1 {
				t.Errorf("files were rendered %d times", n)
			}
			w.rotate()
			if log := w.log.String(); strings.Contains(log, "denies access") {
				t.Errorf("a token ended before there was another one:\n%s", log)
			}
		})
	}
}
