// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
)

// renewLease gives a sign of life before the lease ends.
func (a *Agent) renewLease(ctx context.Context) error {
	a.ending = true
	if a.judged {
		a.dirty = true // a report extends the lease
		return nil
	}
	answer, err := a.engine.Extend(ctx, a.config.Workload, a.bundle.Instance, a.bundle.Secret)
	if err != nil {
		// Refused, or lost: the way on is the same.
		a.log.Info("lease not extended; reading the bundle again", "error", err)
		a.stale = true
		return nil
	}
	a.extended(answer)
	return nil
}

// extended notes what the engine has answered to a sign of life. An engine of an earlier release does not extend leases so:
// the bundle is read again instead.
func (a *Agent) extended(answer api.Reported) {
	a.stale = answer.Etag != a.bundle.Etag || a.ending && answer.Lease() == 0
	if lease := answer.Lease(); lease > 0 {
		schedule(a.leaseAge, share(lease))
	}
	if a.ending && !a.stale {
		a.futile = 0
		a.copies.confirmed = time.Now()
		a.confirmCopy()
	}
	a.ending = false
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
		for sleep(ctx, every) {
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
