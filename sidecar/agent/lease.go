// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"sync"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
)

// extendLease gives a sign of life before the lease ends.
func (a *Agent) extendLease(ctx context.Context) machine.Event {
	answer, err := a.engine.Extend(ctx, a.config.Workload, a.bundle.Instance, a.bundle.Secret)
	if err != nil {
		// Refused, or lost: the way on is the same.
		if ctx.Err() == nil {
			a.log.Info("lease not extended; reading the bundle again", "error", err)
		}
		return machine.Event{Kind: machine.ExtendFailed}
	}
	return machine.Event{Kind: machine.Extended, Etag: answer.Etag, Lease: answer.Lease()}
}

// holdLease extends the lease until end: making a workload reload may take longer than the lease lasts, as where it is stopped
// and takes its time, and an instance without a lease holds no rotation up. Nor may another login take the name of an instance that reloads for one
// that has died.
func (a *Agent) holdLease(ctx context.Context) (end func()) {
	b, every := a.bundle, min(a.bundle.LeaseDuration/6, 2*watchFor) // two thirds of it may have passed already
	if every <= 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var extending sync.WaitGroup
	extending.Go(func() {
		for backoff.Wait(ctx, every) == nil {
			if _, err := a.engine.Extend(ctx, a.config.Workload, b.Instance, b.Secret); err != nil && ctx.Err() == nil {
				a.log.Warn("lease not extended while the workload reloads", "error", err)
			}
		}
	})
	return func() {
		cancel()
		extending.Wait()
	}
}
