// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/testbed"
)

// AddWorkload tells the engine of one more workload, as hyvve/workloads/ takes it, and lets its sidecars log in.
func (w *World) AddWorkload(ctx context.Context, name string, data map[string]any) error {
	logical := w.Server.Client.Logical()
	if _, err := logical.WriteWithContext(ctx, "hyvve/workloads/"+name, data); err != nil {
		return fmt.Errorf("workload %s: %w", name, err)
	}
	if err := w.Server.Client.Sys().PutPolicyWithContext(ctx, name, fmt.Sprintf(policy, name)); err != nil {
		return err
	}
	_, err := logical.WriteWithContext(ctx, "auth/approle/role/"+name, map[string]any{"token_policies": name, "token_ttl": "1h"})
	return err
}

// Place makes the directory of one more instance of a workload, for its files, and gives its name and that directory.
func (w *World) Place(workload string, n int) (name, dir string, err error) {
	name = instance(workload, n)
	dir = filepath.Join(w.Bed.Dir, name)
	return name, dir, os.MkdirAll(dir, 0o700)
}

// StartSidecar starts the agent of an instance, whose process is somebody else's. What is not about Vault stands in
// blocks. Started again, it takes the place of the one before.
func (w *World) StartSidecar(ctx context.Context, workload string, n int, blocks string) error {
	name, dir, err := w.Place(workload, n)
	if err != nil {
		return err
	}
	if err := w.writeSecrets(ctx, workload, dir); err != nil {
		return err
	}
	config := filepath.Join(dir, "sidecar.hcl")
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
`, workload, name, w.Server.Addr, dir)
	if err := os.WriteFile(config, []byte(text+blocks), 0o600); err != nil {
		return err
	}
	w.Sidecars[name], err = w.Bed.Program(name+"-sidecar", testbed.Tool("bin", "hyvve-sidecar"), []string{"agent", "--config=" + config}, nil)
	return err
}
