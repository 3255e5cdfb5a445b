// SPDX-License-Identifier: Apache-2.0

package proxy

import (
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

// Settings are a key and where it is presented, as somebody wrote them.
type Settings struct {
	Listen, Upstream, Key, Header, State string
	Dir                                  string // of the state, where State is empty; empty: there is none to take
	MaxRequests                          int    // under way; 0: the default
}

// notProxied are headers that say how a message is sent and not what is in it, or that HTTP keeps elsewhere.
var notProxied = []string{
	"Connection", "Content-Length", "Cookie", "Expect", "Host", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade",
}

var headerName = regexp.MustCompile(`^[A-Za-z0-9-]+$`)

// Check fills in defaults and refuses what cannot work, all of it at once. Errors say what to write instead.
func (s Settings) Check() (k Key, upstream *url.URL, errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	k = Key{Env: s.Key, Header: textproto.CanonicalMIMEHeaderKey(s.Header), State: s.State}
	if err := key.ValidateEnv(s.Key); err != nil {
		fail("key = %q is not the name of a key in bundles: %w", s.Key, err)
		return k, nil, errs
	}
	if k.Header == "" {
		k.Header = bearerHeader
	}
	if !headerName.MatchString(k.Header) || slices.Contains(notProxied, k.Header) {
		fail("header = %q cannot hold a key; write \"Authorization\" (for Bearer tokens) or one such as \"X-Metrics-Key\"", s.Header)
	}
	_, port, err := net.SplitHostPort(s.Listen)
	if err != nil || !client.GoodPort(port) {
		fail("listen = %q is not an address with a port; write one such as \"127.0.0.1:8081\", or \":8081\" for all of the machine's addresses", s.Listen)
	}
	if k.State == "" && s.Dir != "" {
		k.State = filepath.Join(s.Dir, ".proxy-"+s.Key+"-"+port+".hyvve")
	}
	if !filepath.IsAbs(k.State) {
		fail("state = %q is not an absolute path of a file, and nothing else says where files are; write one in a memory-backed directory", s.State)
	}
	if s.MaxRequests < 0 || s.MaxRequests > mostRequests {
		fail("max_requests = %d is not between 1 and %d; leave it out for %d", s.MaxRequests, mostRequests, MostRequests)
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

// itself tells whether the upstream is at an address that the proxy listens at.
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
