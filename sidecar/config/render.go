// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// RenderBlock is a file to render, or a Secret of Kubernetes.
type RenderBlock struct {
	Format  string   `hcl:"format,label"`
	Path    string   `hcl:"path,optional" type:"file" required:"yes" of:"file formats" doc:"File to write, or the directory of format files."`
	Mode    string   `hcl:"mode,optional" type:"octal" default:"0600" of:"file formats" annotation:"mode" doc:"Mode of the file. It cannot be open to everybody."`
	Owner   string   `hcl:"owner,optional" default:"the sidecar" of:"file formats" doc:"Owner of the file, as a name or a number."`
	Group   string   `hcl:"group,optional" default:"the sidecar" of:"file formats" doc:"Group of the file, as a name or a number."`
	Keys    []string `hcl:"keys,optional" type:"environment names" default:"all" annotation:"keys" doc:"Environment names of the keys to render."`
	Accepts bool     `hcl:"accepts,optional" annotation:"accepts" doc:"Adds NAME_ACCEPTS: all accepted values, newest first."`
	// Previous adds NAME_PREVIOUS while there is one.
	Previous bool `hcl:"previous,optional" annotation:"previous" doc:"Adds NAME_PREVIOUS while there is a second accepted value."`
	// Source is a file with a template, and Template the text of one, for render "template".
	Source   string `hcl:"source,optional" type:"file" of:"file formats" doc:"With format template: file that holds the template."`
	Template string `hcl:"template,optional" of:"file formats" doc:"With format template: text of the template."`
	// MakeDirectory makes the directory of the file, where it is missing.
	MakeDirectory bool `hcl:"make_directory,optional" of:"file formats" doc:"Makes the directory of the file if it is missing."`
	// Multiline says that what reads a dotenv file, or what a template makes, takes values of several lines there.
	Multiline bool `hcl:"multiline,optional" doc:"With dotenv and templates: the reader takes values of several lines."`

	Name        string            `hcl:"name,optional" required:"yes" of:"kubernetes_secret" doc:"Name of the Secret."`
	Namespace   string            `hcl:"namespace,optional" default:"of the kubernetes block" of:"kubernetes_secret" doc:"Namespace of the Secret."`
	Type        string            `hcl:"type,optional" default:"Opaque" of:"kubernetes_secret" doc:"Type of the Secret."`
	Data        map[string]string `hcl:"data,optional" default:"each key by its name" of:"kubernetes_secret" doc:"Names of keys, or templates, by key of the Secret."`
	Labels      map[string]string `hcl:"labels,optional" of:"kubernetes_secret" doc:"Labels of the Secret."`
	Annotations map[string]string `hcl:"annotations,optional" of:"kubernetes_secret" doc:"Annotations of the Secret."`
	Force       bool              `hcl:"force,optional" of:"kubernetes_secret" doc:"Takes over fields that others manage."`
	Immutable   bool              `hcl:"immutable,optional" of:"kubernetes_secret" doc:"Not allowed: the values have to change."`
}

// checkRender fills in Targets.
func (c *Checked) checkRender() (errs []error) {
	places := map[string]bool{}
	for _, r := range c.Files() {
		t, err := r.target(c.AllowNames)
		if err != nil {
			errs = append(errs, err)
		}
		if place := filepath.Clean(r.Path); places[place] {
			errs = append(errs, fmt.Errorf("render %q: another block renders %s too, and each would undo what the other writes; give it a path of its own", r.Format, place))
		} else {
			places[place] = true
		}
		c.Targets = append(c.Targets, t)
	}
	return errs
}

func (r RenderBlock) target(allow []string) (render.Target, error) {
	t := render.Target{Format: render.Format(r.Format), Path: r.Path, Mode: 0o600, UID: -1, GID: -1, Keys: r.Keys, Accepts: r.Accepts, Previous: r.Previous, MakeDirectory: r.MakeDirectory, Multiline: r.Multiline, Allow: allow}
	if !slices.Contains(formats(), r.Format) {
		return t, fmt.Errorf("render %q is not a format%s (it is one of %s)", r.Format, usage.DidYouMean(r.Format, formats()), strings.Join(formats(), ", "))
	}
	if err := strayOptions("file formats", r); err != nil {
		return t, within(fmt.Sprintf("render %q", r.Format), err)
	}
	if r.Path == "" {
		return t, fmt.Errorf("render %q: path is missing; name the file to write", r.Format)
	}
	if !filepath.IsAbs(r.Path) {
		return t, fmt.Errorf("render %q: path %q is not absolute; write one that begins with /", r.Format, r.Path)
	}
	if err := r.content(&t); err != nil {
		return t, err
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

// maxTemplate is larger than any template that was written by hand.
const maxTemplate = 1 << 20

// content checks what is particular to a format, and reads the template.
func (r RenderBlock) content(t *render.Target) (err error) {
	if err := checkKeys(r.Keys, r.allowed(t.Allow)); err != nil {
		return fmt.Errorf("render %q: %w", r.Format, err)
	}
	if r.Multiline && t.Format != render.Template && t.Format != render.Dotenv {
		return fmt.Errorf("render %q: multiline is of dotenv and template; leave it out: json, bundle and files carry values of several lines anyway, and docker cannot", r.Format)
	}
	if t.Format != render.Template {
		switch {
		case r.Source != "" || r.Template != "":
			return fmt.Errorf("render %q: source and template are of render \"template\"; leave them out, or use that format", r.Format)
		case t.Format == render.Bundle && r.Previous:
			return fmt.Errorf("render %q: previous is of dotenv, docker, json and files; a bundle has every accepted value in accepts anyway", r.Format)
		}
		return nil
	}
	name, text := fmt.Sprintf("template of %s", r.Path), r.Template
	switch {
	case (r.Source == "") == (r.Template == ""):
		return fmt.Errorf("render %q: set one of source (a file with a template) and template (its text)", r.Format)
	case r.Accepts || r.Previous:
		return fmt.Errorf("render %q: accepts and previous are functions of the template, such as {{ previous \"NAME\" }}; leave them out", r.Format)
	case r.Source != "":
		name = r.Source
		if text, err = readTemplate(r.Source); err != nil {
			return fmt.Errorf("render %q: source: %w", r.Format, err)
		}
	}
	if t.Template, err = render.NewTemplate(name, text, r.Keys); err != nil {
		return fmt.Errorf("render %q: %w", r.Format, err)
	}
	return nil
}

// readTemplate reads it whole, and waits for no pipe.
func readTemplate(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("path %q is not absolute; write one that begins with /", path)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a file", path)
	case info.Size() > maxTemplate:
		return "", fmt.Errorf("%s is longer than %d bytes; is it a template?", path, maxTemplate)
	}
	data, err := os.ReadFile(path) //nolint:gosec // the operator names it
	return string(data), err
}

func field[T any](_ *T, err error, get func() string) (string, error) {
	if err != nil {
		return "", err
	}
	return get(), nil
}

// lookup returns a number for a number or a name.
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
