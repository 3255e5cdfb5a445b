// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/testbed"
)

// StartProxy starts one more instance of api, whose process is somebody else's at upstream and holds the token that it
// started with, as the platform's guard does. Clients come to the sidecar's proxy, whose URL it gives.
func (w *World) StartProxy(ctx context.Context, n int, upstream string) (string, error) {
	const workload = "api"
	name := instance(workload, n)
	dir := filepath.Join(w.Bed.Dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	port, err := testbed.FreePort()
	if err != nil {
		return "", err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	if err := w.writeSecrets(ctx, workload, dir); err != nil {
		return "", err
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
render "json" {
  path = "%[4]s/secrets.json"
  keys = ["AGENT_SERVICE_TOKEN"]
}
proxy {
  listen   = %[5]q
  upstream = %[6]q
  key      = "AGENT_SERVICE_TOKEN"
}
`, workload, name, w.Server.Addr, dir, address, upstream)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", err
	}
	if w.Sidecars[name], err = w.Bed.Program(name+"-sidecar", testbed.Tool("bin", "hyvve-sidecar"), []string{"agent", "--config=" + config}, nil); err != nil {
		return "", err
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address); err == nil {
			return "http://" + address, conn.Close()
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-w.Sidecars[name].Done():
			return "", fmt.Errorf("the sidecar of %s ended:\n%s", name, w.Sidecars[name].Tail())
		case <-ticker.C:
		}
	}
}
