// SPDX-License-Identifier: Apache-2.0

package reload

import (
	"context"
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// Masker is what a Reloader may be besides: its errors quote what others have said, in which mask hides values.
type Masker interface {
	WithMask(mask func(text string) string) Reloader
}

// Command runs a program, without a shell.
type Command struct {
	Args    []string
	Timeout time.Duration
	Mask    func(text string) string
}

var (
	_ Reloader = Command{}
	_ Masker   = Command{}
)

// WithMask implements Masker.
func (c Command) WithMask(mask func(string) string) Reloader {
	c.Mask = mask
	return c
}

// Reload implements Reloader.
func (c Command) Reload(ctx context.Context) error {
	output, err := external.Program{Args: c.Args, Timeout: c.Timeout}.Run(ctx)
	if err != nil {
		return fmt.Errorf("reload command %s: %w: %s", c.Args[0], err, output.End(c.Mask))
	}
	return nil
}
