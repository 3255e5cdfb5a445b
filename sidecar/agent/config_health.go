// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

// HealthBlock is how the workload is asked: "http", "tcp" or "none".
type HealthBlock struct {
	Method     string `hcl:"method,label"`
	URL        string `hcl:"url,optional"`
	Address    string `hcl:"address,optional"`
	Timeout    string `hcl:"timeout,optional"`
	Interval   string `hcl:"interval,optional"`
	Deadline   string `hcl:"deadline,optional"`
	Successes  int    `hcl:"successes,optional"`
	Failures   int    `hcl:"failures,optional"`
	ExpectEtag bool   `hcl:"expect_etag,optional"`
}

func (h HealthBlock) checker(timeout time.Duration) (health.Checker, error) {
	methods := []string{"http", "tcp", "none"}
	switch h.Method {
	case "none":
		if h.ExpectEtag {
			return nil, errors.New("health \"none\": expect_etag is set, which needs health \"http\"")
		}
		return nil, nil //nolint:nilnil // none is wanted
	case "http":
		if h.URL == "" {
			return nil, errors.New("health \"http\": url is missing")
		}
		return health.HTTP{URL: h.URL, Timeout: timeout, ExpectEtag: h.ExpectEtag}, nil
	case "tcp":
		if h.Address == "" || h.ExpectEtag {
			return nil, errors.New("health \"tcp\": address is missing, or expect_etag is set, which needs health \"http\"")
		}
		return health.TCP{Address: h.Address, Timeout: timeout}, nil
	}
	return nil, fmt.Errorf("health %q is not known%s (it is one of %s)", h.Method, usage.DidYouMean(h.Method, methods), strings.Join(methods, ", "))
}

// checkHealth fills in the checker and what is asked of it.
func (c *Config) checkHealth() (errs []error) {
	c.Interval, c.Deadline, c.Successes, c.Failures = 2*time.Second, 30*time.Second, 1, 3
	h := c.Health
	if h == nil {
		return nil
	}
	timeout := 2 * time.Second
	for _, d := range []struct {
		name, text string
		into       *time.Duration
	}{{"interval", h.Interval, &c.Interval}, {"deadline", h.Deadline, &c.Deadline}, {"timeout", h.Timeout, &timeout}} {
		given, err := duration("health: "+d.name, d.text, *d.into)
		if err != nil {
			errs = append(errs, err)
		}
		*d.into = given
	}
	if c.Successes = max(c.Successes, h.Successes); h.Successes < 0 {
		errs = append(errs, fmt.Errorf("health: successes = %d is negative; write how many good checks in a row prove the workload well", h.Successes))
	}
	if h.Failures > 0 {
		c.Failures = h.Failures
	} else if h.Failures < 0 {
		errs = append(errs, fmt.Errorf("health: failures = %d is negative; write how many bad checks in a row prove the workload unwell", h.Failures))
	}
	var err error
	if c.Checker, err = h.checker(timeout); err != nil {
		errs = append(errs, err)
	}
	if h.ExpectEtag && !c.tellsEtag() {
		errs = append(errs, errors.New("health: expect_etag needs a render block of format \"bundle\", or an exec block with on_change = \"restart\", from which the workload learns the etag"))
	}
	return errs
}
