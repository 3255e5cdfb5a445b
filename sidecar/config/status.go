// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

// StatusBlock is where the sidecar tells how it is. It may be left out.
type StatusBlock struct {
	Socket string `hcl:"socket,optional" type:"file" default:"beside the first rendered file" flag:"status-socket" doc:"Socket of hyvve-sidecar status, or none."`
	Listen string `hcl:"listen,optional" type:"HOST:PORT" flag:"status-listen" doc:"Address of /metrics, /healthz and /readyz."`

	EndUnlessAwaited bool `hcl:"end_unless_awaited,optional" doc:"Until it is ready, exits unless status --ready --wait waits."`
}

const noSocket = "none"

// SocketPathMost is how long a socket's path may be: sun_path of unix(7), without the NUL at its end.
const SocketPathMost = 107

// SocketPath is where the sidecar tells how it is: as set, or beside the first rendered file. Empty means nowhere.
func (f File) SocketPath() string {
	switch {
	case f.Status != nil && f.Status.Socket == noSocket:
		return ""
	case f.Status != nil && f.Status.Socket != "":
		return f.Status.Socket
	case len(f.Files()) > 0:
		first := f.Files()[0].Path
		path := filepath.Join(filepath.Dir(first), ".status-"+filepath.Base(first)+".hyvve")
		if len(path) <= SocketPathMost {
			return path
		}
	}
	return ""
}

// checkStatus fills in Socket.
func (c *Checked) checkStatus() (errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("status: "+format, args...)) }
	c.Socket = c.SocketPath()
	if c.Status == nil {
		return nil
	}
	if s := c.Status.Socket; s != "" && s != noSocket {
		if !filepath.IsAbs(s) {
			fail("socket = %q is not an absolute path; write one such as \"/run/hyvve/sidecar.sock\", or \"none\"", s)
		}
		if len(s) > SocketPathMost {
			fail("socket = %q is longer than the %d bytes that the path of a socket may have; write a shorter one", s, SocketPathMost)
		}
	}
	if c.Status.EndUnlessAwaited && (c.Socket == "" || len(c.Files()) == 0 || c.Exec != nil || c.Watch != nil) {
		fail("end_unless_awaited is for an agent that renders files and has a socket, at which \"hyvve-sidecar status --ready --wait\" waits for them; take it out")
	}
	if c.Status.Listen == "" {
		return errs
	}
	if err := reachable(c.Status.Listen); err != nil {
		fail("listen = %q: %w; write one such as \"127.0.0.1:9102\", or \":9102\" for all of the machine's addresses", c.Status.Listen, err)
	}
	for _, p := range c.Proxy {
		if p.Listen == c.Status.Listen {
			fail("listen = %q is where a proxy listens; write another port", c.Status.Listen)
		}
	}
	return errs
}

// reachable reports whether an address has a port that can be listened at, and connected to.
func reachable(address string) error {
	_, port, err := net.SplitHostPort(address)
	var wrong *net.AddrError
	if errors.As(err, &wrong) {
		return errors.New(wrong.Err)
	}
	if err != nil {
		return err
	}
	if !client.GoodPort(port) {
		return errors.New("the port is no number from 1 to 65535")
	}
	return nil
}
