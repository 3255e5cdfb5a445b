// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/testbed"
)

// StartExec starts one more instance of agents, which reads its keys from the environment at its start, as the platform's
// own do, and is therefore run by its sidecar. It gives the instance's name.
func (w *World) StartExec(ctx context.Context, n int) (string, error) {
	const workload = "agents"
	name := instance(workload, n)
	dir := filepath.Join(w.Bed.Dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return name, err
	}
	port, err := testbed.FreePort()
	if err != nil {
		return name, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	if err := w.writeSecrets(ctx, workload, dir); err != nil {
		return name, err
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
exec { keys = ["AGENT_SERVICE_TOKEN", "REDIS_URL"] }
health "http" {
  url         = "http://%[5]s/health"
  interval    = "1s"
  expect_etag = true
}
`, workload, name, w.Server.Addr, dir, address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return name, err
	}
	args := []string{"exec", "--config=" + config, "--", w.binary, workload, "--instance=" + name, "--address=" + address, "--api=" + strings.Join(w.APIs, ",")}
	if w.Sidecars[name], err = w.Bed.Program(name+"-sidecar", testbed.Tool("bin", "hyvve-sidecar"), args, nil); err != nil {
		return name, err
	}
	w.Apps[name] = w.Sidecars[name] // they end together
	w.Agents = append(w.Agents, "http://"+address)
	return name, w.awaitHealthy(ctx, "http://"+address, name)
}
