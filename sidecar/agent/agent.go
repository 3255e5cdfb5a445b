// SPDX-License-Identifier: Apache-2.0

// Package agent is the sidecar beside one instance of a workload: it renders what the instance should hold, makes the
// workload take it up, checks that it is well, and reports that; again and again. It never touches the workload because
// Vault is away: the last good files stay.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reencrypt"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// Reencryptor does the re-encryption that the engine asks for; *reencrypt.Worker is one.
type Reencryptor interface {
	Do(ctx context.Context, work workload.Work, accepts map[string][]key.Value) (workload.WorkReport, error)
}

var _ Reencryptor = (*reencrypt.Worker)(nil)

const (
	watchFor     = 20 * time.Second // one blocking watch
	backoffFirst = 200 * time.Millisecond
	backoffMost  = 15 * time.Second
	leaveTime    = 3 * time.Second // to say goodbye at the end
)

// Agent is the loop and what it knows. Its fields belong to the goroutine of Run.
type Agent struct {
	config Config
	log    *slog.Logger
	vault  *api.Client
	engine *client.Client

	bundle   client.Bundle // last read
	have     bool          // whether there is one
	rendered string        // etag of the bundle that the files hold
	loaded   string        // etag of the bundle that the workload is known to have loaded
	healthy  bool
	reason   string // why not
	stale    bool   // the bundle must be read again
	dirty    bool   // there is something to report
	redo     bool   // the bundle was not applied: do it again, whatever it is
	faults   int    // of applying, one after the other

	jobs     *jobs
	checks   chan check
	tokenAge *time.Timer
	leaseAge *time.Timer
	retry    *time.Timer // of applying
}

// New makes an agent of a checked configuration with a vault block.
func New(c Config, log *slog.Logger) (*Agent, error) {
	v, err := newVault(c.Vault)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		config: c, log: log, vault: v, engine: client.New(v, c.Vault.Mount), stale: true,
		checks: make(chan check), tokenAge: stopped(), leaseAge: stopped(), retry: stopped(),
	}
	if cmd, ok := c.Reloader.(reload.Command); ok {
		cmd.Mask = a.mask
		a.config.Reloader = cmd
	}
	a.jobs = newJobs(a.reencryptor())
	return a, nil
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// reencryptor makes the worker of the reencrypt block; nil without one.
func (a *Agent) reencryptor() func() (Reencryptor, error) {
	block := a.config.Reencrypt
	if block == nil {
		return nil
	}
	return func() (Reencryptor, error) {
		url := os.Getenv(block.DatabaseURLEnv)
		if block.DatabaseURLFile != "" {
			data, err := os.ReadFile(block.DatabaseURLFile)
			if err != nil {
				return nil, fmt.Errorf("reencrypt: database_url_file: %w", err)
			}
			url = strings.TrimSpace(string(data))
		}
		if url == "" {
			return nil, errors.New("reencrypt: the database URL is empty")
		}
		return reencrypt.NewWorker(url, reencrypt.Options{
			BatchSize: block.BatchSize, SaltPerRow: block.SaltPerRow, Progress: a.jobs.progress,
			BadRow: func(c key.Column, id string) {
				a.log.Error("row opens under no key of the bundle; mend or delete it", "column", c.String(), "id", id)
			},
		}), nil
	}
}

// Run serves until ctx ends, then gives the instance up. Trouble with Vault is waited out.
func (a *Agent) Run(ctx context.Context) error {
	for _, t := range a.config.Targets {
		if err := t.Clean(); err != nil {
			return err
		}
		a.redo = a.redo || t.Owed()
	}
	defer a.leave()
	defer a.jobs.stop()
	go a.monitor(ctx)
	for failures := 0; ctx.Err() == nil; {
		begun := time.Now()
		err := a.session(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(begun) > backoffMost {
			failures = 0
		}
		failures++
		wait := backoff(failures)
		a.log.Warn("vault session ended; files stay as they are", "error", err, "retry_in", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// backoff grows exponentially to a cap, with jitter, so that sidecars do not come back all at once.
func backoff(failures int) time.Duration {
	most := min(backoffFirst<<min(failures-1, 10), backoffMost)
	return most/2 + rand.N(most/2) //nolint:gosec // spreading, not secrecy
}

// session logs in and serves until something is wrong with Vault.
func (a *Agent) session(ctx context.Context) error {
	renewIn, err := login(ctx, a.vault, a.config.Vault.Auth)
	if err != nil {
		return err
	}
	a.log.Info("logged in to vault", "method", a.config.Vault.Auth.Method)
	schedule(a.tokenAge, renewIn)
	a.stale = true // the token before may have taken its leases with it
	for failures := 0; ; {
		err := a.runOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			failures = 0
			continue
		case errors.Is(err, client.ErrRefused):
			a.stale = true
			fallthrough
		case errors.Is(err, client.ErrUnavailable):
			failures++
			wait := backoff(failures)
			a.log.Warn("vault did not take a request; files stay as they are", "error", err, "retry_in", wait)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(wait):
			}
		default:
			return err
		}
	}
}

// schedule sets a timer, or stops it where there is nothing to wait for.
func schedule(t *time.Timer, in time.Duration) {
	t.Stop()
	if in > 0 {
		t.Reset(in)
	}
}

// runOnce reads and applies the bundle if need be, reports if need be, and waits for the next thing to do.
func (a *Agent) runOnce(ctx context.Context) error {
	if a.stale {
		if err := a.refresh(ctx); err != nil {
			return err
		}
	}
	if a.dirty {
		if err := a.report(ctx); err != nil || a.stale {
			return err
		}
	}
	a.jobs.want(a.bundle) // only after the bundle that asks for it is loaded and reported
	return a.wait(ctx)
}

// refresh reads the bundle and applies it.
func (a *Agent) refresh(ctx context.Context) error {
	bundle, err := a.engine.Creds(ctx, a.config.Workload, a.config.Instance)
	if err != nil {
		return err
	}
	schedule(a.leaseAge, share(bundle.LeaseDuration))
	a.stale, a.dirty = false, true
	for _, w := range bundle.Warnings {
		a.log.Warn("vault warns", "warning", w)
	}
	same := a.have && sameContent(a.bundle, bundle)
	a.bundle, a.have = bundle, true
	a.apply(ctx, same)
	return nil
}

// report tells the engine what is loaded and how the workload is.
func (a *Agent) report(ctx context.Context) error {
	etag, err := a.engine.Report(ctx, client.Report{
		Workload: a.config.Workload, Instance: a.bundle.Instance, Secret: a.bundle.Secret,
		Etag: a.loaded, Healthy: a.healthy, Reason: a.reason, Work: a.jobs.reports(),
	})
	if err != nil {
		return err
	}
	a.dirty = false
	a.stale = etag != a.bundle.Etag
	return nil
}

// wait waits for whatever comes first: another bundle, a verdict on the workload, news of work, a lease to renew.
func (a *Agent) wait(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type watched struct {
		changed bool
		err     error
	}
	watch := make(chan watched, 1)
	go func() {
		changed, err := a.engine.Watch(ctx, a.config.Workload, a.bundle.Instance, a.bundle.Etag, watchFor)
		watch <- watched{changed, err}
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case w := <-watch:
			a.stale = a.stale || w.changed
			return w.err
		case c := <-a.checks:
			if a.judge(c) {
				return nil
			}
		case <-a.jobs.news:
			a.dirty = true
			return nil
		case <-a.retry.C:
			a.stale = true
			return nil
		case <-a.leaseAge.C:
			return a.renewLease(ctx)
		case <-a.tokenAge.C:
			in, err := renewToken(ctx, a.vault)
			schedule(a.tokenAge, in)
			return err
		}
	}
}

func (a *Agent) renewLease(ctx context.Context) error {
	lasts, err := a.engine.Renew(ctx, a.bundle.LeaseID)
	if err != nil {
		// Refused, or lost: the way on is the same. Vault's answer to a refusal is not always a 4xx.
		a.log.Info("lease not renewed; reading the bundle again", "error", err)
		a.stale = true
		return nil
	}
	schedule(a.leaseAge, share(lasts))
	a.dirty = true // a sign of life
	return nil
}

// leave gives the lease back, so that the instance does not count as live any more. The files stay.
func (a *Agent) leave() {
	if !a.have {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	if err := a.engine.Revoke(ctx, a.bundle.LeaseID); err != nil {
		a.log.Warn("lease not given back; the instance counts as live until it ends", "error", err)
	}
}

// mask hides every value of the bundle in a text.
func (a *Agent) mask(text string) string {
	hide := func(v key.Value) {
		if v.Len() > 0 {
			text = strings.ReplaceAll(text, v.Reveal(), "[redacted]")
		}
	}
	for _, v := range a.bundle.Values {
		hide(v)
	}
	for _, list := range a.bundle.Accepts {
		for _, v := range list {
			hide(v)
		}
	}
	return text
}
