// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// restarts reports whether the sidecar restarts the workload for a change.
func (a *Agent) restarts() bool {
	return a.config.Exec != nil && a.config.Supervise.OnChange == config.OnChangeRestart
}

// reload makes the workload load the files, unless it was started after they were written and has read them.
func (a *Agent) reload(ctx context.Context) machine.Event {
	s, ok := a.config.Reloader.(reload.Starter)
	started := ok && s.StartedSince(a.written)
	if !started {
		end, begun := a.holdLease(ctx), time.Now()
		if a.restarts() && !a.config.Supervise.Overlap {
			a.proxies.pause(ctx)
		}
		err := a.config.Reloader.Reload(ctx)
		end()
		reloaded(a.board, begun, err, a.mask)
		switch {
		case errors.Is(err, reload.ErrNotRunning):
			return machine.Event{Kind: machine.NotRunning, Reason: a.mask(err.Error())}
		case err != nil && ctx.Err() != nil:
			return machine.Event{Kind: machine.ReloadFailed}
		case err != nil:
			e := a.fault("workload not reloaded", err)
			e.Kind = machine.ReloadFailed
			return e
		}
	}
	a.log.Info("workload has been told to reload", "etag", a.applied.Etag, "started_since", started)
	if started || a.restarts() {
		a.proxies.restarted() // it has the newest values
	}
	return machine.Event{Kind: machine.Reloaded}
}

// clearNotes removes the notes of the reload that was pending.
func (a *Agent) clearNotes() {
	for _, t := range a.config.Targets {
		if err := t.End(); err != nil {
			a.log.Warn("the note of an owed reload stays; the next start makes one more", "error", err)
		}
	}
}

// check checks the workload. One without checks counts as healthy once it has reloaded.
func (a *Agent) check(ctx context.Context) machine.Event {
	if a.config.Checker == nil {
		return machine.Event{Kind: machine.CheckPassed}
	}
	etag := a.applied.Etag
	if p, ok := a.config.Reloader.(reload.Provider); ok {
		etag = p.Etag()
	}
	err := a.config.Checker.Check(ctx, etag)
	switch {
	case err == nil:
		return machine.Event{Kind: machine.CheckPassed}
	case health.Proven(err):
		return machine.Event{Kind: machine.CheckDisproved, Reason: a.mask(err.Error())}
	}
	return machine.Event{Kind: machine.CheckFailed, Reason: a.mask(err.Error())}
}
