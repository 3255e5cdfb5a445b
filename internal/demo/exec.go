// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"strings"
)

// StartExec starts one more instance of agents, which reads its keys from the environment at its start, as the platform's
// own do, and is therefore run by its sidecar. It gives the instance's name.
func (w *World) StartExec(ctx context.Context, n int) (string, error) {
	p, err := w.place(ctx, "agents", n)
	if err != nil {
		return p.name, err
	}
	blocks := `exec { keys = ["AGENT_SERVICE_TOKEN", "REDIS_URL"] }` + p.healthBlock()
	if err := w.startSidecar(p, "exec", blocks, "--", w.binary, p.workload, "--instance="+p.name, "--address="+p.address, "--api="+strings.Join(w.APIs, ",")); err != nil {
		return p.name, err
	}
	w.Apps[p.name] = w.Sidecars[p.name] // they end together
	w.Agents = append(w.Agents, p.url())
	return p.name, w.awaitHealthy(ctx, p.url(), p.name)
}
