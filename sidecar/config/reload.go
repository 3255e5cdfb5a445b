// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/usage"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/watch"
)

// ReloadBlock is how the workload loads a change: "signal", "command", "http", "rollout" or "none".
type ReloadBlock struct {
	Method  string   `hcl:"method,label"`
	Timeout string   `hcl:"timeout,optional" type:"duration" default:"30s" annotation:"reload-timeout" doc:"Limit of one reload." note:"With rollout, the default is 10m."`
	PIDFile string   `hcl:"pid_file,optional" type:"file" flag:"pid-file" excludes:"process, cmdline" of:"signal" doc:"File that holds the process number of the workload."`
	Process string   `hcl:"process,optional" type:"name" excludes:"pid_file" of:"signal" annotation:"process" doc:"Program to signal."`
	Cmdline string   `hcl:"cmdline,optional" type:"regular expression" excludes:"pid_file" of:"signal" annotation:"cmdline" doc:"Matches the command line of the process to signal."`
	Signal  string   `hcl:"signal,optional" type:"name" default:"SIGHUP" flag:"signal" of:"signal" annotation:"signal" doc:"Signal that notifies the workload of a change."`
	Command []string `hcl:"command,optional" required:"yes" of:"command" doc:"Program and arguments to run, without a shell."`

	URL             string            `hcl:"url,optional" type:"URL" required:"yes" of:"http" annotation:"reload-url" doc:"URL to request after a change."`
	HTTPMethod      string            `hcl:"method,optional" default:"POST" of:"http" annotation:"reload-method" doc:"Method of the request."`
	Headers         map[string]string `hcl:"headers,optional" of:"http" doc:"Headers that are no secret."`
	HeaderFiles     map[string]string `hcl:"header_files,optional" of:"http" doc:"Files that hold the values of headers."`
	BasicAuthFile   string            `hcl:"basic_auth_file,optional" type:"file" of:"http" excludes:"bearer_token_file" doc:"File that holds USER:PASSWORD."`
	BearerTokenFile string            `hcl:"bearer_token_file,optional" type:"file" of:"http" excludes:"basic_auth_file" doc:"File that holds the token."`
	ExpectStatus    []int             `hcl:"expect_status,optional" default:"2xx" of:"http" doc:"Status codes that count as success."`

	Kind      string `hcl:"kind,optional" required:"yes" values:"deployment, statefulset, daemonset" of:"rollout" doc:"Kind of the workload to restart."`
	Name      string `hcl:"name,optional" required:"yes" of:"rollout" doc:"Name of the workload to restart."`
	Namespace string `hcl:"namespace,optional" default:"of the kubernetes block" of:"rollout" doc:"Namespace of the workload."`
}

// Reloading is a reload block with its texts parsed.
type Reloading struct {
	ReloadBlock
	Timeout time.Duration
	Signal  syscall.Signal // of "signal"
	Cmdline *regexp.Regexp // nil: any
}

// checkReload refuses a block that cannot work, and fills in Reloading.
func (c *Checked) checkReload() (errs []error) {
	r := &c.Reloading
	r.ReloadBlock = *c.Reload
	limit := standard(r.ReloadBlock, "timeout")
	if r.Method == "rollout" {
		limit = rolloutLimits
	}
	var err error
	if r.Timeout, err = duration("reload: timeout", c.Reload.Timeout, limit); err != nil {
		errs = append(errs, err)
	}
	if methods := []string{"signal", "command", "http", "rollout", "none"}; !slices.Contains(methods, r.Method) {
		return append(errs, fmt.Errorf("reload %q is not known%s (it is one of %s)", r.Method, usage.DidYouMean(r.Method, methods), strings.Join(methods, ", ")))
	}
	switch err = nil; r.Method {
	case "rollout":
		err = c.checkRollout(r)
	case "signal":
		err = r.checkSignal()
	case "command":
		if len(r.Command) == 0 || r.Command[0] == "" {
			err = errors.New("command is missing; write it as a list, such as [\"nginx\", \"-s\", \"reload\"]")
		}
	case "http":
		err = r.checkHTTP()
	}
	if err := within(fmt.Sprintf("reload %q", r.Method), errors.Join(strayOptions(r.Method, r.ReloadBlock), err)); err != nil {
		errs = append(errs, err)
	}
	return errs
}

func (r *Reloading) checkSignal() error {
	var errs []error
	pattern := r.ReloadBlock.Cmdline
	switch byMatch := r.Process != "" || pattern != ""; {
	case !byMatch && r.PIDFile == "":
		errs = append(errs, errors.New("pid_file is missing; name the file that holds the workload's process number, or set process or cmdline, by which to find it"))
	case byMatch && r.PIDFile != "":
		errs = append(errs, errors.New("pid_file excludes process and cmdline; leave either out"))
	case strings.Contains(r.Process, "/"):
		errs = append(errs, fmt.Errorf("process = %q is a path; write the name of the program, such as %q, or find the path with cmdline", r.Process, filepath.Base(r.Process)))
	}
	var err error
	if pattern != "" {
		if r.Cmdline, err = regexp.Compile(pattern); err != nil {
			errs = append(errs, fmt.Errorf("cmdline is not a regular expression: %w; write one such as \"node .*server\\\\.js\"", err))
		}
	}
	if r.Signal, err = ParseSignal(cmp.Or(r.ReloadBlock.Signal, "SIGHUP")); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ParseSignal reads a name such as SIGHUP or HUP.
func ParseSignal(name string) (syscall.Signal, error) {
	full := strings.ToUpper(name)
	if !strings.HasPrefix(full, "SIG") {
		full = "SIG" + full
	}
	if s := unix.SignalNum(full); s != 0 {
		return s, nil
	}
	return 0, fmt.Errorf("signal %q is not known; use a name such as SIGHUP or SIGUSR1", name)
}

var (
	httpToken  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	httpMethod = regexp.MustCompile("^[A-Z]+$")
)

func (r ReloadBlock) checkHTTP() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := checkURL(r.URL); err != nil {
		errs = append(errs, err)
	}
	if r.HTTPMethod != "" && !httpMethod.MatchString(r.HTTPMethod) {
		fail("method = %q is none of HTTP; write one such as \"POST\" or \"PUT\"", r.HTTPMethod)
	}
	if r.BasicAuthFile != "" && r.BearerTokenFile != "" {
		fail("basic_auth_file and bearer_token_file exclude each other; leave either out")
	}
	for name, path := range map[string]string{"basic_auth_file": r.BasicAuthFile, "bearer_token_file": r.BearerTokenFile} {
		if path != "" && !filepath.IsAbs(path) {
			fail("%s = %q is not an absolute path; write one", name, path)
		}
	}
	for name, value := range r.Headers {
		switch {
		case !httpToken.MatchString(name) || strings.ContainsAny(value, "\r\n\x00"):
			fail("headers: %q, or its value, cannot be a header", name)
		case slices.Contains([]string{"Authorization", "Cookie", "Proxy-Authorization"}, http.CanonicalHeaderKey(name)):
			fail("headers: %s would hold a secret in this file; use basic_auth_file, bearer_token_file or header_files", name)
		}
	}
	for name, path := range r.HeaderFiles {
		if !httpToken.MatchString(name) || !filepath.IsAbs(path) {
			fail("header_files: %q = %q is not the name of a header and the absolute path of the file with its value", name, path)
		}
	}
	for _, status := range r.ExpectStatus {
		if status < 200 || status > 599 {
			fail("expect_status: %d is not the status of an answer; write one such as 204", status)
		}
	}
	return errors.Join(errs...)
}

// checkURL refuses what no request can be made to. What was written is not quoted: it may hold a password.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return errors.New("url is missing")
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("url is not http:// or https:// with a host; write one such as \"http://127.0.0.1:3000/path\"")
	case u.User != nil:
		return errors.New("url holds a user or a password, which would stand in this file and in logs; take it out")
	case u.Port() != "" && !client.GoodPort(u.Port()):
		return errors.New("url: the port is no number from 1 to 65535; write one such as \"http://127.0.0.1:3000/path\"")
	}
	return nil
}

// strayOptions refuses those of other methods than that of a block: they would do nothing, in silence.
func strayOptions(method string, block any) error {
	var errs []error
	for _, o := range options("", reflect.TypeOf(block)) {
		if o.Of == nil || slices.Contains(o.Of, method) || !o.IsSet(block) {
			continue
		}
		var owners []string
		for _, of := range o.Of {
			owners = append(owners, strconv.Quote(of))
		}
		errs = append(errs, fmt.Errorf("%s is of %s, and does nothing here; take it out", o.Name, strings.Join(owners, " and ")))
	}
	return errors.Join(errs...)
}

// within names the block in each of its errors.
func within(block string, err error) error {
	if err == nil {
		return nil
	}
	all := []error{err}
	if several, ok := err.(interface{ Unwrap() []error }); ok { // the outermost is wanted
		all = several.Unwrap()
	}
	var named []error
	for _, e := range all {
		if _, ok := e.(interface{ Unwrap() []error }); ok {
			named = append(named, within(block, e))
			continue
		}
		named = append(named, fmt.Errorf("%s: %w", block, e))
	}
	return errors.Join(named...)
}

// WatchBlock lists files that something else renders.
type WatchBlock struct {
	Paths    []string `hcl:"paths" type:"files" flag:"watch" doc:"Files to follow, which something else renders."`
	Stable   string   `hcl:"stable,optional" type:"duration" default:"200ms" doc:"Time without changes before a change counts."`
	Poll     string   `hcl:"poll,optional" type:"duration" default:"5s" doc:"Interval between checks of files that report no changes."`
	Validate string   `hcl:"validate,optional" values:"dotenv, json" doc:"Format that a file must have before its change counts."`
}

// checkWatch fills in what following files needs.
func (c *Checked) checkWatch() (errs []error) {
	w := c.Watch
	if len(w.Paths) == 0 {
		errs = append(errs, errors.New("watch: paths is empty; list the files to follow"))
	}
	if slices.Contains(w.Paths, "") {
		errs = append(errs, errors.New("watch: paths has an empty one; name the file, or take it out"))
	}
	for _, path := range w.Paths {
		if path != "" && strings.HasSuffix(path, string(filepath.Separator)) {
			errs = append(errs, fmt.Errorf("watch: paths has %q, which is a directory; name the files in it", path))
		}
	}
	for _, d := range []struct {
		name string
		into *time.Duration
	}{{"stable", &c.Stable}, {"poll", &c.Poll}} {
		var err error
		if *d.into, err = setting("watch: ", *w, d.name); err != nil {
			errs = append(errs, err)
		}
	}
	if w.Validate != "" {
		formats := slices.Sorted(maps.Keys(watch.Validators()))
		if watch.Validators()[w.Validate] == nil {
			errs = append(errs, fmt.Errorf("watch: validate = %q is not known%s (it is one of %s)", w.Validate, usage.DidYouMean(w.Validate, formats), strings.Join(formats, ", ")))
		}
	}
	return errs
}

// ReencryptBlock is the database whose rows this sidecar re-encrypts when the engine asks. Its URL is looked at before each
// piece of work.
type ReencryptBlock struct {
	DatabaseURLKey  string `hcl:"database_url_key,optional" type:"environment name" excludes:"database_url_file, database_url_env" annotation:"reencrypt" doc:"Key of the bundle that holds the URL of the database to re-encrypt."`
	DatabaseURLFile string `hcl:"database_url_file,optional" type:"file" excludes:"database_url_key, database_url_env" flag:"database-url-file" doc:"File that holds the URL of the database to re-encrypt."`
	DatabaseURLEnv  string `hcl:"database_url_env,optional" excludes:"database_url_key, database_url_file" doc:"Environment variable that holds the URL of the database to re-encrypt."`
	BatchSize       int    `hcl:"batch_size,optional" default:"500" doc:"Rows that are read, staged and replaced at a time."`
	SaltPerRow      bool   `hcl:"salt_per_row,optional" doc:"Draws a salt for each row."`

	RowsPerSecond int      `hcl:"rows_per_second,optional" default:"no limit" annotation:"reencrypt-rows-per-second" doc:"Rows that are re-encrypted in a second."`
	MaxLoad       string   `hcl:"max_load,optional" type:"duration" annotation:"reencrypt-max-load" doc:"Pauses while a transaction takes longer, or a replica lags more."`
	AllowTriggers []string `hcl:"allow_triggers,optional" doc:"Triggers that an update of the columns may fire."`
	TouchColumn   string   `hcl:"touch_column,optional" doc:"Column that is set to the time of the update."`

	AllowSuperuser bool `hcl:"allow_superuser,optional" doc:"Accepts a database URL of a superuser."`
}

// checkReencrypt refuses a block that cannot work, and fills in MaxLoad.
func (c *Checked) checkReencrypt() (errs []error) {
	r := c.Reencrypt
	if r == nil {
		return nil
	}
	set := slices.DeleteFunc([]string{r.DatabaseURLKey, r.DatabaseURLFile, r.DatabaseURLEnv}, func(s string) bool { return s == "" })
	if len(set) != 1 {
		errs = append(errs, errors.New("reencrypt: set one of database_url_key, database_url_file and database_url_env, and no other"))
	}
	if r.DatabaseURLKey != "" {
		if err := key.ValidateEnv(r.DatabaseURLKey); err != nil {
			errs = append(errs, fmt.Errorf("reencrypt: database_url_key = %q is not the name of a key in bundles: %w", r.DatabaseURLKey, err))
		}
	}
	if r.MaxLoad != "" {
		var err error
		if c.MaxLoad, err = time.ParseDuration(r.MaxLoad); err != nil || c.MaxLoad < 0 {
			errs = append(errs, fmt.Errorf("reencrypt: max_load = %q is not a duration; write one such as \"200ms\"", r.MaxLoad))
		}
	}
	if r.BatchSize < 0 || r.RowsPerSecond < 0 {
		errs = append(errs, errors.New("reencrypt: batch_size or rows_per_second is negative; leave it out for the default"))
	}
	return errs
}
