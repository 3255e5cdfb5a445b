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
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
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
func (a *Agent) apply(ctx context.Context, same bool) {
	again := a.redo
	same, a.redo = same && !again, false
	if same && a.loaded != "" {
		a.loaded = a.bundle.Etag
		return
	}
	if same && a.rendered != "" {
		return // rendered, and the workload still to prove itself: judge will see
	}
	changed, err := a.render()
	if err != nil {
		a.fault("files not rendered", err)
		return
	}
	a.rendered, a.loaded = a.bundle.Etag, ""
	a.log.Info("bundle rendered", "etag", a.bundle.Etag, "changed", changed)
	if (changed || again) && a.config.Reloader != nil {
		err := a.config.Reloader.Reload(ctx)
		if err != nil && !errors.Is(err, reload.ErrNotRunning) {
			a.rendered = "" // so that it is tried again
			a.fault("workload not reloaded", err)
			return
		}
		a.log.Info("workload reloaded", "etag", a.bundle.Etag, "running", err == nil)
	}
	if err := a.ended(); err != nil {
		a.fault("end of reload not noted", err)
		return
	}
	a.faults = 0
	a.prove(ctx)
}

// render writes all files, with a note that a reload is owed around it.
func (a *Agent) render() (changed bool, err error) {
	for _, t := range a.config.Targets {
		if a.config.Reloader != nil {
			if err := t.Begin(); err != nil {
				return changed, err
			}
		}
		did, err := t.Write(a.bundle)
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	return changed, nil
}

// ended takes the notes away.
func (a *Agent) ended() error {
	for _, t := range a.config.Targets {
		if err := t.End(); err != nil {
			return err
		}
	}
	return nil
}

// fault is reported; the bundle is read and applied again after a while, which grows.
func (a *Agent) fault(what string, err error) {
	a.healthy, a.reason = false, a.mask(what+": "+err.Error())
	a.log.Error("instance is not healthy", "what", what, "error", a.mask(err.Error()))
	a.redo = true
	a.faults++
	schedule(a.retry, backoff(a.faults))
}

// prove waits, up to the deadline, until the workload is well with what was rendered.
func (a *Agent) prove(ctx context.Context) {
	const pause = 50 * time.Millisecond
	deadline := time.NewTimer(a.config.Deadline)
	defer deadline.Stop()
	for {
		err := a.check(ctx)
		if err == nil {
			a.accept()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-deadline.C:
			a.healthy, a.reason = false, a.mask(err.Error())
			a.log.Error("workload is not healthy after the change", "error", a.reason, "deadline", a.config.Deadline)
			return
		case <-time.After(pause):
		}
	}
}

// accept notes that the workload has proved itself with what is rendered. A bundle that came since with the same
// content counts as loaded too.
func (a *Agent) accept() {
	if !a.healthy || a.loaded == "" {
		a.log.Info("workload is healthy", "etag", a.rendered)
	}
	a.healthy, a.reason, a.loaded = true, "", a.bundle.Etag
}

func (a *Agent) check(ctx context.Context) error {
	if a.config.Checker == nil {
		return nil
	}
	return a.config.Checker.Check(ctx, a.rendered)
}

// check is a verdict of the monitor.
type check struct{ run func(etag string) error }

// monitor asks for a look at the workload again and again.
func (a *Agent) monitor(ctx context.Context) {
	if a.config.Checker == nil {
		return
	}
	ticker := time.NewTicker(a.config.Interval)
	defer ticker.Stop()
	look := check{func(etag string) error { return a.config.Checker.Check(ctx, etag) }}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		select {
		case <-ctx.Done():
			return
		case a.checks <- look:
		}
	}
}

// judge looks at the workload and tells whether there is news to report.
func (a *Agent) judge(c check) bool {
	if a.rendered == "" {
		return false
	}
	err := c.run(a.rendered)
	switch {
	case err == nil && (!a.healthy || a.loaded == ""):
		a.accept()
		a.dirty = true
	case err != nil && (a.healthy || a.reason != a.mask(err.Error())):
		a.healthy, a.reason = false, a.mask(err.Error())
		a.dirty = true
		a.log.Warn("workload is not healthy", "error", a.reason)
	}
	return a.dirty
}
