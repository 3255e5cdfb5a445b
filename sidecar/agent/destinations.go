// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/kubernetes"
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

// write does what was planned. It tells whether pods would read something else now, if it fails too.
func (a *Agent) write(ctx context.Context, plans []kubernetes.Plan) (changed bool, err error) {
	for n, p := range plans {
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

// debtor is the reloader, if it knows by itself what is owed.
func (a *Agent) debtor() reload.Debtor {
	d, _ := a.config.Reloader.(reload.Debtor)
	return d
}

// lookAfter finds out whether destinations are still as they were written, and what was restarted for them, too: others may
// change them, and nobody tells.
func (a *Agent) lookAfter(ctx context.Context) {
	defer schedule(a.nextLook, a.config.LookEvery)
	if a.rendered == "" || a.faults > 0 {
		return // that is tried again anyway
	}
	for _, d := range a.config.Destinations {
		drifted, err := d.Drifted(ctx)
		if err != nil {
			a.destinationIs(d.String(), false, err)
			a.log.Warn("secret cannot be looked at", "error", a.mask(err.Error()))
			return
		}
		if drifted {
			a.log.Warn("secret is not as it was written; somebody has deleted or changed it, and it is written again", "secret", d.String())
			a.rendered = ""
			a.apply(ctx)
			return
		}
	}
	if d := a.debtor(); d != nil && !a.owed {
		owes, err := d.Owes(ctx)
		if err != nil || !owes {
			return // Check says what is wrong
		}
		a.log.Warn("pods are no longer known to have read what is written; they are restarted")
		a.owed, a.loaded, a.dirty, a.proveBy = true, "", true, time.Now().Add(a.config.Deadline)
		a.prove(ctx)
	}
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

// rolloutOf gives how the rollout was at the last look; nil without one.
func rolloutOf(r reload.Reloader) *status.Rollout {
	rollout, ok := r.(*kubernetes.Rollout)
	if !ok {
		return nil
	}
	all, old := rollout.Pods()
	return &status.Rollout{Name: rollout.String(), Pods: all, Old: old}
}

// retryAfter is how long whoever has refused something wants to be left alone.
func retryAfter(err error) time.Duration {
	var asks interface{ RetryAfter() time.Duration }
	if errors.As(err, &asks) {
		return asks.RetryAfter()
	}
	return 0
}
