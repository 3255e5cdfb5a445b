// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/kubernetes"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/lastgood"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// plan looks at all destinations, and has the API server try what would be written, before anything changes anywhere.
func (a *Agent) plan(ctx context.Context, b client.Bundle) (plans []kubernetes.Plan, err error) {
	for _, d := range a.config.Destinations {
		data, err := d.Data.Of(b)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", d, err)
		}
		p, err := d.Prepare(ctx, data)
		a.destinationIs(d.String(), false, err)
		if err != nil {
			return nil, err
		}
		plans = append(plans, p)
	}
	return plans, nil
}

// writeDestinations does what was planned. It reports whether pods would read something else now, if it fails too.
func (a *Agent) writeDestinations(ctx context.Context) (changed bool, err error) {
	for n, p := range a.plans {
		did, err := p.Commit(ctx)
		d := a.config.Destinations[n]
		a.destinationIs(d.String(), did, err)
		if err != nil {
			return changed, err
		}
		if changed = changed || did; did {
			a.log.Info("secret written", "secret", d.String())
		}
	}
	return changed, nil
}

// pendingReloader is the reloader, if it knows by itself whether a reload is pending.
func (a *Agent) pendingReloader() reload.PendingReloader {
	d, _ := a.config.Reloader.(reload.PendingReloader)
	return d
}

// lookAtTargets finds out whether destinations are still as they were written: others may change them, and nothing tells.
func (a *Agent) lookAtTargets(ctx context.Context) machine.Event {
	if drifted, err := a.drifted(ctx); err == nil && drifted {
		return machine.Event{Kind: machine.Drifted}
	}
	return machine.Event{Kind: machine.Intact}
}

// lookAtPods finds out, too, whether what was restarted for destinations has read them.
func (a *Agent) lookAtPods(ctx context.Context) machine.Event {
	drifted, err := a.drifted(ctx)
	switch d := a.pendingReloader(); {
	case err != nil:
		return machine.Event{Kind: machine.Intact}
	case drifted:
		return machine.Event{Kind: machine.Drifted}
	case d != nil:
		if pending, err := d.ReloadPending(ctx); err == nil && pending { // Check says what is wrong
			a.log.Warn("pods are no longer known to have read what is written; they are restarted")
			return machine.Event{Kind: machine.PodsBehind}
		}
	}
	return machine.Event{Kind: machine.Intact}
}

func (a *Agent) drifted(ctx context.Context) (bool, error) {
	for _, d := range a.config.Destinations {
		drifted, err := d.Drifted(ctx)
		if err != nil {
			a.destinationIs(d.String(), false, err)
			a.log.Warn("secret cannot be looked at", "error", a.mask(err.Error()))
			return false, err
		}
		if drifted {
			a.log.Warn("secret is not as it was written; somebody has deleted or changed it, and it is written again", "secret", d.String())
			return true, nil
		}
	}
	return false, nil
}

// destinationIs puts on the board how a look or a write has ended.
func (a *Agent) destinationIs(name string, written bool, err error) {
	a.board.Update(func(s *status.State) {
		all := slices.Clone(s.Destinations) // readers may hold the ones before
		at := slices.IndexFunc(all, func(d status.Destination) bool { return d.Name == name })
		if at < 0 {
			at, all = len(all), append(all, status.Destination{Name: name})
		}
		all[at].Up, all[at].Error = err == nil, ""
		if err != nil {
			all[at].Error = a.mask(err.Error())
		}
		if written {
			all[at].Written = time.Now()
		}
		s.Destinations = all
	})
}

// rolloutOf returns how the rollout was at the last look; nil without one.
func rolloutOf(r reload.Reloader) *status.Rollout {
	rollout, ok := r.(*kubernetes.Rollout)
	if !ok {
		return nil
	}
	all, old := rollout.Pods()
	return &status.Rollout{Name: rollout.String(), Pods: all, Old: old}
}

// retryAfter is how long a server that has refused something wants to be left alone.
func retryAfter(err error) time.Duration {
	var asks interface{ RetryAfter() time.Duration }
	if errors.As(err, &asks) {
		return asks.RetryAfter()
	}
	return 0
}

const (
	// copyPatience: Vault often comes up beside the workload.
	copyPatience = 2 * time.Second
	// copyEvery is how often a copy is stored again while nothing changes, which tells how old it is.
	copyEvery = 10 * time.Minute
)

// copies is what is known of the last-good copy.
type copies struct {
	confirmed time.Time // when Vault last said what the instance should hold
	kept      time.Time // confirmed of what this run has stored last
	etag      string    // of what was stored then
}

// keepCopy stores the bundle before files are written with it: killed in between, the copy is what comes next, and never
// what was before. Where it cannot be stored, the one before is removed, for the same reason; files are written without
// one then. Only where both fail are they not.
func (a *Agent) keepCopy(context.Context) (machine.Event, bool) {
	store := a.config.LastGood
	if store == nil || !a.state.Holds() || a.copies.etag == a.bundle.Etag && !a.copyDue() {
		return machine.Event{}, false
	}
	err := a.storeCopy(a.bundle)
	if err == nil {
		return machine.Event{}, false
	}
	a.copies.kept, a.copies.etag = time.Time{}, ""
	if gone := store.Remove(); gone != nil {
		return a.notWritten(fmt.Errorf("last_good: the copy can neither be stored nor removed, and would be older than the files: %w", errors.Join(err, gone)), wrote{})
	}
	a.log.Warn("last-good copy not stored; a start without vault would wait", "error", err)
	return machine.Event{}, false
}

// confirmCopy stores what the files hold once more, now and then, since Vault has just confirmed it.
func (a *Agent) confirmCopy() {
	a.copies.confirmed = time.Now()
	if a.config.LastGood == nil || a.state.Files != machine.FilesWritten || !a.copyDue() {
		return
	}
	if err := a.storeCopy(a.applied); err != nil {
		a.log.Warn("last-good copy was not stored again; it seems older than it is", "error", err)
	}
}

func (a *Agent) copyDue() bool {
	every := copyEvery
	if most := a.config.LastGood.MaxAge; most > 0 {
		every = min(every, most/4)
	}
	return time.Since(a.copies.kept) >= every
}

func (a *Agent) storeCopy(b client.Bundle) error {
	if err := a.config.LastGood.Save(b, a.copies.confirmed); err != nil {
		return err
	}
	a.copies.kept, a.copies.etag = a.copies.confirmed, b.Etag
	return nil
}

// loadCopy loads the copy where Vault cannot be reached and nothing was read from it since the start.
func (a *Agent) loadCopy(ctx context.Context) machine.Event {
	c, err := a.config.LastGood.Load(time.Now())
	if err == nil {
		err = a.notBehind(ctx, c)
	}
	if err != nil {
		a.log.Warn("last-good copy not used; waiting for vault", "error", err)
		return machine.Event{Kind: machine.CopyUnusable}
	}
	a.log.Warn("running from the last-good copy, since vault cannot be reached; nothing is reported", "age", time.Since(c.Stored).Round(time.Second).String(),
		"stored", c.Stored, "etag", c.Bundle.Etag)
	return machine.Event{Kind: machine.CopyLoaded, Held: a.hold(c.Bundle)}
}

// notBehind refuses a copy that is older than a file or a Secret which is there and holds something else. Copies are stored before
// files are written, so that one was restored from elsewhere, or the files were written while none was kept.
func (a *Agent) notBehind(ctx context.Context, c lastgood.Copy) error {
	for _, t := range a.config.Targets {
		newer, err := t.NewerThan(c.Stored, c.Bundle)
		if err != nil {
			return err
		}
		if newer != "" {
			return fmt.Errorf("%s was written after the copy was stored, and holds something else; the files stay as they are", newer)
		}
	}
	for _, d := range a.config.Destinations {
		data, err := d.Data.Of(c.Bundle)
		if err != nil {
			return err
		}
		newer, err := d.ChangedAfter(ctx, c.Stored, data)
		if err != nil {
			return err
		}
		if newer {
			return fmt.Errorf("the secret %s was written after the copy was stored, and holds something else; it stays as it is", d)
		}
	}
	return nil
}
