// SPDX-License-Identifier: Apache-2.0

package platform

import (
	"context"
	"fmt"
	"net"
	"time"
)

// StartProxy starts one more instance of api, whose process is somebody else's at upstream and holds the token that it
// started with, as the platform's guard does. Clients come to the sidecar's proxy, whose URL it gives.
func (w *World) StartProxy(ctx context.Context, n int, upstream string) (string, error) {
	p, err := w.place(ctx, "api", n)
	if err != nil {
		return "", err
	}
	blocks := fmt.Sprintf(`
render "json" {
  path = "%s/secrets.json"
  keys = ["AGENT_SERVICE_TOKEN"]
}
proxy {
  listen   = %q
  upstream = %q
  key      = "AGENT_SERVICE_TOKEN"
}
`, p.dir, p.address, upstream)
	if err := w.startSidecar(p, "agent", blocks); err != nil {
		return "", err
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.address); err == nil {
			return p.url(), conn.Close()
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-w.Sidecars[p.name].Done():
			return "", fmt.Errorf("the sidecar of %s ended:\n%s", p.name, w.Sidecars[p.name].Tail())
		case <-ticker.C:
		}
	}
}
