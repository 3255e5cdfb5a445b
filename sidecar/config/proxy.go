// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// ProxyBlock is one key that clients present to the application, and where. Blocks with the same listen address are one
// proxy before one application.
type ProxyBlock struct {
	Listen   string `hcl:"listen" type:"HOST:PORT" doc:"Address for clients."`
	Upstream string `hcl:"upstream" type:"URL" doc:"URL of the application: http://, host and port."`
	Key      string `hcl:"key" type:"environment name" doc:"Key whose accepted values clients may present."`
	Header   string `hcl:"header,optional" default:"Authorization" doc:"Header that holds the value. Authorization uses the scheme Bearer."`
	State    string `hcl:"state,optional" type:"file" default:"beside the first rendered file" doc:"File that records what the application holds."`

	MaxRequests int `hcl:"max_requests,optional" default:"384" annotation:"proxy-max-requests" doc:"Requests in progress at each port, WebSockets included."`
}

// What a proxy lets be under way, WebSockets among them.
const (
	ProxyRequests     = 384 // by default
	MostProxyRequests = 1 << 16
)

// BearerHeader is the one whose value has a scheme before the token (RFC 6750); others hold the bare value.
const BearerHeader = "Authorization"

// ProxyKey is a key that clients present to the application.
type ProxyKey struct {
	Env    string // its name in bundles
	Header string // canonical; Authorization has the scheme Bearer, others hold the bare value
	State  string // file that keeps what the application may hold; empty: nothing is kept
}

// Listener is a proxy to be run.
type Listener struct {
	Address  string
	Upstream *url.URL // http, host and port
	Keys     []ProxyKey
	Requests int // that may be under way; ProxyRequests if 0
}

// notProxied are headers that say how a message is sent and not what is in it, or that HTTP keeps elsewhere.
var notProxied = []string{
	"Connection", "Content-Length", "Cookie", "Expect", "Host", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade",
}

var headerName = regexp.MustCompile(`^[A-Za-z0-9-]+$`)

// Check fills in defaults and refuses what cannot work, all of it at once. Errors say what to write instead. Without a state of
// its own, the key has one in dir, unless that is empty.
func (s ProxyBlock) Check(dir string) (k ProxyKey, upstream *url.URL, errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	k = ProxyKey{Env: s.Key, Header: textproto.CanonicalMIMEHeaderKey(s.Header), State: s.State}
	if err := key.ValidateEnv(s.Key); err != nil {
		fail("key = %q is not the name of a key in bundles: %w", s.Key, err)
		return k, nil, errs
	}
	if k.Header == "" {
		k.Header = BearerHeader
	}
	if !headerName.MatchString(k.Header) || slices.Contains(notProxied, k.Header) {
		fail("header = %q cannot hold a key; write \"Authorization\" (for Bearer tokens) or one such as \"X-Metrics-Key\"", s.Header)
	}
	_, port, err := net.SplitHostPort(s.Listen)
	if err != nil || !client.GoodPort(port) {
		fail("listen = %q is not an address with a port; write one such as \"127.0.0.1:8081\", or \":8081\" for all of the machine's addresses", s.Listen)
	}
	if k.State == "" && dir != "" {
		k.State = filepath.Join(dir, ".proxy-"+s.Key+"-"+port+".hyvve")
	}
	if !filepath.IsAbs(k.State) {
		fail("state = %q is not an absolute path of a file, and nothing else says where files are; write one in a memory-backed directory", s.State)
	}
	if s.MaxRequests < 0 || s.MaxRequests > MostProxyRequests {
		fail("max_requests = %d is not between 1 and %d; leave it out for %d", s.MaxRequests, MostProxyRequests, ProxyRequests)
	}
	// What was written is not quoted: it may hold a password.
	upstream, err = url.Parse(s.Upstream)
	if err != nil || upstream.Scheme != "http" || !client.GoodPort(upstream.Port()) || upstream.Host != strings.TrimPrefix(s.Upstream, "http://") {
		fail("upstream is not http://, host and port, and nothing else; write one such as \"http://127.0.0.1:3000\"")
		return k, nil, errs
	}
	if itself(s.Listen, upstream) {
		fail("listen = %q takes what is sent to upstream %s, so that the proxy would ask itself; let the application listen somewhere else", s.Listen, upstream.Host)
	}
	return k, upstream, errs
}

// itself reports whether the upstream is at an address that the proxy listens at.
func itself(listen string, upstream *url.URL) bool {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port != upstream.Port() {
		return false
	}
	address := func(host string) net.IP {
		if host == "localhost" {
			return net.IPv4(127, 0, 0, 1)
		}
		return net.ParseIP(host)
	}
	at, to := address(host), address(upstream.Hostname())
	everywhere := host == "" || at.IsUnspecified()
	return host == upstream.Hostname() || to != nil && (to.Equal(at) || everywhere && to.IsLoopback())
}

// checkProxies refuses blocks that cannot work, and joins those that listen at the same address.
func (c *Checked) checkProxies() (errs []error) {
	fail := func(b ProxyBlock, format string, args ...any) {
		errs = append(errs, fmt.Errorf("proxy of %s: %w", b.Key, fmt.Errorf(format, args...)))
	}
	if len(c.Proxy) > 0 && c.Vault == nil {
		return []error{errors.New("proxy needs a vault block: its accept-list is that of the engine's bundle")}
	}
	dir := ""
	if files := c.Files(); len(files) > 0 {
		dir = filepath.Dir(files[0].Path)
	}
	for _, b := range c.Proxy {
		k, upstream, wrong := b.Check(dir)
		for _, err := range wrong {
			fail(b, "%w", err)
		}
		if upstream == nil {
			continue
		}
		at := slices.IndexFunc(c.Listeners, func(l Listener) bool { return l.Address == b.Listen })
		if at < 0 {
			c.Listeners = append(c.Listeners, Listener{Address: b.Listen, Upstream: upstream})
			at = len(c.Listeners) - 1
		}
		l := &c.Listeners[at]
		l.Requests = max(l.Requests, b.MaxRequests)
		if l.Upstream.Host != upstream.Host {
			fail(b, "another block listens at %s too, for upstream %s; let both have the same upstream, or listen at another port", b.Listen, l.Upstream)
		}
		switch {
		case slices.ContainsFunc(l.Keys, func(o ProxyKey) bool { return o.Env == k.Env }):
			fail(b, "another block at %s has the same key; each needs its own", b.Listen)
		case slices.ContainsFunc(c.Listeners, func(o Listener) bool {
			return slices.ContainsFunc(o.Keys, func(o ProxyKey) bool { return o.State == k.State && k.State != "" })
		}):
			fail(b, "another block has the same state, %s; write one of its own for each", k.State)
		}
		l.Keys = append(l.Keys, k)
	}
	return errs
}
