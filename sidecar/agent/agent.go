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
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/kubernetes"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reencrypt"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// Reencryptor does the re-encryption that the engine asks for; *reencrypt.Worker is one.
type Reencryptor interface {
	Do(ctx context.Context, work workload.Work, accepts map[string][]key.Value) (workload.WorkReport, error)
}

var _ Reencryptor = (*reencrypt.Worker)(nil)

const (
	watchFor  = 5 * time.Second // one blocking watch; the engine allows no longer one
	leaveTime = 3 * time.Second // to say goodbye at the end
)

// Agent performs what [machine.Next] decides. Its fields belong to the goroutine of Run; requests run beside it.
type Agent struct {
	config Config
	log    *slog.Logger
	vault  *login.Connection
	method *login.Method
	engine *client.Client

	began time.Time     // of Run; moments of the machine count from it
	state machine.State // what is known; the fields below hold values and open things only

	bundle   client.Bundle // the newest; what state.Held names
	applied  client.Bundle // what the files hold; what state.Filed names
	contents int           // how many contents were numbered
	secret   key.Value     // of the newest read of this process or of the one before: it proves that the sidecar is its instance
	token    login.Token
	problem  error           // of the last request that failed
	conflict string          // that another process uses the instance's name, in the engine's words; empty: nothing shows that
	barred   bool            // the last login of this configuration has failed
	written  time.Duration   // when files last changed, as reload.Uptime
	extended time.Time       // when the last request began that has extended the lease
	onDisk   []string        // directories on a disk that were warned of
	notes    map[string]bool // paths of notes of pending reloads that this process has made or found
	found    bool            // a note of another process was found, for which the workload was not reloaded yet
	absent   []string        // names of keys that the configuration asks for and the bundle lacked

	untidy   []render.Target   // of the configuration: temporary files of an earlier run may be there
	prepared *render.Change    // files that stand beside their places
	plans    []kubernetes.Plan // what destinations are to hold
	watching *watching         // nil: no watch is open
	sent     *sent             // nil: no request is under way
	next     chan change       // of the configuration
	coming   change            // to be adopted
	arrival  arrival           // of the instance that it names
	formers  []*former
	process  proc.Identity    // of the workload, as far as it was seen; zero: it was not
	holds    bool             // the process ends, its workload may run on, and leases are not given back
	proved   bool             // the workload has proved itself in the life of this process
	notTaken *status.NotTaken // what this goroutine has put on the board, of a configuration that was read as another instance
	instance atomic.Value     // of the configuration, for the goroutine that reads the next one

	hidden  valueMask
	jobs    *jobs
	proxies proxies
	board   *status.Board
	memory  proc.MemoryKeeper
	copies  copies
}

// New makes an agent of a checked configuration with a vault block.
func New(c Config, log *slog.Logger) (*Agent, error) {
	v, err := connect(*c.Vault)
	if err != nil {
		return nil, err
	}
	a := &Agent{log: log, next: make(chan change, 1), began: time.Now()}
	a.take(change{config: c, vault: v})
	a.proxies = newProxies(c.Listeners, log)
	proxies := a.proxies
	a.board = newBoard(c, proxies.show)
	a.sayInClear()
	a.sayRisks()
	return a, nil
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
	pending := a.tidy()
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
	defer func() { a.jobs.stop() }() // those of the configuration of then
	a.loadSecret()
	defer a.sayBlindEnd()()
	a.loop(ctx, machine.Start(a.settings(), pending, a.moment()))
	return abandoned(ctx)
}

func (a *Agent) keepsMemory(err error) {
	a.log.Debug("memory is not given back to the system", "error", err)
}

// tidy removes what an earlier run has left half-done beside the files, and reports whether it has left a reload pending.
// What cannot be removed is in nobody's way: the workload does not read it.
func (a *Agent) tidy() machine.Reload {
	pending := machine.NoReload
	a.untidy = a.config.Targets
	a.clean()
	for _, t := range a.config.Targets {
		if a.config.Reloader != nil && a.pendingReloader() == nil && t.ReloadPending() {
			pending = machine.ReloadPending
		}
	}
	if pending == machine.ReloadPending && a.state.Reload != machine.ReloadPending && a.state.Reload != machine.ReloadFaulty {
		a.written = math.MaxInt64
	}
	return pending
}

// clean removes temporary files of an earlier run. It tries directories that cannot be opened again when files are prepared.
func (a *Agent) clean() {
	var late []render.Target
	for _, t := range a.untidy {
		switch err := t.Clean(); {
		case errors.Is(err, render.ErrNoDirectory):
			late = append(late, t)
		case err != nil:
			a.log.Warn("a temporary file of an earlier run stays, perhaps with secrets in it; remove it", "error", err)
		}
	}
	a.untidy = late
}

// settings are what the machine knows of the configuration.
func (a *Agent) settings() machine.Settings {
	s := machine.Settings{
		Reloads: machine.WithoutReload, Checks: machine.WithoutChecks, Copies: machine.WithoutCopy, OnStop: machine.HoldOnStop, Patience: a.config.Patience,
		Interval: a.config.Interval, Deadline: a.config.Deadline, Successes: a.config.Successes, Failures: a.config.Failures,
	}
	if a.config.OnStop == config.OnStopLeave {
		s.OnStop = machine.LeaveOnStop
	}
	if a.config.Reloader != nil {
		s.Reloads = machine.WithReload
	}
	if a.config.Checker != nil {
		s.Checks = machine.WithChecks
	}
	if a.config.LastGood != nil {
		s.Copies = machine.WithCopy
	}
	if len(a.config.Destinations) > 0 {
		s.LookEvery = a.config.LookEvery
	}
	return s
}

// moment is the present on the machine's clock, which no change of the time of day moves.
func (a *Agent) moment() machine.Moment { return time.Since(a.began) }

// loop performs what the machine decides until its life has ended.
func (a *Agent) loop(ctx context.Context, begin machine.State) {
	sightings := a.proxies.ticker()
	defer sightings.Stop()
	var effects []machine.Effect
	a.state, effects = machine.Begin(begin, a.moment())
	for {
		event, ok := machine.Perform(effects, func(e machine.Effect) (machine.Event, bool) { return a.perform(ctx, e) })
		if a.state.Life == machine.Ended {
			break
		}
		if !ok {
			event = a.wait(ctx, sightings)
		}
		event.At, event.Draw = a.moment(), rand.Float64() //nolint:gosec // spreading, not secrecy
		a.state, effects = machine.Next(a.state, event)
		a.proved = a.proved || a.state.Loaded != ""
		a.publish()
	}
	a.closeWatch()
	a.cancelRequest()
	a.leaveArrival()
	a.leaveFormers()
}

// perform performs an effect, or starts a request. What fails once ctx has ended has no other meaning than that, and nothing that
// has a result is begun then but what ends the instance.
func (a *Agent) perform(ctx context.Context, effect machine.Effect) (machine.Event, bool) {
	if do := does[effect.Do]; do != nil {
		do(a)
		return machine.Event{}, false
	}
	if say := says[effect.Do]; say != nil {
		say(a, effect)
		return machine.Event{}, false
	}
	if last := lasts[effect.Do]; last != nil {
		return last(a), true
	}
	if ctx.Err() != nil {
		return a.stops(), true
	}
	if requests[effect.Do] != nil {
		a.send(ctx, effect.Do)
		return machine.Event{}, false
	}
	hold := a.holdLease(ctx, effect.Do)
	event, has := acts[effect.Do](a, ctx)
	a.endHold(hold)
	if has && event.Kind.Failed() && ctx.Err() != nil {
		return a.stops(), true
	}
	event.Of = effect.Do
	return event, has
}

// wait waits for what comes first: the end, another configuration, the result of the request or of the watch, news of work, a
// sighting, a timer. A result that is there comes before all else: another configuration would cancel the request.
func (a *Agent) wait(ctx context.Context, sightings *time.Ticker) machine.Event {
	select {
	case result := <-a.sent.result():
		return a.answered(ctx, result)
	default:
	}
	at, due := a.state.Timers.First()
	timer := time.NewTimer(at - min(at, a.moment()))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return a.stops()
		case result := <-a.sent.result():
			return a.answered(ctx, result)
		case c := <-a.next:
			if a.readsFor(c) {
				continue
			}
			if identityOf(c.config) == identityOf(a.config) {
				a.coming = c
				return machine.Event{Kind: machine.Reconfigured}
			}
			c.inherit(a.coming)
			a.coming = c
			return machine.Event{Kind: machine.Renamed}
		case w := <-a.watching.result():
			return a.watched(w)
		case <-sightings.C:
			if a.proxies.news() != a.proxies.told {
				return machine.Event{Kind: machine.Sighted}
			}
		case <-a.jobs.news:
			return machine.Event{Kind: machine.WorkNews}
		case <-timer.C:
			return machine.Event{Kind: due}
		}
	}
}

// acts are effects that may have a result.
var acts = map[machine.Do]func(*Agent, context.Context) (machine.Event, bool){
	machine.SaveSecret:     result((*Agent).saveSecret),
	machine.LoadCopy:       result((*Agent).loadCopy),
	machine.BeginGates:     (*Agent).beginGates,
	machine.KeepCopy:       (*Agent).keepCopy,
	machine.FeedProxies:    (*Agent).feedProxies,
	machine.PrepareFiles:   (*Agent).prepareFiles,
	machine.NoteReload:     (*Agent).noteReload,
	machine.Write:          result((*Agent).write),
	machine.ReloadWorkload: result((*Agent).reload),
	machine.CheckWorkload:  result((*Agent).check),
	machine.LookAtTargets:  result((*Agent).lookAtTargets),
	machine.LookAtPods:     result((*Agent).lookAtPods),
}

// lasts are effects with a result that are performed also when the process ends.
var lasts = map[machine.Do]func(*Agent) machine.Event{
	machine.Leave:         (*Agent).leave,
	machine.ReportLeaving: (*Agent).reportLeaving,
	machine.ReportFailure: (*Agent).reportFailure,
	machine.Adopt:         (*Agent).adopt,
}

// result makes an effect of what always has a result.
func result(do func(*Agent, context.Context) machine.Event) func(*Agent, context.Context) (machine.Event, bool) {
	return func(a *Agent, ctx context.Context) (machine.Event, bool) { return do(a, ctx), true }
}

var errTokenEnds = errors.New("the token ends soon; logging in again")

// does are effects without a result.
var does = map[machine.Do]func(*Agent){
	machine.StartWatch:    (*Agent).openWatch,
	machine.CloseWatch:    (*Agent).closeWatch,
	machine.CancelRequest: (*Agent).cancelRequest,
	machine.ClearNotes:    (*Agent).clearNotes,
	machine.ConfirmCopy:   (*Agent).confirmCopy,
	machine.DropSecret:    (*Agent).dropSecret,
	machine.LeaveFormer:   (*Agent).leaveFormers,
	machine.StartWork:     func(a *Agent) { a.jobs.want(a.bundle) },
	machine.ResumeProxies: func(a *Agent) { a.proxies.resume() },
}

// says are effects that write to the log, and to the board where they are about Vault.
var says = map[machine.Do]func(*Agent, machine.Effect){
	machine.SaySessionEnded: func(a *Agent, e machine.Effect) { a.saySessionEnded(a.problem, e.Wait) },
	machine.SayTokenEnds:    func(a *Agent, e machine.Effect) { a.saySessionEnded(errTokenEnds, e.Wait) },
	machine.SayRequest: func(a *Agent, e machine.Effect) {
		a.vaultIs(a.problem)
		a.log.Warn("vault did not take a request; files stay as they are", "error", a.problem, "retry_in", e.Wait)
	},
	machine.SayNewLater: func(a *Agent, e machine.Effect) {
		a.log.Warn("configuration of another instance not taken yet; the one before stays until Vault is available", "error", a.problem, "retry_in", e.Wait)
	},
	machine.SayToken:   func(a *Agent, _ machine.Effect) { a.log.Warn("token not renewed", "error", a.problem) },
	machine.SayWaiting: (*Agent).sayNotStarted,
	machine.SayBack: func(a *Agent, _ machine.Effect) {
		a.log.Info("vault is back; the last-good copy has served", "etag", a.bundle.Etag)
	},
	machine.SayNoWrite: func(a *Agent, _ machine.Effect) {
		a.log.Warn("vault lets this sidecar read its bundle, and not write its secret there; after another login it may have to wait until its name is free. Add \"update\" to the capabilities of creds in its policy", "path", a.config.Vault.Mount+"/creds/"+a.config.Workload)
	},
	machine.SaySecretLost: func(a *Agent, _ machine.Effect) {
		a.log.Warn("the instance's secret is not kept; should this process be killed, the next one may have to wait until the name is free", "error", a.problem)
	},
	machine.SayRivals: func(a *Agent, _ machine.Effect) {
		a.log.Warn("another process watches as the same instance; give each its own instance", "instance", a.bundle.Instance)
	},
	machine.SayHealthy: func(a *Agent, _ machine.Effect) { a.log.Info("workload is healthy", "etag", a.applied.Etag) },
	machine.SayUnhealthy: func(a *Agent, e machine.Effect) {
		a.log.Warn("workload is not healthy", "error", e.Reason)
	},
	machine.SayCheck: func(a *Agent, e machine.Effect) {
		a.log.Info("a check of the workload failed", "error", e.Reason, "failures", a.state.Bad, "of", a.config.Failures)
	},
}

func (a *Agent) saySessionEnded(err error, wait time.Duration) {
	a.vaultIs(err)
	if why := (trouble{}); errors.As(err, &why) && why.login {
		a.log.Warn("not logged in to vault; files stay as they are", "error", err, "retry_in", wait)
		return
	}
	a.log.Warn("vault session ended; files stay as they are", "error", err, "retry_in", wait)
}

// sayNotStarted says what trouble means for a workload that gets its environment here.
func (a *Agent) sayNotStarted(machine.Effect) {
	if _, ok := a.config.Reloader.(reload.Provider); ok {
		a.log.Warn("workload is not started: it waits for its first bundle")
	}
}
