// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// sameContent reports whether two bundles hold the same; work and the secrets of the read do not count.
func sameContent(a, b client.Bundle) bool {
	equal := func(x, y key.Value) bool { return x.Equal(y) }
	return maps.EqualFunc(a.Values, b.Values, equal) &&
		maps.EqualFunc(a.Accepts, b.Accepts, func(x, y []key.Value) bool { return slices.EqualFunc(x, y, equal) }) &&
		maps.Equal(a.Versions, b.Versions)
}

// notWritten is the event of files that are not written, perhaps in part. What failed is done again after a while, which grows.
func (a *Agent) notWritten(err error, change wrote) (machine.Event, bool) {
	a.discard()
	e := a.fault("bundle not rendered", a.hidden.maskError(err))
	e.Kind, e.Reload = machine.WriteFailed, a.noteWritten(change)
	return e, true
}

// fault is an event with the reason that is reported for it. The error is masked.
func (a *Agent) fault(what string, err error) machine.Event {
	a.log.Error("instance is not healthy", "what", what, "error", err)
	return machine.Event{Reason: what + ": " + err.Error(), RetryAfter: retryAfter(err)}
}

// feedProxies lets the proxies load the bundle before files are written with it.
func (a *Agent) feedProxies(context.Context) (machine.Event, bool) {
	if err := a.proxies.take(a.bundle); err != nil {
		return a.notWritten(err, wrote{})
	}
	return machine.Event{}, false
}

// prepareFiles writes files beside their places and lets the API server try what destinations are to hold, before anything
// changes anywhere.
func (a *Agent) prepareFiles(ctx context.Context) (machine.Event, bool) {
	a.clean()
	var err error
	if a.prepared, err = render.Prepare(a.config.Targets, a.bundle); err == nil {
		a.plans, err = a.plan(ctx, a.bundle)
	}
	if err != nil {
		return a.notWritten(err, wrote{})
	}
	return machine.Event{}, false
}

// noteReload writes beside what is about to change that a reload is pending, unless the reloader knows by itself.
func (a *Agent) noteReload(context.Context) (machine.Event, bool) {
	if a.config.Reloader == nil || a.pendingReloader() != nil {
		return machine.Event{}, false
	}
	for _, path := range a.prepared.Noted() { // the directory may not have been there at the start
		a.found = a.found || !a.notes[path]
	}
	err := a.prepared.Note()
	if a.notes == nil {
		a.notes = map[string]bool{}
	}
	for _, path := range a.prepared.Noted() {
		a.notes[path] = true
	}
	if err != nil {
		return a.notWritten(err, wrote{})
	}
	return machine.Event{}, false
}

// discard removes what was prepared and not put into its place.
func (a *Agent) discard() {
	if a.prepared != nil {
		a.prepared.Discard()
	}
	a.prepared, a.plans = nil, nil
}

// wrote is what a write has changed.
type wrote struct{ anything, reloads bool }

// noteWritten notes when files changed, and returns whether a reload is pending for it.
func (a *Agent) noteWritten(w wrote) machine.Reload {
	if w.anything {
		a.written = reload.Uptime()
		a.board.Update(func(s *status.State) { s.Changed = time.Now() })
	}
	if w.reloads {
		return machine.ReloadPending
	}
	return machine.NoReload
}

// write puts what was prepared into its place.
func (a *Agent) write(ctx context.Context) machine.Event {
	change, err := a.put(ctx)
	if err != nil {
		e, _ := a.notWritten(err, change)
		return e
	}
	a.discard()
	a.applied = a.bundle
	e := machine.Event{Kind: machine.Wrote, Reload: a.noteWritten(change)}
	a.log.Info("bundle rendered", "etag", a.bundle.Etag, "changed", change.anything)
	return e
}

// put writes destinations first: that may fail, and to rename files hardly does.
func (a *Agent) put(ctx context.Context) (w wrote, err error) {
	if w.anything, err = a.writeDestinations(ctx); err != nil {
		return w, err
	}
	changed, err := a.prepared.Commit()
	w.anything = w.anything || changed
	pendingReloader := a.pendingReloader()
	found := a.found
	if a.found = false; found && !w.anything {
		a.written = math.MaxInt64 // when is not known, so that no start of the workload is known to be after it
	}
	if w.reloads = (changed || found) && a.config.Reloader != nil && pendingReloader == nil; err != nil {
		return w, err
	}
	a.sayWhatIsOnDisk()
	a.sayWhatIsAbsent()
	if p, ok := a.config.Reloader.(reload.Provider); ok { // last: what it starts finds its files
		did, err := p.Provide(a.bundle)
		return wrote{w.anything || did, changed || did || found}, err
	}
	if pendingReloader != nil {
		w.reloads, err = pendingReloader.ReloadPending(ctx)
	}
	return w, err
}

// sayWhatIsOnDisk warns once of directories that keep secrets beyond their time.
func (a *Agent) sayWhatIsOnDisk() {
	dirs := render.OnDisk(a.config.Targets)
	for _, dir := range dirs {
		if !slices.Contains(a.onDisk, dir) {
			a.log.Warn("secrets are rendered on a disk, where they may stay when they are long retired; use a directory in memory (tmpfs, an emptyDir with medium Memory)", "directory", dir)
		}
	}
	a.onDisk = dirs
}

// mask hides every value that the workload may use in a text.
func (a *Agent) mask(text string) string { return a.hidden.mask(text) }

// restarts reports whether the sidecar restarts the workload for a change.
func (a *Agent) restarts() bool {
	return a.config.Exec != nil && a.config.Supervise.OnChange == config.OnChangeRestart
}

// reload makes the workload load the files, unless it was started after they were written and has read them.
func (a *Agent) reload(ctx context.Context) machine.Event {
	begun := beginReload(a.config, a.board)
	if a.restarts() && !a.config.Supervise.Overlap {
		a.proxies.pause(ctx)
	}
	started, err := false, error(nil)
	if s, ok := a.config.Reloader.(reload.Starter); ok {
		started, err = s.ReloadUnlessStarted(ctx, a.written)
	} else {
		err = a.config.Reloader.Reload(ctx)
	}
	err = a.hidden.maskError(err)
	if started {
		notReloaded(a.board)
	} else {
		reloaded(a.board, begun, err)
	}
	switch {
	case errors.Is(err, reload.ErrNotRunning):
		return machine.Event{Kind: machine.NotRunning, Reason: err.Error()}
	case err != nil && ctx.Err() != nil:
		return machine.Event{Kind: machine.ReloadFailed}
	case err != nil:
		e := a.fault("workload not reloaded", err)
		e.Kind = machine.ReloadFailed
		return e
	}
	a.log.Info("workload was made to reload", "etag", a.applied.Etag, "started_since", started)
	if started || a.restarts() {
		a.proxies.restarted() // it has the newest values
	}
	return machine.Event{Kind: machine.Reloaded}
}

// moveNotes notes beside all targets of another configuration that a reload is pending, if it is, and removes the notes of targets
// that are no more: the process after this one looks only beside its own.
func (a *Agent) moveNotes(before []render.Target) {
	if a.state.Reload == machine.NoReload || a.config.Reloader == nil || a.pendingReloader() != nil {
		return
	}
	here := map[string]bool{}
	for _, t := range a.config.Targets {
		if err := t.Begin(); err != nil {
			a.log.Warn("it is not noted that a reload is pending; should this process be killed, nobody makes it", "error", err)
			continue
		}
		here[t.Note()] = true
	}
	if len(here) == 0 {
		return
	}
	for _, t := range before {
		if !here[t.Note()] {
			_ = t.End() // one reload too many, should its target come back
		}
	}
	a.notes = here
}

// clearNotes removes the notes of the reload that was pending.
func (a *Agent) clearNotes() {
	stay := false
	for _, t := range a.config.Targets {
		if err := t.End(); err != nil {
			stay = true
			a.log.Warn("the note of a pending reload stays; the next start makes one more", "error", err)
		}
	}
	if !stay {
		a.notes = nil
	}
}

// check checks the workload. One without checks counts as healthy once it has reloaded.
func (a *Agent) check(ctx context.Context) machine.Event {
	passed := machine.Event{Kind: machine.CheckPassed, Proof: a.config.Proof().Most.String()}
	if a.config.Checker == nil {
		return passed
	}
	etag := a.applied.Etag
	if p, ok := a.config.Reloader.(reload.Provider); ok {
		etag = p.Etag()
	}
	err := a.hidden.maskError(a.config.Checker.Check(ctx, etag))
	switch {
	case err == nil:
		return passed
	case health.Proven(err):
		return machine.Event{Kind: machine.CheckDisproved, Reason: err.Error()}
	}
	return machine.Event{Kind: machine.CheckFailed, Reason: err.Error()}
}
