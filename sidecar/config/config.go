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
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/dsn"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// File is the configuration as it is written, in HCL.
type File struct {
	Workload string `hcl:"workload,optional" type:"name" required:"with vault" flag:"workload" annotation:"workload" doc:"Workload whose keys to load, as in hyvve/workloads."`
	Instance string `hcl:"instance,optional" type:"name" default:"host name, workload and a hash" flag:"instance" doc:"Name of this instance. Two instances on one host differ."`
	// AllowNames are reserved environment names that keys may have all the same.
	AllowNames []string `hcl:"allow_names,optional" type:"environment names" doc:"Reserved environment names that keys may have."`

	OnStop string `hcl:"on_stop,optional" default:"hold" values:"hold, leave" annotation:"on-stop" doc:"What becomes of the lease if the sidecar stops while its workload may run on."`

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
	case f.Watch == nil && len(f.Render) == 0 && len(f.Proxy) == 0 && f.Reencrypt == nil && f.Exec == nil:
		fail("nothing is rendered, and there is no proxy, reencrypt or exec block: the instance would count as one that loads its keys; add a render block, such as render \"dotenv\" { path = \"/run/app/.env\" }")
	}
	if f.Watch != nil {
		errs = append(errs, c.checkWatch()...)
	}
	if f.Vault != nil {
		errs = append(errs, c.checkVault()...)
		errs = append(errs, c.checkReencrypt()...)
	}
	errs = append(errs, f.checkAllowNames()...)
	errs = append(errs, c.checkOnStop()...)
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

// ownNames begins the names of variables that the sidecar itself sets or reads. No configuration allows keys to have them.
const ownNames = "HYVVE_"

// checkAllowNames refuses in allow_names what could have no effect.
func (f File) checkAllowNames() (errs []error) {
	for _, name := range f.AllowNames {
		if err := key.ValidateEnv(name); err != nil {
			errs = append(errs, fmt.Errorf("allow_names: %w", err))
		} else if strings.HasPrefix(name, ownNames) {
			errs = append(errs, fmt.Errorf("allow_names: %s is one of the sidecar's own names, which begin with %s; take it out", name, ownNames))
		}
	}
	return errs
}

// The values of on_stop.
const (
	OnStopHold  = "hold"
	OnStopLeave = "leave"
)

// checkOnStop fills in on_stop, and refuses it where it could have no effect.
func (c *Checked) checkOnStop() []error {
	values := []string{OnStopHold, OnStopLeave}
	switch {
	case c.OnStop == "":
		c.OnStop = option(File{}, "on_stop").Default
	case !slices.Contains(values, c.OnStop):
		return []error{fmt.Errorf("on_stop = %q is not known%s (it is one of %s)", c.OnStop, usage.DidYouMean(c.OnStop, values), strings.Join(values, ", "))}
	case c.Exec != nil:
		return []error{errors.New("on_stop: the sidecar runs the workload itself and gives the lease back when that has ended; take it out")}
	case c.Vault == nil:
		return []error{errors.New("on_stop: without a vault block there is no lease; take it out")}
	}
	return nil
}

// Risks are settings that are allowed and rarely meant, in words.
func (c *Checked) Risks() (all []string) {
	if c.OnStop == OnStopLeave {
		all = append(all, "on_stop = \"leave\": while the sidecar is stopped, as for an upgrade, rotations do not wait for a workload that runs on, which may lose a key that it uses; take it out, or stop the workload first")
	}
	return all
}

// checkKeys refuses in keys what no bundle has, and reserved names unless allow has them: who lists keys may not know what
// a name does.
func checkKeys(keys, allow []string) error {
	for _, name := range keys {
		if err := key.ValidateEnv(name); err != nil {
			return fmt.Errorf("keys: %w", err)
		}
		if err := key.CheckReserved(name, allow); err != nil {
			return fmt.Errorf("keys: %w; take it out, or add it to allow_names if the workload is to have it", err)
		}
	}
	return nil
}

// mapped reports whether keys stand under names of the configuration's own only: those of a template, or of data.
func (r RenderBlock) mapped() bool { return r.Source != "" || r.Template != "" || r.Data != nil }

// allowed returns allow with all of the block's keys, where their names are written nowhere.
func (r RenderBlock) allowed(allow []string) []string {
	if r.mapped() {
		return slices.Concat(allow, r.Keys)
	}
	return allow
}

// The blocks of [File] are the one table of options. The tags of a field say all that is known of an option beforehand:
//
//	hcl         its name, and whether it may be left out
//	doc         its description
//	note        what holds in the file only, and not for the flag and the annotation
//	default     the value without it, or a description of that value
//	type        its type, where the type of the field does not say it
//	values      the values that it may have
//	of          the methods or formats that have it, where not all have it
//	excludes    the options that it excludes
//	required    yes, or when; where of says which methods have it, it holds for them
//	flag        the flag that sets it; an environment variable goes with each flag
//	annotation  the annotation of pods that sets it
//
// HCL is decoded by them, and the checks use of and default. Flags and their help come from them, and so do annotations, the
// configuration of pods, docs/configuration.md and docs/annotations.md.

// Option is one option of a block.
type Option struct {
	Block                                                              string // its path, as in [Block]
	Name, Doc, Note, Default, Type, Values, Required, Flag, Annotation string
	Of, Excludes                                                       []string

	field reflect.StructField
}

// Block is a block of the file, or the file itself.
type Block struct {
	Path    string // its name after those of the blocks around it, as "vault: auth"; empty: the file
	Label   string // how its label is called, as "METHOD"; empty: it has none
	Options []Option
}

// Blocks returns the file and all blocks in it, in their order.
var Blocks = sync.OnceValue(func() []Block { return blocks(Block{}, reflect.TypeFor[File]()) })

func blocks(outer Block, of reflect.Type) []Block {
	all := []Block{{}}
	for n := range of.NumField() {
		f := of.Field(n)
		name, kind, _ := strings.Cut(f.Tag.Get("hcl"), ",")
		switch kind {
		case "label":
			outer.Label = strings.ToUpper(name)
		case "block":
			inner := f.Type
			if inner.Kind() != reflect.Struct {
				inner = inner.Elem()
			}
			all = append(all, blocks(Block{Path: strings.TrimPrefix(outer.Path+": "+name, ": ")}, inner)...)
		}
	}
	outer.Options = options(outer.Path, of)
	all[0] = outer
	return all
}

// options returns those of a block, in their order.
func options(path string, block reflect.Type) (all []Option) {
	for n := range block.NumField() {
		f := block.Field(n)
		name, kind, _ := strings.Cut(f.Tag.Get("hcl"), ",")
		if name == "" || kind == "block" || kind == "label" {
			continue
		}
		o := Option{
			Block: path, Name: name, Doc: f.Tag.Get("doc"), Note: f.Tag.Get("note"), Default: f.Tag.Get("default"), Type: f.Tag.Get("type"), Values: f.Tag.Get("values"),
			Required: f.Tag.Get("required"), Flag: f.Tag.Get("flag"), Annotation: f.Tag.Get("annotation"), field: f,
		}
		if kind == "" {
			o.Required = "yes"
		}
		o.Of, o.Excludes = listed(f.Tag.Get("of")), listed(f.Tag.Get("excludes"))
		all = append(all, o)
	}
	return all
}

func listed(tag string) []string {
	if tag == "" {
		return nil
	}
	return strings.Split(tag, ", ")
}

// option returns the one of a block that has a name.
func option(block any, name string) Option {
	for _, o := range options("", reflect.TypeOf(block)) {
		if o.Name == name {
			return o
		}
	}
	panic(fmt.Sprintf("%T has no option %s", block, name))
}

// value is that of the option in a block, or in the block that a pointer points to.
func (o Option) value(block any) reflect.Value {
	return reflect.Indirect(reflect.ValueOf(block)).FieldByIndex(o.field.Index)
}

// IsSet reports whether a block says something else than the zero value.
func (o Option) IsSet(block any) bool { return !o.value(block).IsZero() }

// Conflicts reports whether a block has an option that this one excludes.
func (o Option) Conflicts(block any) bool {
	of := reflect.Indirect(reflect.ValueOf(block)).Interface()
	return slices.ContainsFunc(o.Excludes, func(name string) bool { return option(of, name).IsSet(of) })
}

// Clear removes the options of the block that a pointer points to for which drop is true.
func Clear(block any, drop func(Option) bool) {
	for _, o := range options("", reflect.TypeOf(block).Elem()) {
		if drop(o) {
			o.value(block).SetZero()
		}
	}
}

// IsList reports whether the option has several values.
func (o Option) IsList() bool {
	kind := o.field.Type.Kind()
	return kind == reflect.Slice || kind == reflect.Map
}

// IsBool reports whether the option is true or false.
func (o Option) IsBool() bool { return o.field.Type.Kind() == reflect.Bool }

// standard returns the default of a duration.
func standard(block any, name string) time.Duration {
	d, err := time.ParseDuration(option(block, name).Default)
	if err != nil {
		panic(fmt.Sprintf("%T: the default of %s: %v", block, name, err))
	}
	return d
}

// setting reads a duration of a block, which an error calls by its name after prefix.
func setting(prefix string, block any, name string) (time.Duration, error) {
	return duration(prefix+name, option(block, name).value(block).String(), standard(block, name))
}

// At returns a pointer to the block that has a path, which is no list of blocks. It makes the block if it is missing.
func (f *File) At(path string) any {
	at := reflect.ValueOf(f).Elem()
	for name := range strings.SplitSeq(path, ": ") {
		for n := range at.NumField() {
			if at.Type().Field(n).Tag.Get("hcl") != name+",block" {
				continue
			}
			if at = at.Field(n); at.Kind() == reflect.Pointer {
				if at.IsNil() {
					at.Set(reflect.New(at.Type().Elem()))
				}
				at = at.Elem()
			}
			break
		}
	}
	return at.Addr().Interface()
}

// skipVerify is the variable by which Vault's client takes any certificate.
const skipVerify = "VAULT_SKIP_VERIFY"

// checkSkipVerify refuses that the environment alone switches verification off.
func (v VaultBlock) checkSkipVerify() error {
	skip, err := strconv.ParseBool(os.Getenv(skipVerify)) // what is no boolean, Vault's client refuses
	if set := err == nil && skip; !set || v.AllowSkipVerify {
		return nil
	}
	return errors.New("vault: " + skipVerify + " is set in the environment: any certificate would be taken for Vault's, and anyone on the network path would get every key; " +
		"take it out and name Vault's authority with ca_cert. For a test, set allow_skip_verify = true here")
}

// inClear returns where secrets cross a network without verified TLS, by what the configuration says.
func (c *Checked) inClear() (all []string) {
	warn := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if c.Vault != nil {
		for address := range strings.SplitSeq(c.Vault.Address, ",") {
			if host := clearHost(address); host != "" {
				warn("vault: %s is reached without TLS (http://): the token and all keys can be read and changed on the way; write its address with https://", host)
			}
		}
		if skip, _ := strconv.ParseBool(os.Getenv(skipVerify)); skip && strings.Contains(c.Vault.Address, "https://") {
			warn("vault: its certificate is not verified (%s, allow_skip_verify): anyone on the network path can pose as Vault and read the token and all keys; name its authority with ca_cert", skipVerify)
		}
	}
	if r := c.Reload; r != nil && r.BasicAuthFile+r.BearerTokenFile != "" || r != nil && len(r.HeaderFiles) > 0 {
		if host := clearHost(r.URL); host != "" {
			warn("reload: the credential is sent to %s without TLS (http://); use https://, or a host on this machine", host)
		}
	}
	for _, h := range c.Health {
		if host := clearHost(h.URL); host != "" && h.BearerTokenFile+h.Key != "" {
			warn("health: the credential is sent to %s without TLS (http://); use https://, or a host on this machine", host)
		}
	}
	for _, p := range c.Proxy {
		if host := clearHost(p.Upstream); host != "" {
			warn("proxy of %s: the key is sent to %s without TLS (http://); let the upstream be on this machine", p.Key, host)
		}
	}
	return all
}

// clearHost is the host of an http:// URL that is not this machine; empty of any other URL.
func clearHost(text string) string {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Scheme != "http" {
		return ""
	}
	host := u.Hostname()
	if dsn.Local(host) {
		return ""
	}
	return host
}
