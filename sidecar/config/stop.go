// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net"
	"net/url"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
)

// Listened returns the addresses of this machine at which health checks find the workload, HOST:PORT each. All of them are to show that
// it has ended. None: they show nothing, as where one is of another machine, or of the sidecar's own proxy, which ends with it.
func Listened(health []HealthBlock, own []string) (all []string) {
	for _, h := range health {
		address := h.Address
		switch h.Method {
		case "http":
			u, err := url.Parse(h.URL)
			if err != nil {
				return nil
			}
			if address = u.Host; u.Port() == "" {
				address = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
			}
		case "tcp":
		default:
			continue
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil || !dsn.Local(host) || proxied(own, port) {
			return nil
		}
		all = append(all, address)
	}
	return all
}

// proxied reports whether the sidecar's own proxy listens at a port.
func proxied(own []string, port string) bool {
	return slices.ContainsFunc(own, func(address string) bool {
		_, at, err := net.SplitHostPort(address)
		return err != nil || at == port
	})
}

// Ending is how a sidecar that stops can know that its workload has ended.
type Ending int

// The values of Ending.
const (
	EndUnseen    Ending = iota // not without an API server
	EndListening               // in a pod, where nobody listens any more; elsewhere not
	EndProcess                 // it sees the process, or runs it
)

// Ending returns how the sidecar can know of the end.
func (f File) Ending() Ending {
	var own []string
	for _, p := range f.Proxy {
		own = append(own, p.Listen)
	}
	switch {
	case f.Exec != nil, f.Reload != nil && f.Reload.Method == "signal":
		return EndProcess
	case f.writesSecrets(), len(Listened(f.Health, own)) == 0: // a Secret's readers are in pods of their own
		return EndUnseen
	}
	return EndListening
}

func (f File) writesSecrets() bool {
	return slices.ContainsFunc(f.Render, func(r RenderBlock) bool { return r.Format == KubernetesSecret })
}
