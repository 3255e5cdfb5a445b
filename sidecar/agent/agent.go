// SPDX-License-Identifier: Apache-2.0

// Package agent is the sidecar beside one instance of a workload: it renders what the instance should hold, makes the
// workload take it up, checks that it is well, and reports that; again and again. It never touches the workload because
// Vault is away: the last good files stay.
package agent

import (
	"context"
	"log/slog"
	"math"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/kubernetes"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reencrypt"
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

// Agent performs what [machine.Next] decides. Its fields belong to the goroutine of Run.
type Agent struct {
	config Config
	log    *slog.Logger
	vault  *login.Connection
	method *login.Method
	engine *client.Client

	began time.Time     // of Run; moments of the machine count from it
	state machine.State // what is known; the fields below hold values and open things only

	bundle   client.Bundle // the newest; what state.Held names
	before   client.Bundle // the one before, with other content
	applied  client.Bundle // what the files hold; what state.Filed names
	contents int           // how many contents were numbered
	secret   key.Value     // of the newest read of this process or of the one before: it proves that the sidecar is its instance
	token    login.Token
	problem  error         // of the last request that failed
	written  time.Duration // when files last changed, as reload.Uptime
	onDisk   []string      // directories on a disk that were warned of
	absent   []string      // names of keys that the configuration asks for and the bundle lacked

	prepared *render.Change    // files that stand beside their places
	plans    []kubernetes.Plan // what destinations are to hold
	watching *watching         // nil: no watch is open
	next     chan change       // of the configuration
	coming   change            // to be adopted

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
	a.take(change{c, v})
	a.proxies = newProxies(c.Listeners, log)
	proxies := a.proxies
	a.board = newBoard(c, func(s *status.State) { s.Sightings, _ = proxies.sightings() })
	a.sayInClear()
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
	pending, err := a.tidy()
	if err != nil {
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
	defer func() { a.jobs.stop() }() // those of the configuration of then
	a.loadSecret()
	a.loop(ctx, machine.Start(a.settings(), pending, a.moment()))
	return abandoned(ctx)
}

func (a *Agent) keepsMemory(err error) {
	a.log.Debug("memory is not given back to the system", "error", err)
}

// tidy removes what an earlier run has left half-done beside the files, and reports whether it has left a reload pending.
func (a *Agent) tidy() (machine.Reload, error) {
	pending := machine.NoReload
	for _, t := range a.config.Targets {
		if err := t.Clean(); err != nil {
			return pending, err
		}
		if a.config.Reloader != nil && a.debtor() == nil && t.ReloadPending() {
			pending = machine.ReloadPending
		}
	}
	if pending == machine.ReloadPending && a.state.Reload != machine.ReloadPending && a.state.Reload != machine.ReloadFaulty {
		a.written = math.MaxInt64
	}
	return pending, nil
}

// settings are what the machine knows of the configuration.
func (a *Agent) settings() machine.Settings {
	s := machine.Settings{
		Reloads: machine.WithoutReload, Checks: machine.WithoutChecks, Copies: machine.WithoutCopy, Patience: a.config.Patience,
		Interval: a.config.Interval, Deadline: a.config.Deadline, Successes: a.config.Successes, Failures: a.config.Failures,
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
