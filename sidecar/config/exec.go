// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// ExecBlock is the workload as the sidecar runs it itself.
type ExecBlock struct {
	Command     []string `hcl:"command,optional" doc:"Program and arguments to run, if they do not follow --."`
	Keys        []string `hcl:"keys,optional" type:"environment names" default:"all" flag:"keys" annotation:"keys" doc:"Environment names of the keys to set."`
	Accepts     bool     `hcl:"accepts,optional" flag:"accepts" annotation:"accepts" doc:"Adds NAME_ACCEPTS: all accepted values, newest first."`
	Previous    bool     `hcl:"previous,optional" flag:"previous" annotation:"previous" doc:"Adds NAME_PREVIOUS while there is a second accepted value."`
	OnChange    string   `hcl:"on_change,optional" default:"restart" values:"restart, signal, none" flag:"on-change" annotation:"exec-on-change" doc:"What happens to a running workload when its keys change."`
	Signal      string   `hcl:"signal,optional" type:"name" default:"SIGHUP" flag:"signal" annotation:"exec-signal" doc:"Signal that notifies the workload of a change." note:"Needs on_change = signal."`
	StopSignal  string   `hcl:"stop_signal,optional" type:"name" default:"SIGTERM" flag:"stop-signal" annotation:"exec-stop-signal" doc:"Signal that stops the workload for a restart."`
	StopTimeout string   `hcl:"stop_timeout,optional" type:"duration" default:"10s" flag:"stop-timeout" annotation:"exec-stop-timeout" doc:"Time between the stop signal and SIGKILL."`
	Overlap     bool     `hcl:"overlap,optional" flag:"overlap" annotation:"exec-overlap" doc:"Starts the next process before the present one stops. Needs a check of the etag."`
}

// OnChange is what is done with a running workload when the bundle changes.
type OnChange string

// What can be done.
const (
	OnChangeRestart OnChange = "restart" // it is stopped, and started with the new environment
	OnChangeSignal  OnChange = "signal"  // its environment stays; it reads files that are rendered
	OnChangeNone    OnChange = "none"    // it looks at the files by itself
)

// Running is an exec block with its texts parsed.
type Running struct {
	ExecBlock
	OnChange    OnChange
	Signal      syscall.Signal // of OnChangeSignal
	StopSignal  syscall.Signal
	StopTimeout time.Duration // from StopSignal to SIGKILL
}

// checkExec fills in Running. The command may be missing still: it may come with the arguments.
func (c *Checked) checkExec() (errs []error) {
	e := c.Exec
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("exec: "+format, args...)) }
	o := Running{*e, cmp.Or(OnChange(e.OnChange), OnChangeRestart), syscall.SIGHUP, syscall.SIGTERM, 0} // StopTimeout follows
	if c.Vault == nil {
		fail("a vault block is missing: the workload's environment comes from the engine; add one, or use agent with a reload block")
	}
	if c.Reload != nil {
		fail("it and a reload block exclude each other, since the sidecar restarts or signals the workload itself; take the reload block out, and set on_change here")
	}
	if len(e.Command) > 0 && e.Command[0] == "" {
		fail("command begins with an empty word; write it as a list, such as [\"node\", \"server.js\"]")
	}
	if err := checkKeys(e.Keys, c.AllowNames); err != nil {
		fail("%w", err)
	}
	if changes := []string{string(OnChangeRestart), string(OnChangeSignal), string(OnChangeNone)}; !slices.Contains(changes, string(o.OnChange)) {
		fail("on_change = %q is not known%s (it is one of %s)", e.OnChange, usage.DidYouMean(e.OnChange, changes), strings.Join(changes, ", "))
	} else if o.OnChange != OnChangeRestart {
		if err := c.rendersAll(e); err != nil {
			fail("on_change = %q: %w", e.OnChange, err)
		}
	}
	if e.Signal != "" && o.OnChange != OnChangeSignal {
		fail("signal = %q is for on_change = \"signal\"; set that, or stop_signal for the signal that stops the workload", e.Signal)
	}
	for _, s := range []struct {
		name, text string
		into       *syscall.Signal
	}{{"signal", e.Signal, &o.Signal}, {"stop_signal", e.StopSignal, &o.StopSignal}} {
		if s.text == "" {
			continue
		}
		parsed, err := ParseSignal(s.text)
		switch {
		case err != nil:
			fail("%s: %w", s.name, err)
		case parsed == syscall.SIGSTOP, s.name == "signal" && parsed == syscall.SIGKILL:
			fail("%s = %q cannot be handled by any program; use one such as SIGHUP or SIGTERM", s.name, s.text)
		default:
			*s.into = parsed
		}
	}
	if o.Overlap && (o.OnChange != OnChangeRestart || !c.ExpectsEtag()) {
		fail("overlap needs on_change = \"restart\" and a health block with expect_etag = true, since the process before would answer for the next one; add them, or leave overlap out")
	}
	var err error
	if o.StopTimeout, err = setting("", *e, "stop_timeout"); err != nil {
		fail("%w", err)
	}
	c.Running = o
	return errs
}

// rendersAll reports whether a workload that is not restarted finds in files what changes: its environment cannot.
func (c *Checked) rendersAll(e *ExecBlock) error {
	if len(c.Files()) == 0 {
		return errors.New("the environment of a running process cannot be changed; add a render block with the file that it reads, or use \"restart\"")
	}
	inFiles := func(name string) bool {
		return slices.ContainsFunc(c.Files(), func(r RenderBlock) bool { return len(r.Keys) == 0 || slices.Contains(r.Keys, name) })
	}
	var missing []string
	for _, name := range e.Keys {
		if !inFiles(name) {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) > 0:
		return fmt.Errorf("%s would be in the environment only, and never change there; render it too, leave it out of keys, or use \"restart\"", strings.Join(missing, ", "))
	case len(e.Keys) == 0 && !inFiles(""):
		return errors.New("all keys of the workload are in its environment, and some in no file; set keys here to those of the render blocks, or use \"restart\"")
	}
	return nil
}

// tellsEtag reports whether the workload can know the etag of what it has loaded.
func (f File) tellsEtag() bool {
	return f.Exec != nil && (f.Exec.OnChange == "" || f.Exec.OnChange == string(OnChangeRestart)) ||
		slices.ContainsFunc(f.Render, func(r RenderBlock) bool { return r.Format == string(render.Bundle) })
}

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
	ProxyRequests    = 384 // by default
	MaxProxyRequests = 1 << 16
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
	if s.MaxRequests < 0 || s.MaxRequests > MaxProxyRequests {
		fail("max_requests = %d is not between 1 and %d; leave it out for %d", s.MaxRequests, MaxProxyRequests, ProxyRequests)
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
