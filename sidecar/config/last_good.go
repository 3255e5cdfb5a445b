// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// LastGoodBlock is where a copy of the last bundle is kept for starts without Vault.
type LastGoodBlock struct {
	Path    string `hcl:"path" type:"file" doc:"File that holds the encrypted copy of the last bundle."`
	KeyFile string `hcl:"key_file" type:"file" doc:"File that holds the key of the copy."`
	MaxAge  string `hcl:"max_age,optional" type:"duration" doc:"Age up to which the copy is used."`
}

// checkLastGood fills in CopyAge. A key file that is not there yet may come; one that is there must be good.
func (c *Checked) checkLastGood() (errs []error) {
	b := c.Vault.LastGood
	if b == nil {
		return nil
	}
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("vault: last_good: %w", fmt.Errorf(format, args...)))
	}
	for _, f := range []struct{ name, path string }{{"path", b.Path}, {"key_file", b.KeyFile}} {
		if !filepath.IsAbs(f.path) {
			fail("%s = %q is not an absolute path; write one", f.name, f.path)
		}
	}
	path := filepath.Clean(b.Path)
	switch {
	case path == filepath.Clean(b.KeyFile):
		fail("path and key_file are the same file; name two")
	case slices.ContainsFunc(c.Files(), func(r RenderBlock) bool { return inTarget(path, r) }):
		fail("path = %q is one that a render block writes; name another", b.Path)
	}
	if b.MaxAge != "" {
		var err error
		if c.CopyAge, err = duration("max_age", b.MaxAge, lastGoodAge); err != nil {
			fail("%w", err)
		}
	}
	if filepath.IsAbs(b.KeyFile) {
		if _, err := lastgood.ReadKey(b.KeyFile); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			errs = append(errs, fmt.Errorf("vault: %w", err))
		}
	}
	return errs
}

// lastGoodAge is the example in an error about max_age.
const lastGoodAge = 24 * time.Hour

// inTarget reports whether a file is one of a render block's.
func inTarget(path string, r RenderBlock) bool {
	if r.Format == string(render.Files) {
		return filepath.Dir(path) == filepath.Clean(r.Path)
	}
	return path == filepath.Clean(r.Path)
}
