// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	engineapi "github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// beside is a workload whose files Vault's own agent renders, followed by a sidecar that only watches.
type beside struct {
	t           *testing.T
	vault       *bed.Vault
	engine      *client.Client
	dir, file   string
	taken       string // what the workload found at each reload, a line each
	agent, side *bed.Program
}

const agentPolicy = `path "hyvve/creds/api" { capabilities = ["read"] }`

// startBeside makes an engine with a key that the workload presents, and one that it verifies as well; short leases, since
// Vault Agent comes back when its own ends.
func startBeside(t *testing.T) *beside {
	t.Helper()
	rig := bed.ForTest(t)
	v, err := rig.Vault(t.Context(), bed.VaultOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := &beside{t: t, vault: v, engine: client.New(v.Client, bed.Mount), dir: filepath.Join(rig.Dir, "beside")}
	b.file, b.taken = filepath.Join(b.dir, "secrets", ".env"), filepath.Join(b.dir, "taken")
	if err := os.MkdirAll(filepath.Dir(b.file), 0o700); err != nil {
		t.Fatal(err)
	}
	b.write("hyvve/config", map[string]any{"lease_ttl": "12s", "soak": "1s", "observe": "1s"})
	for _, name := range []string{"agent-service-token", "jwt-secret"} {
		b.write("hyvve/keys/"+name, map[string]any{"generate": true, "format": "hex"})
	}
	b.write("hyvve/workloads/api", map[string]any{"presents": "agent-service-token,jwt-secret", "verifies": "jwt-secret", "min_instances": 0})
	if err := v.Client.Sys().EnableAuthWithOptionsWithContext(t.Context(), "approle", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		t.Fatal(err)
	}
	if err := v.Client.Sys().PutPolicyWithContext(t.Context(), "api", agentPolicy); err != nil {
		t.Fatal(err)
	}
	b.write("auth/approle/role/api", map[string]any{"token_policies": "api", "token_ttl": "1h"})
	role, err := v.Client.Logical().ReadWithContext(t.Context(), "auth/approle/role/api/role-id")
	if err != nil {
		t.Fatal(err)
	}
	secret, err := v.Client.Logical().WriteWithContext(t.Context(), "auth/approle/role/api/secret-id", nil)
	if err != nil {
		t.Fatal(err)
	}
	b.put("role-id", fmt.Sprint(role.Data["role_id"]))
	b.put("secret-id", fmt.Sprint(secret.Data["secret_id"]))
	b.startAgent(rig)
	b.startSidecar(rig)
	return b
}

func (b *beside) put(name, text string) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

func (b *beside) write(path string, data map[string]any) {
	b.t.Helper()
	if _, err := b.vault.Client.Logical().WriteWithContext(b.t.Context(), path, data); err != nil {
		b.t.Fatalf("%s: %v", path, err)
	}
}

func (b *beside) startAgent(rig *bed.Bed) {
	b.t.Helper()
	binary, err := bed.VaultBinary()
	if err != nil {
		b.t.Fatal(err)
	}
	config := b.put("agent.hcl", fmt.Sprintf(`
vault { address = %[1]q }
auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "%[2]s/role-id"
      secret_id_file_path                 = "%[2]s/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}
template {
  destination = %[3]q
  perms       = "0600"
  contents    = <<EOT
{{ with secret "hyvve/creds/api" -}}
{{ range $name, $value := .Data.values -}}
{{ $name }}={{ $value }}
{{ end -}}
{{ end -}}
EOT
}
`, b.vault.Addr, b.dir, b.file))
	if b.agent, err = rig.Program("vault-agent", binary, []string{"agent", "-config=" + config}, []string{"HOME=" + b.dir}); err != nil {
		b.t.Fatal(err)
	}
	b.until("Vault Agent has rendered", func() bool { return strings.HasSuffix(b.read(b.file), "\n") })
}

func (b *beside) startSidecar(rig *bed.Bed) {
	b.t.Helper()
	config := b.put("sidecar.hcl", fmt.Sprintf(`
watch {
  paths    = [%[1]q]
  poll     = "1h"
  validate = "dotenv"
}
reload "command" { command = ["sh", "-c", "paste -sd, \"$1\" >>\"$2\"", "sh", %[1]q, %[2]q] }
`, b.file, b.taken))
	var err error
	if b.side, err = rig.Program("sidecar", bed.Tool("bin", "hyvve-sidecar"), []string{"agent", "--config=" + config}, nil); err != nil {
		b.t.Fatal(err)
	}
	b.until("the sidecar follows", func() bool { return strings.Contains(b.side.Tail(), "following files") })
}

func (b *beside) read(path string) string {
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		b.t.Fatal(err)
	}
	return string(data)
}

func (b *beside) until(what string, so func() bool) {
	b.t.Helper()
	kit.Until(b.t, what, so, b.state)
}

func (b *beside) rotation(id string) engineapi.Rotation {
	b.t.Helper()
	r, err := b.engine.Rotation(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *beside) signal(s syscall.Signal) {
	b.t.Helper()
	if err := syscall.Kill(b.agent.PID(), s); err != nil {
		b.t.Fatal(err)
	}
}

// Vault Agent is held still while a key rotates: its lease on the old bundle is use of the old version, by which the
// rotation stays where it is and says so. Once it continues, it loads the new value, the sidecar makes the workload
// reload exactly once for it, and only then does the old version go. Changes of what is accepted, which the file does not
// show, are no reason to reload.
func TestBesideVaultAgent(t *testing.T) {
	t.Parallel() // it waits most of the time
	b := startBeside(t)
	for n, name := range []string{"agent-service-token", "jwt-secret", "agent-service-token"} {
		old := b.read(b.file)
		hold := name == "agent-service-token"
		if hold {
			b.signal(syscall.SIGSTOP)
		}
		r, err := b.engine.Rotate(t.Context(), "scenario", name)
		if err != nil {
			t.Fatal(err)
		}
		if hold {
			b.until("the rotation presents", func() bool { return b.rotation(r.ID).State == "presenting" })
			for begun := time.Now(); time.Since(begun) < 1500*time.Millisecond; {
				now := b.rotation(r.ID)
				if now.State != "presenting" || !strings.Contains(now.NextGate, "a reader without instance=") {
					t.Fatalf("with an outstanding lease on the old version it is %s: %s", now.State, now.NextGate)
				}
				<-time.After(50 * time.Millisecond)
			}
			t.Logf("meanwhile: %s", b.rotation(r.ID).NextGate)
			b.signal(syscall.SIGCONT)
		}
		lines := 0
		b.until(name+" has rotated", func() bool {
			now := b.rotation(r.ID)
			lines = strings.Count(b.read(b.taken), "\n")
			if now.State == "retiring" && lines <= n && b.read(b.file) == old {
				t.Fatalf("the old version goes while it is in the file")
			}
			return now.State == "done"
		})
		if now := b.read(b.file); now == old {
			t.Errorf("%s has rotated, and the file is what it was", name)
		}
		b.until("the workload has reloaded", func() bool { return strings.Count(b.read(b.taken), "\n") > n })
	}
	<-time.After(time.Second) // a reload too many would come within it
	taken := strings.Split(strings.TrimSuffix(b.read(b.taken), "\n"), "\n")
	if len(taken) != 3 {
		t.Errorf("%d reloads for 3 rotations", len(taken))
	}
	if last := strings.ReplaceAll(taken[len(taken)-1], ",", "\n") + "\n"; last != b.read(b.file) {
		t.Error("the workload has not what the file has")
	}
	for _, line := range taken {
		for _, entry := range strings.Split(line, ",") {
			if _, value, _ := strings.Cut(entry, "="); value == "" || strings.Contains(b.read(b.side.LogPath), value) {
				t.Error("a value stands in the sidecar's log, or was not there")
			}
		}
	}
}

// state tells of all rotations.
func (b *beside) state() string {
	text := ""
	ids, _ := b.engine.Rotations(b.t.Context())
	for _, id := range ids {
		r := b.rotation(id)
		text += fmt.Sprintf("; %s of %v is %s: %s", id, r.Keys, r.State, r.NextGate)
	}
	return text
}
