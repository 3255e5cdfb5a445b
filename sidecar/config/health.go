// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
)

// HealthBlock is how the workload is asked: "http", "tcp", "command", "prometheus" or "none". Of several, all must find it
// well.
type HealthBlock struct {
	Method     string   `hcl:"method,label"`
	URL        string   `hcl:"url,optional" type:"URL" required:"yes" flag:"health-url" of:"http, prometheus" annotation:"health-url" doc:"URL of the health check; it must answer 2xx." note:"With prometheus, that of the metrics. The flag sets that of the http block."`
	Address    string   `hcl:"address,optional" type:"HOST:PORT" required:"yes" of:"tcp" annotation:"health-address" doc:"Address that must accept a connection."`
	Command    []string `hcl:"command,optional" required:"yes" of:"command" doc:"Program and arguments that must exit with status 0."`
	Timeout    string   `hcl:"timeout,optional" type:"duration" default:"2s" doc:"Limit of one check."`
	ExpectEtag bool     `hcl:"expect_etag,optional" of:"http, command" annotation:"health-expect-etag" doc:"The response must name the etag of the bundle."`

	Metric          string            `hcl:"metric,optional" type:"name" required:"yes" of:"prometheus" annotation:"health-metric" doc:"Counter that must not grow after a change."`
	Labels          map[string]string `hcl:"labels,optional" type:"matchers" of:"prometheus" annotation:"health-labels" doc:"Series of the counter. A value may begin with !=, =~ or !~."`
	MaxIncrease     *float64          `hcl:"max_increase,optional" default:"0" of:"prometheus" annotation:"health-max-increase" doc:"Growth that is allowed after a change."`
	Window          string            `hcl:"window,optional" type:"duration" default:"1m" of:"prometheus" annotation:"health-window" doc:"Time after a change during which the counter is compared."`
	BearerTokenFile string            `hcl:"bearer_token_file,optional" type:"file" of:"prometheus" excludes:"key" doc:"File that holds the token of the request."`
	Key             string            `hcl:"key,optional" type:"environment name" of:"prometheus" excludes:"bearer_token_file" doc:"Key of the bundle whose value is the token of the request."`

	// Of all blocks together: each stands in one of them.
	Interval  string `hcl:"interval,optional" type:"duration" default:"2s" annotation:"health-interval" doc:"Time between two checks." note:"Set it in one block."`
	Deadline  string `hcl:"deadline,optional" type:"duration" default:"30s" annotation:"health-deadline" doc:"Time from reload to healthy." note:"With rollout, by default reload's timeout. Set it in one block."`
	Successes int    `hcl:"successes,optional" default:"1" annotation:"health-successes" doc:"Successful checks in a row that count." note:"Set it in one block."`
	Failures  int    `hcl:"failures,optional" default:"3" annotation:"health-failures" doc:"Failed checks in a row that count." note:"Set it in one block."`
}

// Check is a health block with its texts parsed.
type Check struct {
	HealthBlock
	Timeout  time.Duration
	Window   time.Duration    // of "prometheus", as what follows
	Matchers []health.Matcher // of its labels
}

// check checks one block.
func (c *Checked) check(h HealthBlock) (Check, error) {
	made := Check{HealthBlock: h}
	methods := []string{"http", "tcp", "command", "prometheus", "none"}
	if !slices.Contains(methods, h.Method) {
		return made, fmt.Errorf("health %q is not known%s (it is one of %s)", h.Method, usage.DidYouMean(h.Method, methods), strings.Join(methods, ", "))
	}
	var err error
	made.Timeout, err = setting("", h, "timeout")
	errs := []error{err, strayOptions(h.Method, h)}
	switch h.Method {
	case "http":
		errs = append(errs, checkURL(h.URL))
	case "tcp":
		if h.Address == "" {
			errs = append(errs, errors.New("address is missing; write one such as \"127.0.0.1:6379\""))
		} else if err := reachable(h.Address); err != nil {
			errs = append(errs, fmt.Errorf("address = %q: %w; write one such as \"127.0.0.1:6379\"", h.Address, err))
		}
	case "command":
		if len(h.Command) == 0 || h.Command[0] == "" {
			errs = append(errs, errors.New("command is missing; write it as a list, such as [\"pg_isready\", \"-q\"]"))
		}
	case "prometheus":
		errs = append(errs, c.checkGate(&made))
	}
	if h.ExpectEtag && !c.tellsEtag() {
		errs = append(errs, errors.New("expect_etag needs a render block of format \"bundle\", or an exec block with on_change = \"restart\", from which the workload learns the etag"))
	}
	return made, within(fmt.Sprintf("health %q", h.Method), errors.Join(errs...))
}

// metricName is how names of metrics are mostly written. Others, in quotes, cannot be asked for here.
var metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)

// checkGate checks a block of "prometheus".
func (c *Checked) checkGate(h *Check) error {
	var err error
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Vault == nil {
		fail("it needs a vault block: without reports, nobody would hear of its verdict")
	}
	if err := checkURL(h.URL); err != nil {
		errs = append(errs, err)
	}
	if !metricName.MatchString(h.Metric) {
		fail("metric = %q is not the name of a metric; write that of a counter, such as \"http_requests_total\", and set labels apart", h.Metric)
	}
	if h.Matchers, err = health.ParseMatchers(h.Labels); err != nil {
		errs = append(errs, err)
	}
	if h.MaxIncrease != nil && *h.MaxIncrease < 0 {
		fail("max_increase = %g is negative; write by how much the counter may grow within window", *h.MaxIncrease)
	}
	if h.Window, err = setting("", h.HealthBlock, "window"); err != nil {
		errs = append(errs, err)
	}
	if h.Key != "" && h.BearerTokenFile != "" {
		fail("key and bearer_token_file exclude each other; leave either out")
	}
	if h.BearerTokenFile != "" && !filepath.IsAbs(h.BearerTokenFile) {
		fail("bearer_token_file = %q is not an absolute path; write one", h.BearerTokenFile)
	}
	if h.Key != "" {
		if err := key.ValidateEnv(h.Key); err != nil {
			fail("key = %q is not the name of a key in bundles: %w", h.Key, err)
		}
	}
	return errors.Join(errs...)
}

// checkHealth fills in Checks and what holds for all of them.
func (c *Checked) checkHealth() (errs []error) {
	c.Interval, c.Deadline, c.Successes, c.Failures = standard(HealthBlock{}, "interval"), standard(HealthBlock{}, "deadline"), 1, 3
	if c.Reloading.Method == "rollout" {
		c.Deadline = c.Reloading.Timeout
	}
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("health: "+format, args...)) }
	for n, h := range c.Health {
		for _, other := range c.Health[:n] {
			if h.repeats(other) {
				fail("interval, deadline, successes and failures are of all health blocks together; set each in one of them")
			}
		}
		for _, d := range []struct {
			name, text string
			into       *time.Duration
		}{{"interval", h.Interval, &c.Interval}, {"deadline", h.Deadline, &c.Deadline}} {
			given, err := duration("health: "+d.name, d.text, *d.into)
			if err != nil {
				errs = append(errs, err)
			}
			*d.into = given
		}
		if c.Successes = max(c.Successes, h.Successes); h.Successes < 0 {
			fail("successes = %d is negative; write how many good checks in a row prove the workload well", h.Successes)
		}
		if h.Failures > 0 {
			c.Failures = h.Failures
		} else if h.Failures < 0 {
			fail("failures = %d is negative; write how many failed checks in a row make the workload unhealthy", h.Failures)
		}
		check, err := c.check(h)
		if err != nil {
			errs = append(errs, err)
		}
		if h.Method == "none" && len(c.Health) > 1 {
			fail("\"none\" stands beside other checks; take it, or them, out")
		}
		c.Checks = append(c.Checks, check)
	}
	return errs
}

// repeats reports whether two blocks set what is of all together.
func (h HealthBlock) repeats(o HealthBlock) bool {
	return h.Interval != "" && o.Interval != "" || h.Deadline != "" && o.Deadline != "" ||
		h.Successes != 0 && o.Successes != 0 || h.Failures != 0 && o.Failures != 0
}

// ExpectsEtag reports whether a check looks at the etag.
func (f File) ExpectsEtag() bool {
	return slices.ContainsFunc(f.Health, func(h HealthBlock) bool { return h.ExpectEtag })
}

// VaultBlock says where Vault is and how to log in.
type VaultBlock struct {
	Address    string `hcl:"address,optional" type:"URL" default:"VAULT_ADDR" flag:"vault-addr" annotation:"vault-addr" doc:"URL of Vault, or of the nodes of its cluster, separated by commas."`
	Mount      string `hcl:"mount,optional" type:"path" default:"hyvve" flag:"mount" annotation:"mount" doc:"Path where the engine is mounted."`
	Namespace  string `hcl:"namespace,optional" type:"path" annotation:"vault-namespace" doc:"Namespace of Vault Enterprise."`
	CACert     string `hcl:"ca_cert,optional" type:"file" excludes:"ca_path" doc:"Authority of the certificate of Vault, PEM."`
	CAPath     string `hcl:"ca_path,optional" type:"directory" excludes:"ca_cert" doc:"Authorities of the certificate of Vault."`
	ServerName string `hcl:"tls_server_name,optional" type:"name" default:"that of the address" annotation:"vault-server-name" doc:"Name that the certificate of Vault must have."`
	ClientCert string `hcl:"client_cert,optional" type:"file" doc:"Certificate of the connection, with client_key."`
	ClientKey  string `hcl:"client_key,optional" type:"file" doc:"Private key of client_cert."`
	// AllowSkipVerify consents to VAULT_SKIP_VERIFY in the environment.
	AllowSkipVerify bool `hcl:"allow_skip_verify,optional" doc:"Accepts VAULT_SKIP_VERIFY in the environment. For tests only."`

	Auth     AuthBlock      `hcl:"auth,block"`
	LastGood *LastGoodBlock `hcl:"last_good,block"`
}

// AuthBlock is a way to log in.
type AuthBlock = login.Settings

func (c *Checked) checkVault() (errs []error) {
	v := *c.Vault
	c.Vault = &v
	if v.Mount == "" {
		c.Vault.Mount = "hyvve"
	}
	if c.Workload == "" {
		errs = append(errs, fmt.Errorf("workload is missing; name the workload whose keys to load: vault list %s/workloads", c.Vault.Mount))
	} else if err := key.ValidateName("workload", c.Workload); err != nil {
		errs = append(errs, err)
	}
	if v.Address == "" {
		c.Vault.Address = os.Getenv("VAULT_ADDR")
	}
	if c.Vault.Address == "" {
		errs = append(errs, errors.New("vault: address is missing; set it, or VAULT_ADDR"))
	} else if strings.Contains(c.Vault.Address, "@") { // errors of Vault's client quote it
		return append(errs, errors.New("vault: address holds a user or a password, which would stand in logs; take it out"))
	} else if _, err := client.Addresses(c.Vault.Address); err != nil {
		errs = append(errs, fmt.Errorf("vault: address: %w", err))
	}
	var err error
	if c.Vault.Auth, err = v.Auth.Check(); err != nil {
		errs = append(errs, err)
	}
	errs = append(append(errs, c.Vault.checkSkipVerify()), c.Vault.checkTLS()...)
	if c.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			errs = append(errs, fmt.Errorf("instance is missing, and the host has no name: %w", err))
		}
		c.Instance = host + "-" + c.Workload + "-" + c.Place()
	}
	if err := key.ValidateInstance(c.Instance); err != nil {
		errs = append(errs, err)
	}
	return append(errs, c.checkLastGood()...)
}

// checkTLS refuses what contradicts itself, or would have no effect.
func (v VaultBlock) checkTLS() (errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("vault: "+format, args...)) }
	if v.CACert != "" && v.CAPath != "" {
		fail("ca_cert and ca_path are both set; take one out")
	}
	if (v.ClientCert == "") != (v.ClientKey == "") {
		fail("client_cert and client_key belong together; set both, or none")
	}
	if v.ClientCert != "" && v.Auth.CertFile != "" {
		fail("client_cert and cert_file of auth \"cert\" are both set, and a connection has one certificate; take client_cert and client_key out")
	}
	if strings.HasPrefix(v.Address, "http://") {
		for _, f := range []struct{ name, value string }{
			{"ca_cert", v.CACert}, {"ca_path", v.CAPath}, {"tls_server_name", v.ServerName}, {"client_cert", v.ClientCert}, {"auth \"cert\"", v.Auth.CertFile},
		} {
			if f.value != "" {
				fail("%s needs TLS, and address is %s; write it with https://", f.name, v.Address)
			}
		}
	}
	return errs
}

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
