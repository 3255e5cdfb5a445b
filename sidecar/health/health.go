// SPDX-License-Identifier: Apache-2.0

// Package health asks a workload whether it is well, and which bundle it has loaded.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
)

// Checker looks at a workload once. etag is that of the bundle which it should have loaded.
type Checker interface {
	Check(ctx context.Context, etag string) error
}

// EtagHeader is where a workload may say which bundle it has loaded; a JSON body with the field "etag" says it too.
const EtagHeader = "X-Hyvve-Etag"

// HTTP expects a status of 2xx and, with ExpectEtag, the etag: proof that the workload has loaded the bundle, where a
// good status alone only proves that it runs.
type HTTP struct {
	URL        string
	Timeout    time.Duration
	ExpectEtag bool
}

var _ Checker = HTTP{}

// Check implements Checker.
func (h HTTP) Check(ctx context.Context, etag string) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, http.NoBody)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	resp, err := external.Do(req)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return fmt.Errorf("health check: %w", external.Lasting(err))
	}
	where := req.URL.Redacted()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("health check: %s answered %s", where, external.StatusText(resp.StatusCode))
	}
	if !h.ExpectEtag {
		return nil
	}
	loaded := resp.Header.Get(EtagHeader)
	if loaded == "" {
		var answer struct {
			Etag string `json:"etag"`
		}
		_ = json.Unmarshal(body, &answer) // an answer of another form says nothing of an etag
		loaded = answer.Etag
	}
	switch loaded {
	case etag:
		return nil
	case "":
		return fmt.Errorf("health check: %s does not say which bundle is loaded; have it answer with header %s, or set expect_etag = false", where, EtagHeader)
	}
	return fmt.Errorf("health check: %s has not loaded the new bundle yet", where)
}

// TCP expects that a connection can be made.
type TCP struct {
	Address string
	Timeout time.Duration
}

var _ Checker = TCP{}

// Check implements Checker.
func (t TCP) Check(ctx context.Context, _ string) error {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return fmt.Errorf("health check: %w", external.Lasting(err))
	}
	return conn.Close()
}

// Gate is what a Checker may be besides: it compares how a workload is after a change with how it was before. Begin is
// called before a change is made. The change is named; one that is named again, as after a restart of the sidecar, goes
// on. An error says what will be missed; the gate works on as well as it can.
type Gate interface {
	Begin(ctx context.Context, change string) error
}

// Masker is what a Checker may be besides: its errors quote what others have said, in which mask hides values.
type Masker interface {
	WithMask(mask func(text string) string) Checker
}

// proof is an error that needs no second look.
type proof struct{ error }

// Unwrap returns the error itself.
func (p proof) Unwrap() error { return p.error }

// Proof makes an error one that is a verdict as it is.
func Proof(err error) error { return proof{err} }

// Proven reports whether an error of a Checker is a verdict as it is, such as that a counter has grown too much: neither
// time nor another look will make it undone.
func Proven(err error) bool {
	var p proof
	return errors.As(err, &p)
}

// All are several checkers, all of which must find the workload well. They look at the same time.
type All []Checker

var (
	_ Checker = All{}
	_ Gate    = All{}
	_ Masker  = All{}
)

// several are errors in one line.
type several []error

// Error implements error.
func (s several) Error() string {
	var texts []string
	for _, err := range s {
		texts = append(texts, err.Error())
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns them.
func (s several) Unwrap() []error { return s }

func (s several) orNil() error {
	s = without(s)
	switch len(s) {
	case 0:
		return nil
	case 1:
		return s[0]
	}
	return s
}

func without(errs []error) (found []error) {
	for _, err := range errs {
		if err != nil {
			found = append(found, err)
		}
	}
	return found
}

// Check implements Checker. Its error names all checks that fail.
func (a All) Check(ctx context.Context, etag string) error {
	errs := make(several, len(a))
	var group sync.WaitGroup
	for n, c := range a {
		group.Go(func() { errs[n] = c.Check(ctx, etag) })
	}
	group.Wait()
	return errs.orNil()
}

// Begin implements Gate, for those that are one.
func (a All) Begin(ctx context.Context, change string) error {
	errs := make(several, len(a))
	var group sync.WaitGroup
	for n, c := range a {
		if g, ok := c.(Gate); ok {
			group.Go(func() { errs[n] = g.Begin(ctx, change) })
		}
	}
	group.Wait()
	return errs.orNil()
}

// WithMask implements Masker, for those that are one.
func (a All) WithMask(mask func(string) string) Checker {
	masked := make(All, len(a))
	for n, c := range a {
		masked[n] = c
		if m, ok := c.(Masker); ok {
			masked[n] = m.WithMask(mask)
		}
	}
	return masked
}

// Now is what of a Checker can be asked of a process that has yet to take another's place: all but what compares before
// and after. It is nil if nothing is left.
func Now(c Checker) Checker {
	all, ok := c.(All)
	if !ok {
		if _, gate := c.(Gate); gate {
			return nil
		}
		return c
	}
	var left All
	for _, one := range all {
		if one := Now(one); one != nil {
			left = append(left, one)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return left
}

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

// recall reads what an earlier run has kept in a file, if any. No file is no error.
func recall(path string, into any) error {
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path) //nolint:gosec // the configuration names it
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return fmt.Errorf("reading %s, which starts empty: %w", path, err)
	}
	return nil
}

// keep writes it. Without a path it is kept in memory alone.
func keep(path string, what any) error {
	if path == "" {
		return nil
	}
	data, err := json.Marshal(what)
	if err == nil {
		err = render.Keep(path, data)
	}
	if err != nil {
		return fmt.Errorf("keeping %s, without which a restart of the sidecar forgets: %w", path, err)
	}
	return nil
}

const (
	maxRestarts    = 3               // restarts that are a loop
	restartsWindow = 5 * time.Minute // within which they are
)

// Restarts detects a workload that restarts in a loop after a change. One or two restarts after a change are expected: the
// workload may load the change that way.
type Restarts struct {
	Identify func() (string, error) // the process; an error if there is none
	Path     string                 // where it is kept over restarts of the sidecar; empty: nowhere
	Warn     func(err error)

	kept struct {
		Change string  `json:"change"`
		Seen   []start `json:"seen"` // processes since the change, the first of which no restart has brought
	}
	recalled bool
	now      func() time.Time // nil: time.Now
}

type start struct {
	Process string    `json:"process"`
	At      time.Time `json:"at"` // when it was first seen
}

var (
	_ Checker = (*Restarts)(nil)
	_ Gate    = (*Restarts)(nil)
)

// Begin implements Gate.
func (r *Restarts) Begin(_ context.Context, change string) error {
	r.recall()
	if r.kept.Change == change {
		return nil
	}
	r.kept.Change, r.kept.Seen = change, nil
	return keep(r.Path, r.kept)
}

func (r *Restarts) recall() {
	if r.recalled {
		return
	}
	r.recalled = true
	if err := recall(r.Path, &r.kept); err != nil {
		r.kept.Change, r.kept.Seen = "", nil
		r.Warn(err)
	}
}

// Check implements Checker.
func (r *Restarts) Check(context.Context, string) error {
	r.recall()
	process, err := r.Identify()
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	now := time.Now
	if r.now != nil {
		now = r.now
	}
	seen := r.kept.Seen
	if n := len(seen); n == 0 || seen[n-1].Process != process {
		seen = append(seen, start{process, now()})
		seen = seen[max(0, len(seen)-maxRestarts-1):]
		r.kept.Seen = seen
		if err := keep(r.Path, r.kept); err != nil {
			r.Warn(err)
		}
	}
	if len(seen) <= maxRestarts || now().Sub(seen[1].At) > restartsWindow {
		return nil
	}
	// These words stay the same until there is one more restart.
	took := seen[maxRestarts].At.Sub(seen[0].At).Round(time.Second)
	return proof{fmt.Errorf("health check: the workload was restarted %d times in %s after the change; look at why it ends", maxRestarts, duration.Text(max(took, time.Second)))}
}
