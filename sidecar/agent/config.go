// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/supervise"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/usage"
)

// File is the configuration as it is written, in HCL.
type File struct {
	Workload string `hcl:"workload,optional"`
	Instance string `hcl:"instance,optional"`

	Vault     *VaultBlock     `hcl:"vault,block"`
	Render    []RenderBlock   `hcl:"render,block"`
	Watch     *WatchBlock     `hcl:"watch,block"`
	Reload    *ReloadBlock    `hcl:"reload,block"`
	Exec      *ExecBlock      `hcl:"exec,block"`
	Health    *HealthBlock    `hcl:"health,block"`
	Reencrypt *ReencryptBlock `hcl:"reencrypt,block"`
	Proxy     []ProxyBlock    `hcl:"proxy,block"`
}

// VaultBlock says where Vault is and how to log in.
type VaultBlock struct {
	Address   string    `hcl:"address,optional"`
	Mount     string    `hcl:"mount,optional"`
	Namespace string    `hcl:"namespace,optional"`
	CACert    string    `hcl:"ca_cert,optional"`
	Auth      AuthBlock `hcl:"auth,block"`
}

// AuthBlock is a way to log in: "token_file" or "approle".
type AuthBlock struct {
	Method       string `hcl:"method,label"`
	Path         string `hcl:"path,optional"`
	RoleIDFile   string `hcl:"role_id_file,optional"`
	SecretIDFile string `hcl:"secret_id_file,optional"`
	Mount        string `hcl:"mount,optional"`
}

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

// WatchBlock lists files that something else renders.
type WatchBlock struct {
	Paths  []string `hcl:"paths"`
	Stable string   `hcl:"stable,optional"`
	Poll   string   `hcl:"poll,optional"`
}

// ReloadBlock is how the workload takes up a change: "signal", "command", "http" or "none".
type ReloadBlock struct {
	Method  string   `hcl:"method,label"`
	PIDFile string   `hcl:"pid_file,optional"`
	Signal  string   `hcl:"signal,optional"`
	Command []string `hcl:"command,optional"`
	URL     string   `hcl:"url,optional"`
	Timeout string   `hcl:"timeout,optional"`
}

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

// ReencryptBlock is the database whose rows this sidecar re-encrypts when the engine asks. Its URL is looked at before each
// piece of work.
type ReencryptBlock struct {
	DatabaseURLKey  string `hcl:"database_url_key,optional"` // name in the bundle
	DatabaseURLFile string `hcl:"database_url_file,optional"`
	DatabaseURLEnv  string `hcl:"database_url_env,optional"`
	BatchSize       int    `hcl:"batch_size,optional"`
	SaltPerRow      bool   `hcl:"salt_per_row,optional"`

	RowsPerSecond int      `hcl:"rows_per_second,optional"`
	MaxLoad       string   `hcl:"max_load,optional"` // a duration
	AllowTriggers []string `hcl:"allow_triggers,optional"`
	TouchColumn   string   `hcl:"touch_column,optional"`

	maxLoad time.Duration
}

// Config is a configuration that was checked.
type Config struct {
	File
	Targets   []render.Target
	Listeners []Listener
	Reloader  reload.Reloader   // nil: files are all that is wanted
	Supervise supervise.Options // of the exec block
	Checker   health.Checker    // nil: the workload counts as healthy when it has been told to reload
	Interval  time.Duration     // between health checks
	Successes int               // good checks in a row that prove a workload well
	Failures  int               // bad ones in a row that prove it unwell; 0 is 1
	Deadline  time.Duration     // for the first good check after a reload
	Stable    time.Duration
	Poll      time.Duration
}

// Load reads a configuration file. Errors name file and line, and what to write instead.
func Load(path string) (File, error) {
	var f File
	parsed, diagnostics := hclparse.NewParser().ParseHCLFile(path)
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
func (f File) Check() (Config, error) {
	c := Config{File: f}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	duration := func(name, text string, standard time.Duration) time.Duration {
		if text == "" {
			return standard
		}
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			fail("%s = %q is not a duration; write one such as \"%s\"", name, text, standard)
		}
		return d
	}
	switch {
	case f.Vault == nil && f.Watch == nil:
		fail("neither a vault block (render files from the engine) nor a watch block (follow files that something else renders) is there; add one")
	case f.Vault != nil && f.Watch != nil:
		fail("a vault block and a watch block exclude each other: files are rendered here, or by something else")
	case f.Watch != nil && len(f.Watch.Paths) == 0:
		fail("watch: paths is empty; list the files to follow")
	case f.Watch != nil && (f.Reload == nil || f.Reload.Method == "none"):
		fail("watch: without a reload block nothing would happen on a change; add one")
	case f.Watch != nil && len(f.Render) > 0:
		fail("render needs a vault block; with watch, something else renders")
	}
	if f.Watch != nil {
		c.Stable = duration("watch: stable", f.Watch.Stable, 200*time.Millisecond)
		c.Poll = duration("watch: poll", f.Watch.Poll, 5*time.Second)
	}
	if f.Vault != nil {
		errs = append(errs, c.checkVault()...)
	}
	errs = append(errs, c.checkProxies()...)
	for _, r := range f.Render {
		target, err := r.target()
		if err != nil {
			errs = append(errs, err)
		}
		c.Targets = append(c.Targets, target)
	}
	if f.Reload != nil {
		var err error
		if c.Reloader, err = f.Reload.reloader(duration("reload: timeout", f.Reload.Timeout, 30*time.Second)); err != nil {
			errs = append(errs, err)
		}
	}
	if f.Exec != nil {
		errs = append(errs, c.checkExec()...)
	}
	c.Interval, c.Deadline, c.Successes, c.Failures = 2*time.Second, 30*time.Second, 1, 3
	if f.Health != nil {
		c.Interval = duration("health: interval", f.Health.Interval, c.Interval)
		c.Deadline = duration("health: deadline", f.Health.Deadline, c.Deadline)
		if c.Successes = max(c.Successes, f.Health.Successes); f.Health.Successes < 0 {
			fail("health: successes = %d is negative; write how many good checks in a row prove the workload well", f.Health.Successes)
		}
		if f.Health.Failures > 0 {
			c.Failures = f.Health.Failures
		} else if f.Health.Failures < 0 {
			fail("health: failures = %d is negative; write how many bad checks in a row prove the workload unwell", f.Health.Failures)
		}
		var err error
		if c.Checker, err = f.Health.checker(duration("health: timeout", f.Health.Timeout, 2*time.Second)); err != nil {
			errs = append(errs, err)
		}
		if f.Health.ExpectEtag && !f.tellsEtag() {
			fail("health: expect_etag needs a render block of format \"bundle\", or an exec block with on_change = \"restart\", from which the workload learns the etag")
		}
	}
	return c, errors.Join(errs...)
}

func (c *Config) checkVault() (errs []error) {
	v := *c.Vault
	c.Vault = &v
	if c.Workload == "" {
		errs = append(errs, errors.New("workload is missing; name the workload whose keys to load, as in hyvve/workloads"))
	} else if err := key.ValidateName("workload", c.Workload); err != nil {
		errs = append(errs, err)
	}
	if v.Mount == "" {
		c.Vault.Mount = "hyvve"
	}
	if v.Address == "" {
		c.Vault.Address = os.Getenv("VAULT_ADDR")
	}
	if c.Vault.Address == "" {
		errs = append(errs, errors.New("vault: address is missing; set it, or VAULT_ADDR"))
	} else if _, err := client.Addresses(c.Vault.Address); err != nil {
		errs = append(errs, fmt.Errorf("vault: address: %w", err))
	}
	switch v.Auth.Method {
	case "token_file":
		if v.Auth.Path == "" {
			errs = append(errs, errors.New("vault: auth \"token_file\": path is missing; name the file that holds the token"))
		}
	case "approle":
		if v.Auth.RoleIDFile == "" || v.Auth.SecretIDFile == "" {
			errs = append(errs, errors.New("vault: auth \"approle\": role_id_file or secret_id_file is missing; name the files that hold them"))
		}
		if v.Auth.Mount == "" {
			c.Vault.Auth.Mount = "approle"
		}
	default:
		methods := []string{"token_file", "approle"}
		errs = append(errs, fmt.Errorf("vault: auth %q is not known%s (it is one of %s)", v.Auth.Method, usage.DidYouMean(v.Auth.Method, methods), strings.Join(methods, ", ")))
	}
	if c.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			errs = append(errs, fmt.Errorf("instance is missing, and the host has no name: %w", err))
		}
		c.Instance = host + "-" + c.Workload + "-" + c.place()
	}
	if r := c.Reencrypt; r != nil {
		set := slices.DeleteFunc([]string{r.DatabaseURLKey, r.DatabaseURLFile, r.DatabaseURLEnv}, func(s string) bool { return s == "" })
		if len(set) != 1 {
			errs = append(errs, errors.New("reencrypt: set one of database_url_key, database_url_file and database_url_env"))
		}
		block, err := r.paced()
		c.Reencrypt = &block
		errs = append(errs, err)
	}
	return errs
}

// paced is the block with its bounds checked.
func (r ReencryptBlock) paced() (ReencryptBlock, error) {
	var err error
	if r.MaxLoad != "" {
		if r.maxLoad, err = time.ParseDuration(r.MaxLoad); err != nil || r.maxLoad < 0 {
			err = fmt.Errorf("reencrypt: max_load = %q is not a duration; write one such as \"200ms\"", r.MaxLoad)
		}
	}
	if r.BatchSize < 0 || r.RowsPerSecond < 0 {
		err = errors.Join(err, errors.New("reencrypt: batch_size or rows_per_second is negative; leave it out for the default"))
	}
	return r, err
}

// place tells two sidecars of a workload on one host apart: by what they render and reload, which cannot be the same.
func (c *Config) place() string {
	hash := sha256.New()
	for _, r := range c.Render {
		_, _ = fmt.Fprintf(hash, "%q", r.Path)
	}
	if r := c.Reload; r != nil {
		_, _ = fmt.Fprintf(hash, "%q%q%q", r.PIDFile, r.URL, r.Command)
	}
	if e := c.Exec; e != nil {
		_, _ = fmt.Fprintf(hash, "%q", e.Command)
	}
	return hex.EncodeToString(hash.Sum(nil))[:6]
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

func (r ReloadBlock) reloader(timeout time.Duration) (reload.Reloader, error) {
	methods := []string{"signal", "command", "http", "none"}
	switch r.Method {
	case "none":
		return nil, nil //nolint:nilnil // none is wanted
	case "signal":
		if r.PIDFile == "" {
			return nil, errors.New("reload \"signal\": pid_file is missing; name the file that holds the workload's process number")
		}
		if r.Signal == "" {
			r.Signal = "SIGHUP"
		}
		s, err := reload.ParseSignal(r.Signal)
		if err != nil {
			return nil, fmt.Errorf("reload \"signal\": %w", err)
		}
		return reload.Signal{PIDFile: r.PIDFile, Signal: s}, nil
	case "command":
		if len(r.Command) == 0 {
			return nil, errors.New("reload \"command\": command is missing; write it as a list, such as [\"nginx\", \"-s\", \"reload\"]")
		}
		return reload.Command{Args: r.Command, Timeout: timeout}, nil
	case "http":
		if r.URL == "" {
			return nil, errors.New("reload \"http\": url is missing")
		}
		return reload.HTTP{URL: r.URL, Timeout: timeout}, nil
	}
	return nil, fmt.Errorf("reload %q is not known%s (it is one of %s)", r.Method, usage.DidYouMean(r.Method, methods), strings.Join(methods, ", "))
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
