// SPDX-License-Identifier: Apache-2.0

package platform

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// place is what an instance has before it is started.
type place struct {
	workload, name string
	dir            string // with the AppRole's login in it
	address        string // to serve on
}

// place makes the place of a workload's nth instance.
func (w *World) place(ctx context.Context, workload string, n int) (place, error) {
	name := instance(workload, n)
	p := place{workload: workload, name: name, dir: filepath.Join(w.Bed.Dir, name)}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return p, err
	}
	port, err := bed.FreePort()
	if err != nil {
		return p, err
	}
	p.address = fmt.Sprintf("127.0.0.1:%d", port)
	return p, w.writeSecrets(ctx, workload, p.dir)
}

// url is what clients of the instance call.
func (p place) url() string { return "http://" + p.address }

func (w *World) writeSecrets(ctx context.Context, workload, dir string) error {
	logical := w.Server.Client.Logical()
	role, err := logical.ReadWithContext(ctx, "auth/approle/role/"+workload+"/role-id")
	if err != nil {
		return err
	}
	secret, err := logical.WriteWithContext(ctx, "auth/approle/role/"+workload+"/secret-id", nil)
	if err != nil {
		return err
	}
	roleID, _ := role.Data["role_id"].(string)
	secretID, _ := secret.Data["secret_id"].(string)
	w.canaries.add(key.NewValue(secretID))
	for name, content := range map[string]string{"role-id": roleID, "secret-id": secretID} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// startSidecar starts a command of the sidecar at a place. Blocks are the configuration without login and names; args
// follow --config.
func (w *World) startSidecar(p place, command, blocks string, args ...string) error {
	config := filepath.Join(p.dir, "sidecar.hcl")
	text := fmt.Sprintf(`
workload = %[1]q
instance = %[2]q
vault {
  address = %[3]q
  auth "approle" {
    role_id_file   = "%[4]s/role-id"
    secret_id_file = "%[4]s/secret-id"
  }
}
`, p.workload, p.name, w.Server.Addr, p.dir)
	if err := os.WriteFile(config, []byte(text+blocks), 0o600); err != nil {
		return err
	}
	sidecar, err := w.Bed.Program(p.name+"-sidecar", bed.Tool("bin", "hyvve-sidecar"), append([]string{command, "--config=" + config}, args...), nil)
	if err == nil {
		w.Sidecars[p.name] = sidecar
	}
	return err
}

// healthBlock checks an instance by its own health page.
func (p place) healthBlock() string {
	return fmt.Sprintf(`
health "http" {
  url         = "%s/health"
  interval    = "1s"
  expect_etag = true
}
`, p.url())
}
