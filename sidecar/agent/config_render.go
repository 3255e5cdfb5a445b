// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

// RenderBlock is a file to render.
type RenderBlock struct {
	Format  string   `hcl:"format,label"`
	Path    string   `hcl:"path"`
	Mode    string   `hcl:"mode,optional"`
	Owner   string   `hcl:"owner,optional"`
	Group   string   `hcl:"group,optional"`
	Keys    []string `hcl:"keys,optional"`
	Accepts bool     `hcl:"accepts,optional"`
}

func (r RenderBlock) target() (render.Target, error) {
	t := render.Target{Format: render.Format(r.Format), Path: r.Path, Mode: 0o600, UID: -1, GID: -1, Keys: r.Keys, Accepts: r.Accepts}
	if !slices.Contains(render.Formats(), r.Format) {
		return t, fmt.Errorf("render %q is not a format%s (it is one of %s)", r.Format, usage.DidYouMean(r.Format, render.Formats()), strings.Join(render.Formats(), ", "))
	}
	if !filepath.IsAbs(r.Path) {
		return t, fmt.Errorf("render %q: path %q is not absolute", r.Format, r.Path)
	}
	if r.Mode != "" {
		mode, err := strconv.ParseUint(r.Mode, 8, 32)
		if err != nil || mode > 0o777 {
			return t, fmt.Errorf("render %q: mode %q is not octal, such as \"0600\"", r.Format, r.Mode)
		}
		if mode&0o007 != 0 {
			return t, fmt.Errorf("render %q: mode %q lets every user at the secrets; use \"0640\" at most, with owner and group", r.Format, r.Mode)
		}
		t.Mode = os.FileMode(mode)
	}
	var err error
	if r.Owner != "" {
		if t.UID, err = lookup(r.Owner, func(name string) (string, error) {
			u, err := user.Lookup(name)
			return field(u, err, func() string { return u.Uid })
		}); err != nil {
			return t, fmt.Errorf("render %q: owner: %w", r.Format, err)
		}
	}
	if r.Group != "" {
		if t.GID, err = lookup(r.Group, func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			return field(g, err, func() string { return g.Gid })
		}); err != nil {
			return t, fmt.Errorf("render %q: group: %w", r.Format, err)
		}
	}
	return t, nil
}

func field[T any](_ *T, err error, get func() string) (string, error) {
	if err != nil {
		return "", err
	}
	return get(), nil
}

// lookup gives a number for a number or a name.
func lookup(text string, byName func(string) (string, error)) (int, error) {
	if n, err := strconv.Atoi(text); err == nil && n >= 0 {
		return n, nil
	}
	id, err := byName(text)
	if err != nil {
		return -1, err
	}
	return strconv.Atoi(id)
}
