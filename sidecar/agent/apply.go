// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/config"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/health"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/render"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// sameContent tells whether two bundles hold the same; work and the secrets of the read do not count.
func sameContent(a, b client.Bundle) bool {
	equal := func(x, y key.Value) bool { return x.Equal(y) }
	return maps.EqualFunc(a.Values, b.Values, equal) &&
		maps.EqualFunc(a.Accepts, b.Accepts, func(x, y []key.Value) bool { return slices.EqualFunc(x, y, equal) }) &&
		maps.Equal(a.Versions, b.Versions)
}

// apply brings files and workload to the bundle. Where the content is the same as before and loaded, there is nothing
// to do but to say so under the new etag.
func (a *Agent) apply(ctx context.Context) {
	if a.rendered != "" && sameContent(a.applied, a.bundle) {
		if a.loaded != "" {
			a.loaded = a.bundle.Etag
		}
		a.confirmCopy()
		return
	}
	a.beginGates(ctx)
	changed, owes, err := a.render(ctx)
	a.owed = a.owed || owes
	if changed {
		a.written = reload.Uptime()
		a.board.Update(func(s *status.State) { s.Changed = time.Now() })
	}
	if err != nil {
		a.rendered = "" // perhaps in part: nothing is loaded before all of it is
		a.fault("bundle not rendered", err)
		return
	}
	a.applied, a.rendered, a.loaded = a.bundle, a.bundle.Etag, ""
	a.good, a.faults, a.proveBy = 0, 0, time.Now().Add(a.config.Deadline)
	schedule(a.retry, 0)
	a.log.Info("bundle rendered", "etag", a.bundle.Etag, "changed", changed)
	a.prove(ctx)
}

// render writes all files and destinations, none before all are ready to be put in place. Before the first file changes it is
// noted beside each that a reload is owed. Destinations go first: to write them may fail, and to rename files hardly does.
func (a *Agent) render(ctx context.Context) (changed, owes bool, err error) {
	if err := a.keepCopy(); err != nil {
		return false, false, err
	}
	if err := a.proxies.take(a.bundle); err != nil {
		return false, false, err
	}
	change, err := render.Prepare(a.config.Targets, a.bundle)
	if err != nil {
		return false, false, err
	}
	defer change.Discard()
	plans, err := a.plan(ctx, a.bundle)
	if err != nil {
		return false, false, err
	}
	debtor := a.debtor()
	if a.config.Reloader != nil && debtor == nil {
		if err := change.Note(); err != nil {
			return false, false, err
		}
	}
	written, err := a.write(ctx, plans)
	if err != nil {
		return written, false, err
	}
	changed, err = change.Commit()
	if owes = changed && a.config.Reloader != nil && debtor == nil; err != nil {
		return changed || written, owes, err
	}
	a.sayWhatIsOnDisk()
	a.sayWhatIsAbsent()
	if p, ok := a.config.Reloader.(reload.Provider); ok { // last: what it starts finds its files
		did, err := p.Provide(a.bundle)
		return changed || written || did, changed || did, err
	}
	if debtor != nil {
		owes, err = debtor.Owes(ctx)
	}
	return changed || written, owes, err
}

// sayWhatIsOnDisk warns once of directories that keep secrets beyond their time.
func (a *Agent) sayWhatIsOnDisk() {
	if !a.placesKnown {
		a.placesKnown = true
		for _, dir := range render.OnDisk(a.config.Targets) {
			a.log.Warn("secrets are rendered on a disk, where they may stay when they are long retired; use a directory in memory (tmpfs, an emptyDir with medium Memory)", "directory", dir)
		}
	}
}

// fault is reported; what failed is done again after a while, which grows.
func (a *Agent) fault(what string, err error) {
	a.judged, a.healthy, a.reason, a.dirty = true, false, a.mask(what+": "+err.Error()), true
	a.log.Error("instance is not healthy", "what", what, "error", a.mask(err.Error()))
	a.faults++
	schedule(a.retry, max(backoff(a.faults), retryAfter(err)))
}

// again does what failed.
func (a *Agent) again(ctx context.Context) {
	a.dirty = true
	if a.rendered == "" {
		a.apply(ctx)
		return
	}
	a.prove(ctx)
}

// prove gives the workload a short while to prove itself, so that a change is one report. If it takes longer, judge
// goes on, and watching and reporting go on meanwhile.
func (a *Agent) prove(ctx context.Context) {
	const pause, most = 50 * time.Millisecond, 2 * time.Second
	for end := time.Now().Add(min(most, a.config.Deadline)); !a.look(ctx); {
		wait := pause
		if a.good > 0 {
			wait = a.config.Interval
		}
		if time.Now().Add(wait).After(end) || !sleep(ctx, wait) {
			break
		}
	}
	schedule(a.nextCheck, a.untilCheck())
}

// judge looks at the workload once more.
func (a *Agent) judge(ctx context.Context) {
	if a.rendered != "" && a.faults == 0 {
		a.look(ctx)
	}
	schedule(a.nextCheck, a.untilCheck())
}

// untilCheck is 0 where there is nothing to look at.
func (a *Agent) untilCheck() time.Duration {
	const pause = 250 * time.Millisecond
	switch {
	case a.faults > 0 || a.config.Checker == nil && !a.owed:
		return 0
	case a.loaded == "" && a.good == 0 && time.Now().Before(a.proveBy):
		return min(pause, a.config.Interval)
	}
	return a.config.Interval
}

// look makes the reload that is owed, checks the workload, and tells whether that gave a verdict. Requests that wait for the
// workload meanwhile go on with it.
func (a *Agent) look(ctx context.Context) (verdict bool) {
	defer func() {
		if verdict {
			a.proxies.resume()
		}
	}()
	if a.owed {
		err := a.reload(ctx)
		switch {
		case ctx.Err() != nil:
			return false
		case errors.Is(err, reload.ErrNotRunning):
			return a.doubt(err)
		case err != nil:
			a.fault("workload not reloaded", err)
			return true
		}
	}
	if a.config.Checker != nil {
		etag := a.rendered
		if p, ok := a.config.Reloader.(reload.Provider); ok {
			etag = p.Etag()
		}
		err := a.config.Checker.Check(ctx, etag)
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			return a.doubt(err)
		}
	}
	a.bad = 0
	if a.good++; a.good < a.config.Successes && a.config.Checker != nil {
		return false
	}
	a.accept()
	return true
}

// restarts tells whether the sidecar restarts the workload for a change.
func (a *Agent) restarts() bool {
	return a.config.Exec != nil && a.config.Supervise.OnChange == config.OnChangeRestart
}

// reload makes the workload take up the files, unless it was started after they were written and has read them.
func (a *Agent) reload(ctx context.Context) error {
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
		if err != nil {
			return err
		}
	}
	a.log.Info("workload has been told to reload", "etag", a.rendered, "started_since", started)
	if started || a.restarts() {
		a.proxies.restarted() // it has the newest values
	}
	a.owed, a.faults, a.proveBy = false, 0, time.Now().Add(a.config.Deadline)
	for _, t := range a.config.Targets {
		if err := t.End(); err != nil {
			a.log.Warn("the note of an owed reload stays; the next start makes one more", "error", err)
		}
	}
	return nil
}

// doubt takes it that the workload is not well. Until the deadline after a change that is no verdict, and one bad check
// of a workload that was well is none either, unless it proves as much.
func (a *Agent) doubt(err error) (verdict bool) {
	a.good = 0
	a.bad++
	reason, proven := a.mask(err.Error()), health.Proven(err)
	if !proven && a.loaded == "" && time.Now().Before(a.proveBy) {
		if !a.healthy {
			a.reason = reason
		}
		return false
	}
	if !proven && a.loaded != "" && a.healthy && a.bad < a.config.Failures {
		a.log.Info("a check of the workload failed", "error", reason, "failures", a.bad, "of", a.config.Failures)
		return false
	}
	if a.healthy || !a.judged || a.reason != reason {
		a.judged, a.healthy, a.reason, a.dirty = true, false, reason, true
		a.log.Warn("workload is not healthy", "error", reason)
	}
	return true
}

// accept notes that the workload has proved itself with what is rendered. A bundle that came since with the same
// content counts as loaded too.
func (a *Agent) accept() {
	if !a.healthy || a.loaded == "" {
		a.log.Info("workload is healthy", "etag", a.rendered)
		a.dirty = true
	}
	a.judged, a.healthy, a.reason, a.loaded = true, true, "", a.bundle.Etag
}
