// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
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
