// SPDX-License-Identifier: Apache-2.0

// Package reload makes a workload load what was rendered, by a signal, a command or an HTTP request. Package
// kubernetes restarts rollouts.
package reload

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/mask"
)

// Reloader makes a workload reload. ErrNotRunning says that there is none yet, which at the first rendering is as it
// should be: it will read the files when it starts.
type Reloader interface {
	Reload(ctx context.Context) error
}

// Starter is an optional interface of a Reloader. ReloadUnlessStarted is Reload, unless the workload was started after a moment, as
// Uptime returns it: it reports whether it was. Such a workload has read what was rendered before, and must not be signalled: it may
// not be ready for that yet. The process is looked for once: it may start at any time.
type Starter interface {
	ReloadUnlessStarted(ctx context.Context, since time.Duration) (started bool, err error)
}

// Provider is an optional interface of a Reloader that passes a bundle to the workload itself, beside any files. Provide takes
// the bundle of the next Reload, and reports whether the workload still needs it. Etag returns the etag of the bundle that the
// workload has: it may be older than that of Provide if both bundles have the same content for the workload. Failed returns how
// the workload has failed, and the empty string if it runs or was stopped.
type Provider interface {
	Provide(b client.Bundle) (changed bool, err error)
	Etag() string
	Failed() string
}

// PendingReloader is an optional interface of a Reloader that knows whether a reload is pending: whether the workload has yet
// to load what is rendered. It knows so after a crash of the sidecar, too, no matter which files have changed.
type PendingReloader interface {
	ReloadPending(ctx context.Context) (bool, error)
}

// Uptime is the present moment, as time since the machine's start, which no change of the clock moves.
func Uptime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 1<<63 - 1 // nothing was started since
	}
	return time.Duration(now.Nano())
}

// ErrNotRunning means that there is no process to reload.
var ErrNotRunning = errors.New("the workload is not running")

// HTTP makes a request. Credentials are read from their files for each.
type HTTP struct {
	URL             string
	Method          string // POST if empty
	Headers         map[string]string
	HeaderFiles     map[string]string // files of values, by name of header
	BasicAuthFile   string            // of "user:password"
	BearerTokenFile string
	Statuses        []int // that are success; 2xx if empty
	Timeout         time.Duration
	Mask            func(text string) string
}

var (
	_ Reloader = HTTP{}
	_ Masker   = HTTP{}
)

// WithMask implements Masker.
func (h HTTP) WithMask(mask func(string) string) Reloader {
	h.Mask = mask
	return h
}

// maxAnswer is how much of an answer is read.
const maxAnswer = 64 << 10

// Reload implements Reloader.
func (h HTTP) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	method := h.Method
	if method == "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, h.URL, http.NoBody)
	if err != nil {
		return fmt.Errorf("reload request: %w", err)
	}
	secrets, err := h.dress(req)
	if err != nil {
		return fmt.Errorf("reload request: %w", err)
	}
	resp, err := external.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if err != nil {
		return fmt.Errorf("reload request: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if len(h.Statuses) == 0 && resp.StatusCode/100 == 2 || slices.Contains(h.Statuses, resp.StatusCode) {
		return nil
	}
	said := external.Quote{Kept: body, Part: len(body) == maxAnswer}.Start(func(text string) string {
		text = mask.New(secrets...).Text(text)
		if h.Mask != nil {
			text = h.Mask(text)
		}
		return text
	})
	if said != "" {
		said = ": " + said
	}
	return fmt.Errorf("reload request: %s answered %s%s", req.URL.Redacted(), external.StatusText(resp.StatusCode), said)
}

// dress sets the request's headers, and returns the secrets among their values.
func (h HTTP) dress(req *http.Request) (secrets []string, err error) {
	set := func(name, value string) {
		if http.CanonicalHeaderKey(name) == "Host" {
			req.Host = value
			return
		}
		req.Header.Set(name, value)
	}
	for name, value := range h.Headers {
		set(name, value)
	}
	for name, path := range h.HeaderFiles {
		value, err := external.ReadCredential(path)
		if err != nil {
			return nil, fmt.Errorf("header_files: %w", err)
		}
		set(name, value)
		secrets = append(secrets, value)
	}
	if h.BearerTokenFile != "" {
		token, err := external.ReadCredential(h.BearerTokenFile)
		if err != nil {
			return nil, fmt.Errorf("bearer_token_file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		secrets = append(secrets, token)
	}
	if h.BasicAuthFile != "" {
		user, password, err := external.ReadBasic(h.BasicAuthFile)
		if err != nil {
			return nil, fmt.Errorf("basic_auth_file: %w", err)
		}
		req.SetBasicAuth(user, password)
		secrets = append(secrets, base64.StdEncoding.EncodeToString([]byte(user+":"+password)), password)
	}
	return secrets, nil
}

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
