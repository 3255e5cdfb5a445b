// SPDX-License-Identifier: Apache-2.0

// Package config is the configuration of the sidecar: the blocks of its file, and the checks of what they say. It builds nothing that
// runs, so that the injector, which checks what it writes into pods, links no part of the sidecar itself.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// File is the configuration as it is written, in HCL.
type File struct {
	Workload string `hcl:"workload,optional" type:"name" required:"with vault" flag:"workload" annotation:"workload" doc:"Workload whose keys to load, as in hyvve/workloads."`
	Instance string `hcl:"instance,optional" type:"name" default:"host name, workload and a hash" flag:"instance" doc:"Name of this instance. Two instances on one host differ."`
	// AllowNames are reserved environment names that keys may have all the same.
	AllowNames []string `hcl:"allow_names,optional" type:"environment names" doc:"Reserved environment names that keys may have."`

	Vault     *VaultBlock     `hcl:"vault,block"`
	Render    []RenderBlock   `hcl:"render,block"`
	Watch     *WatchBlock     `hcl:"watch,block"`
	Reload    *ReloadBlock    `hcl:"reload,block"`
	Exec      *ExecBlock      `hcl:"exec,block"`
	Health    []HealthBlock   `hcl:"health,block"`
	Reencrypt *ReencryptBlock `hcl:"reencrypt,block"`
	Proxy     []ProxyBlock    `hcl:"proxy,block"`
	Status    *StatusBlock    `hcl:"status,block"`

	Kubernetes *KubernetesBlock `hcl:"kubernetes,block"`
}

// Checked is a configuration that was checked: defaults are filled in, and texts are parsed. Package agent builds from it what runs.
type Checked struct {
	File
	Targets   []render.Target // of the blocks that write files
	Secrets   []Secret        // of those that do not
	Listeners []Listener
	Reloading Reloading
	Running   Running
	Checks    []Check
	Interval  time.Duration // between health checks
	Successes int           // successful checks in a row after which a workload is healthy
	Failures  int           // failed checks in a row after which it is unhealthy; 0 is 1
	Deadline  time.Duration // for the first good check after a reload
	Stable    time.Duration
	Poll      time.Duration
	LookEvery time.Duration // at whether Secrets are as they should be
	CopyAge   time.Duration // up to which the copy of the last bundle is used; 0: any
	MaxLoad   time.Duration // of re-encryption
	Warnings  []string      // where secrets cross a network without verified TLS
	Socket    string        // where to tell how the sidecar is; empty: nowhere
}

// Load reads a configuration file. Errors name file and line, and what to write instead.
func Load(path string) (File, error) {
	var text []byte
	var info os.FileInfo
	f, err := os.Open(path) //nolint:gosec // the operator names it
	if err == nil {
		defer f.Close()                       //nolint:errcheck // read only
		if info, err = f.Stat(); err == nil { // of what is read, not of what stands at the path later
			text, err = io.ReadAll(f)
		}
	}
	if err != nil {
		return File{}, fmt.Errorf("the configuration file cannot be read: %w; name one that is there and that this user may read", err)
	}
	if err := external.CheckOwned(path, info); err != nil && info.Mode().IsRegular() { // it may come from a pipe
		return File{}, fmt.Errorf("the configuration file names programs that are run: %w", err)
	}
	return Parse(text, path)
}

// Parse reads the text of a configuration that is called name.
func Parse(text []byte, name string) (File, error) {
	var f File
	parsed, diagnostics := hclparse.NewParser().ParseHCL(text, name)
	if diagnostics.HasErrors() {
		return f, wording(diagnostics)
	}
	if diagnostics := gohcl.DecodeBody(parsed.Body, &hcl.EvalContext{}, &f); diagnostics.HasErrors() {
		return f, wording(diagnostics)
	}
	return f, nil
}

func wording(diagnostics hcl.Diagnostics) error {
	var errs []error
	for _, d := range diagnostics {
		switch {
		case d.Severity != hcl.DiagError:
		case d.Subject == nil: // about the file as a whole, which Detail names
			errs = append(errs, fmt.Errorf("%s: %s", d.Summary, d.Detail))
		default:
			errs = append(errs, fmt.Errorf("%s: %s: %s", d.Subject, d.Summary, d.Detail))
		}
	}
	return errors.Join(errs...)
}

// Check fills in defaults and refuses what cannot work, all of it at once.
func (f File) Check() (Checked, error) {
	c := Checked{File: f}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case f.Vault == nil && f.Watch == nil:
		fail("neither a vault block (render files from the engine) nor a watch block (follow files that something else renders) is there; add one")
	case f.Vault != nil && f.Watch != nil:
		fail("a vault block and a watch block exclude each other: files are rendered here, or by something else")
	case f.Watch != nil && (f.Reload == nil || f.Reload.Method == "none"):
		fail("watch: without a reload block nothing would happen on a change; add one")
	case f.Watch != nil && len(f.Render) > 0:
		fail("render needs a vault block; with watch, something else renders")
	}
	if f.Watch != nil {
		errs = append(errs, c.checkWatch()...)
	}
	if f.Vault != nil {
		errs = append(errs, c.checkVault()...)
		errs = append(errs, c.checkReencrypt()...)
	}
	errs = append(errs, f.checkAllowNames()...)
	errs = append(errs, c.checkProxies()...)
	errs = append(errs, c.checkRender()...)
	errs = append(errs, c.checkStatus()...)
	errs = append(errs, c.checkKubernetes()...)
	if f.Reload != nil {
		errs = append(errs, c.checkReload()...)
	}
	if f.Exec != nil {
		errs = append(errs, c.checkExec()...)
	}
	errs = append(errs, c.checkHealth()...)
	c.Warnings = c.inClear()
	return c, errors.Join(errs...)
}

// Place tells two sidecars of a workload on one host apart: by what they render and reload, which cannot be the same.
func (c *Checked) Place() string {
	hash := sha256.New()
	for _, r := range c.Render {
		_, _ = fmt.Fprintf(hash, "%q", r.Path)
		if r.Format == KubernetesSecret {
			_, _ = fmt.Fprintf(hash, "%q%q", r.Namespace, r.Name)
		}
	}
	if r := c.Reload; r != nil {
		_, _ = fmt.Fprintf(hash, "%q%q%q", r.PIDFile, r.URL, r.Command)
		if r.Process != "" || r.Cmdline != "" {
			_, _ = fmt.Fprintf(hash, "%q%q", r.Process, r.Cmdline)
		}
	}
	if e := c.Exec; e != nil {
		_, _ = fmt.Fprintf(hash, "%q", e.Command)
	}
	return hex.EncodeToString(hash.Sum(nil))[:6]
}

// duration reads one that must be positive; without a text it is the standard one.
func duration(name, text string, standard time.Duration) (time.Duration, error) {
	if text == "" {
		return standard, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s = %q is not a duration; write one such as \"%s\"", name, text, standard)
	}
	return d, nil
}
