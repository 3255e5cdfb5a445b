// SPDX-License-Identifier: Apache-2.0

package platform

import (
	"context"
	"fmt"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/test/bed"
)

// StartExec starts one more instance of agents, which reads its keys from the environment at its start, as the platform's
// own do, and is therefore run by its sidecar. It returns the instance's name; its URL is the last of Agents.
func (w *World) StartExec(ctx context.Context, n int) (string, error) {
	p, err := w.place(ctx, "agents", n)
	if err != nil {
		return p.name, err
	}
	return p.name, w.startExec(ctx, p, "", w.APIs)
}

// StartScraped starts one as StartExec does, which calls api at a URL, and has the sidecar's proxy before it for
// METRICS_API_KEY. It returns the proxy's URL besides.
func (w *World) StartScraped(ctx context.Context, n int, api string) (name, url string, err error) {
	p, err := w.place(ctx, "agents", n)
	if err != nil {
		return p.name, "", err
	}
	port, err := bed.FreePort()
	if err != nil {
		return p.name, "", err
	}
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	block := fmt.Sprintf(`
proxy {
  listen   = %q
  upstream = %q
  key      = "METRICS_API_KEY"
  state    = "%s/proxy-state"
}
`, listen, p.url(), p.dir)
	return p.name, "http://" + listen, w.startExec(ctx, p, block, []string{api})
}

func (w *World) startExec(ctx context.Context, p place, blocks string, apis []string) error {
	blocks += `exec { keys = ["AGENT_SERVICE_TOKEN", "METRICS_API_KEY", "REDIS_URL"] }` + p.healthBlock()
	if err := w.startSidecar(p, "exec", blocks, "--", w.binary, p.workload, "--instance="+p.name, "--address="+p.address, "--api="+strings.Join(apis, ",")); err != nil {
		return err
	}
	w.Apps[p.name] = w.Sidecars[p.name] // they end together
	w.Agents = append(w.Agents, p.url())
	return w.awaitHealthy(ctx, p.url(), p.name)
}
