// SPDX-License-Identifier: Apache-2.0

// Package agent is the sidecar beside one instance of a workload: it renders what the instance should hold, makes the
// workload take it up, checks that it is well, and reports that; again and again. It never touches the workload because
// Vault is away: the last good files stay.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reencrypt"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// Reencryptor does the re-encryption that the engine asks for; *reencrypt.Worker is one.
type Reencryptor interface {
	Do(ctx context.Context, work workload.Work, accepts map[string][]key.Value) (workload.WorkReport, error)
}

var _ Reencryptor = (*reencrypt.Worker)(nil)

const (
	watchFor     = 5 * time.Second // one blocking watch; the engine allows no longer one
	backoffFirst = 200 * time.Millisecond
	backoffMost  = 15 * time.Second
	leaveTime    = 3 * time.Second // to say goodbye at the end
)

// Agent is the loop and what it knows. Its fields belong to the goroutine of Run.
type Agent struct {
	config Config
	log    *slog.Logger
	vault  *login.Connection
	method *login.Method
	engine *client.Client

	bundle client.Bundle // last read
	before client.Bundle // read before it, with other content
	have   bool          // whether there is one
	waits  bool          // it was said that the workload waits for one
	stale  bool          // the bundle must be read again
	futile int           // reads in a row that gave nothing new
	rivals int           // watches in a row that somebody else has ended
	asksAt time.Time     // no watch begins before it
	ending bool          // the lease is to be extended soon
	dirty  bool          // there is something to report

	applied     client.Bundle // what the files hold
	rendered    string        // its etag; empty while files are not as they should be
	owed        bool          // the workload has yet to reload
	written     time.Duration // when files last changed, as reload.Uptime
	placesKnown bool          // whether directories on a disk were warned of
	absent      []string      // names of keys that the configuration asks for and the bundle lacked
	proveBy     time.Time     // until then an unwell workload is one that is still at it
	good        int           // checks in a row
	bad         int           // failed ones in a row
	faults      int           // of rendering and reloading, in a row
	loaded      string        // etag of the bundle that the workload is known to have loaded
	judged      bool          // there was a verdict since the start; until then nothing is reported: to say that a workload which starts is ill would fail a rotation
	healthy     bool
	reason      string // why not

	jobs      *jobs
	proxies   proxies
	board     *status.Board
	memory    proc.MemoryKeeper
	next      chan change // of the configuration
	copies    copies
	proof     proof
	token     login.Token
	tokenAge  *time.Timer
	leaseAge  *time.Timer
	retry     *time.Timer // after a fault
	nextCheck *time.Timer
	nextSight *time.Timer // look at what the proxies have seen
	nextLook  *time.Timer // at destinations
}

// New makes an agent of a checked configuration with a vault block.
func New(c Config, log *slog.Logger) (*Agent, error) {
	v, err := connect(*c.Vault)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		log: log, next: make(chan change, 1),
		tokenAge: stopped(), leaseAge: stopped(), retry: stopped(), nextCheck: stopped(), nextSight: stopped(), nextLook: stopped(),
	}
	a.take(change{c, v})
	if a.proxies = newProxies(c.Listeners, log); len(a.proxies.all) > 0 {
		a.nextSight.Reset(sightingRate)
	}
	proxies := a.proxies
	a.board = newBoard(c, func(s *status.State) { s.Sightings, _ = proxies.sightings() })
	a.sayInClear()
	return a, nil
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// reencryptor makes the worker of the reencrypt block; nil without one. The worker is the same, and knows what it has
// derived, for as long as the database's URL is.
func (a *Agent) reencryptor() func(values map[string]key.Value) (Reencryptor, error) {
	block := a.config.Reencrypt
	if block == nil {
		return nil
	}
	var worker *reencrypt.Worker
	own, said := a.config.Warnings, "" // the loop may go over to another configuration meanwhile
	var at key.Value
	return func(values map[string]key.Value) (Reencryptor, error) {
		url, err := databaseURL(*block, values)
		if err != nil || worker != nil && url.Equal(at) {
			return worker, err
		}
		said = databaseInClear(url.Reveal(), said, own, a.board, a.log)
		at, worker = url, reencrypt.NewWorker(url.Reveal(), reencrypt.Options{
			BatchSize: block.BatchSize, SaltPerRow: block.SaltPerRow, RowsPerSecond: block.RowsPerSecond, MaxLoad: a.config.MaxLoad,
			AllowTriggers: block.AllowTriggers, AllowSuperuser: block.AllowSuperuser, TouchColumn: block.TouchColumn, Progress: a.jobs.progress,
			Flipped: func(rows int64, took time.Duration) {
				a.log.Info("staged rows are in place", "rows", rows, "took", took)
			},
			BadRow: func(c key.Column, id string) {
				a.log.Error("row opens under no key of the bundle; mend or delete it", "column", c.String(), "id", id)
			},
		})
		return worker, nil
	}
}

// Run serves until ctx ends, then gives the instance up. Trouble with Vault is waited out.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.tidy(); err != nil {
		return err
	}
	a.memory = proc.KeepMemorySmall(a.keepsMemory)
	defer a.memory.Stop()
	ctx, cancel := a.awaited(ctx)
	defer cancel(nil)
	end, err := serveStatus(ctx, a.config, a.board, a.log)
	if err != nil {
		return err
	}
	defer end()
	wait, err := a.proxies.start(ctx, a.log)
	if err != nil {
		return err
	}
	defer wait()
	defer a.leave()
	defer func() { a.jobs.stop() }() // those of the configuration of then
	a.copies.begun = time.Now()
	a.loadSecret()
	for failures := 0; ctx.Err() == nil; {
		begun := time.Now()
		err := a.session(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(begun) > backoffMost {
			failures = 0
		}
		if errors.Is(err, errReconfigured) {
			failures = 0
			continue
		}
		failures++
		wait := max(backoff(failures), a.vault.Wait())
		a.vaultIs(err)
		a.log.Warn("vault session ended; files stay as they are", "error", err, "retry_in", wait)
		if a.endure(ctx, err, wait) {
			failures = 0
		}
	}
	return abandoned(ctx)
}

func (a *Agent) keepsMemory(err error) {
	a.log.Debug("memory is not given back to the system", "error", err)
}

// tidy removes what an earlier run has left half-done beside the files, and takes up the reload that it owed.
func (a *Agent) tidy() error {
	for _, t := range a.config.Targets {
		if err := t.Clean(); err != nil {
			return err
		}
		if a.config.Reloader != nil && a.debtor() == nil && !a.owed && t.Owed() {
			a.owed, a.written = true, math.MaxInt64
		}
	}
	return nil
}

// sayNotStarted says, once, what trouble means for a workload that gets its environment here.
func (a *Agent) sayNotStarted() {
	if _, ok := a.config.Reloader.(reload.Provider); ok && !a.have && !a.copies.used && !a.waits {
		a.waits = true
		a.log.Warn("workload is not started: it waits for its first bundle")
	}
}

// backoff grows exponentially to a cap, with jitter, so that sidecars do not come back all at once.
func backoff(failures int) time.Duration {
	return jittered(min(backoffFirst<<min(failures-1, 10), backoffMost))
}

// jittered is between half of a time and all of it.
func jittered(most time.Duration) time.Duration {
	return most/2 + rand.N(most/2) //nolint:gosec // spreading, not secrecy
}

// session logs in and serves until something is wrong with Vault.
func (a *Agent) session(ctx context.Context) error {
	token, err := a.method.Login(ctx, a.vault)
	if err != nil {
		return err
	}
	a.token, a.proof.readOnly = token, false
	a.vaultIs(nil)
	a.log.Info("logged in to vault", "method", a.config.Vault.Auth.Method)
	schedule(a.tokenAge, share(token.TTL))
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
			wait := max(backoff(failures), a.vault.Wait())
			a.vaultIs(err)
			a.log.Warn("vault did not take a request; files stay as they are", "error", err, "retry_in", wait)
			if a.endure(ctx, err, wait) {
				return errReconfigured
			}
			if ctx.Err() != nil {
				return ctx.Err()
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
	defer a.publish()
	if a.stale {
		if err := a.refresh(ctx); err != nil {
			return err
		}
	}
	if !a.judged {
		return a.wait(ctx)
	}
	if a.dirty {
		if err := a.report(ctx); err != nil || a.stale {
			return err
		}
	}
	a.jobs.want(a.bundle) // only after the bundle that asks for it is loaded and reported
	return a.wait(ctx)
}

// refresh reads the bundle and applies it. Reads that give nothing new, one after the other, are slowed down.
func (a *Agent) refresh(ctx context.Context) error {
	if a.futile > 1 && !sleep(ctx, backoff(a.futile-1)) {
		return ctx.Err()
	}
	bundle, err := a.read(ctx)
	if err != nil {
		return err
	}
	a.keepSecret(bundle.Secret)
	a.vaultIs(nil)
	a.copies.confirmed = time.Now()
	a.futile++
	if !a.have || bundle.Etag != a.bundle.Etag {
		a.futile = 0
	}
	schedule(a.leaseAge, share(bundle.LeaseDuration))
	a.stale, a.dirty, a.ending = false, true, false
	for _, w := range bundle.Warnings {
		a.log.Warn("vault warns", "warning", w)
	}
	if !sameContent(a.bundle, bundle) {
		a.before = a.bundle
	}
	if a.copies.used && !a.have {
		a.log.Info("vault is back; the last-good copy has served", "etag", bundle.Etag)
	}
	a.bundle, a.have = bundle, true
	a.apply(ctx)
	a.keepSecretAgain()
	a.publish()
	return nil
}

// sleep tells whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// report tells the engine what is loaded and how the workload is.
func (a *Agent) report(ctx context.Context) error {
	work := a.jobs.reports()
	for i := range work {
		work[i].Error = a.mask(work[i].Error)
	}
	seen, newest := a.proxies.sightings()
	answer, err := a.engine.Report(ctx, client.Report{
		Workload: a.config.Workload, Instance: a.bundle.Instance, Secret: a.bundle.Secret,
		Etag: a.loaded, Healthy: a.healthy, Reason: a.reason, Last: a.proof.last, Work: work, Sightings: seen,
	})
	if err != nil {
		return err
	}
	a.dirty, a.proxies.told = false, newest
	a.extended(answer)
	a.memory.Busy()
	a.vaultIs(nil)
	a.board.Update(func(s *status.State) { s.Reported = time.Now() })
	return nil
}

// wait waits for whatever comes first: another bundle, a verdict on the workload, news of work, a lease to renew.
func (a *Agent) wait(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type watched struct {
		api.Watched
		err error
	}
	watch := make(chan watched, 1)
	engine, name, b := a.engine, a.config.Workload, a.bundle // they may become others before the request has ended
	until := time.Until(a.asksAt)
	go func() {
		if !sleep(ctx, until) {
			return
		}
		w, err := engine.Watch(ctx, name, b.Instance, b.Etag, watchFor)
		watch <- watched{w, err}
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c := <-a.next:
			a.adopt(c)
			return errReconfigured
		case w := <-watch:
			a.stale = a.stale || w.Changed
			a.asksAt = time.Now().Add(pauseOf(w.RetryAfter))
			if w.Superseded {
				a.namesake(ctx)
			} else if w.err == nil && !w.Changed {
				a.futile, a.rivals = 0, 0
			}
			return w.err
		case <-a.nextCheck.C:
			a.judge(ctx)
			if a.publish(); a.dirty && a.judged {
				return nil
			}
		case <-a.nextSight.C:
			a.nextSight.Reset(sightingRate)
			if _, newest := a.proxies.sightings(); newest.After(a.proxies.told) {
				a.dirty = true
				return nil
			}
		case <-a.jobs.news:
			a.dirty = true
			return nil
		case <-a.retry.C:
			a.again(ctx)
			return nil
		case <-a.nextLook.C:
			a.lookAfter(ctx)
			return nil
		case <-a.leaseAge.C:
			return a.renewLease(ctx)
		case <-a.tokenAge.C:
			return a.renewToken(ctx)
		}
	}
}

// pauseOf is how long to wait before the next watch where the engine asks for so many seconds.
func pauseOf(seconds api.Seconds) time.Duration {
	if seconds <= 0 {
		return 0
	}
	return jittered(min(seconds, api.SecondsOf(backoffMost)).Duration())
}

// namesake slows down after somebody else has watched as this instance: each would end the other's watch for ever.
func (a *Agent) namesake(ctx context.Context) {
	if a.rivals++; a.rivals == 2 { // once happens after a connection was lost
		a.log.Warn("another process watches as the same instance; give each its own instance", "instance", a.bundle.Instance)
	}
	sleep(ctx, backoff(a.rivals))
}

// leave says goodbye, so that the instance does not count as live any more. The files stay.
func (a *Agent) leave() {
	if !a.have {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	if a.lastWord(ctx) {
		return
	}
	if err := a.engine.Leave(ctx, a.config.Workload, a.bundle.Instance, a.bundle.Secret); err != nil {
		a.log.Warn("engine not told that the instance has ended; it counts as live until its lease ends", "error", err)
		return
	}
	a.dropSecret()
}

// lastWord reports a workload that has failed before it had proved itself. Its lease stays then: an instance that is gone
// holds no rotation up, and the new values may be what it fails of. Its next start takes its place; else the lease ends.
func (a *Agent) lastWord(ctx context.Context) bool {
	p, ok := a.config.Reloader.(reload.Provider)
	if !ok || a.loaded != "" && a.healthy || p.Failed() == "" {
		return false
	}
	a.healthy, a.reason, a.proof.last = false, p.Failed(), true
	a.log.Error("workload failed before it had proved itself; the instance counts until it is started again", "error", a.reason)
	if err := a.report(ctx); err != nil {
		a.log.Warn("failure not reported", "error", err)
	}
	return true
}
