// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// EtagVariable is where a command finds the etag of the bundle that should be loaded.
const EtagVariable = "HYVVE_ETAG"

// Command runs a program without a shell, and expects exit status 0. With ExpectEtag, one line of what it prints must be the
// etag that the workload has loaded.
type Command struct {
	Args       []string
	Timeout    time.Duration
	ExpectEtag bool
	Mask       func(text string) string
}

var (
	_ Checker = Command{}
	_ Masker  = Command{}
)

// WithMask implements Masker.
func (c Command) WithMask(mask func(string) string) Checker {
	c.Mask = mask
	return c
}

// Check implements Checker.
func (c Command) Check(ctx context.Context, etag string) error {
	output, err := external.Program{Args: c.Args, Env: []string{EtagVariable + "=" + etag}, Timeout: c.Timeout}.Run(ctx)
	if err != nil {
		return fmt.Errorf("health check: command %s: %w: %s", c.Args[0], err, output.End(c.Mask))
	}
	if !c.ExpectEtag {
		return nil
	}
	lines := strings.FieldsFunc(string(output.Kept), func(r rune) bool { return r == '\n' || r == '\r' })
	switch {
	case slices.ContainsFunc(lines, func(line string) bool { return strings.TrimSpace(line) == etag }):
		return nil
	case len(lines) == 0:
		return fmt.Errorf("health check: command %s does not say which bundle is loaded; have it print the etag in a line, or set expect_etag = false", c.Args[0])
	}
	return fmt.Errorf("health check: command %s does not say that the new bundle is loaded: %s", c.Args[0], output.End(c.Mask))
}
