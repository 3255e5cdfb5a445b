// SPDX-License-Identifier: Apache-2.0

package dsn

import (
	"fmt"
	"net"
	"strings"
)

// InClear says why what is sent to the host of a URL crosses a network without verified TLS; empty where it does not, or where
// it is no URL that is known here. It quotes nothing: a password
// with an '@' puts its end in the place of the host.
func InClear(text string) string {
	scheme, _, _ := strings.Cut(text, "://")
	switch scheme {
	case "postgres", "postgresql":
		t, err := Postgres(text)
		if err != nil {
			return ""
		}
		for _, h := range t.Hosts {
			if !h.Socket() && !Local(h.Host) {
				return t.unverified()
			}
		}
	case "redis":
		if u, err := Redis(text); err == nil && !Local(hostname(u.Host())) {
			return "the server is reached without TLS (redis://), so that the password and all data can be read and changed on the way; use rediss://"
		}
	}
	return ""
}

// unverified is empty where a client takes no certificate but the server's. sslaccept is Prisma's.
func (t Target) unverified() string {
	mode := t.Session.SSLMode
	if mode == "verify-full" || mode == "require" && strings.EqualFold(t.Query().Get("sslaccept"), "strict") {
		return ""
	}
	if mode == "" {
		mode = "prefer, the default"
	}
	return fmt.Sprintf("the server is reached with sslmode %s, so that anyone on the network path can pose as the server; use sslmode=verify-full (Prisma knows no such mode: sslmode=require&sslaccept=strict)", mode)
}

func hostname(hostPort string) string {
	if host, _, err := net.SplitHostPort(hostPort); err == nil {
		return host
	}
	return strings.Trim(hostPort, "[]")
}

// Local reports whether a host is this machine. No name is resolved.
func Local(host string) bool {
	if host == "localhost" || host == "" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
