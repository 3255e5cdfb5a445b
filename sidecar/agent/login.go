// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/login"
)

var errTokenEnds = errors.New("the token ends soon; logging in again")

// share is when to renew what lasts so long: with a third left for trouble.
func share(ttl time.Duration) time.Duration { return ttl * 2 / 3 }

// renewToken keeps the token alive. One that cannot be renewed, or not for long, is replaced by another login before it
// ends, since its end would take the lease with it. So is one whose renewal has failed until little of it is left: some
// reasons not to renew, such as another certificate, are no reason not to log in.
func (a *Agent) renewToken(ctx context.Context) error {
	if !a.token.Renewable {
		return errTokenEnds
	}
	token, err := login.Renew(ctx, a.vault)
	switch {
	case errors.Is(err, client.ErrUnavailable):
		left := time.Until(a.token.Ends)
		if left < a.token.TTL/6 {
			a.log.Warn("token not renewed", "error", err)
			return errTokenEnds
		}
		schedule(a.tokenAge, min(backoffMost, left/4))
		return err
	case err == nil && token.TTL < a.token.TTL/2:
		return errTokenEnds
	case err == nil:
		token.TTL = max(token.TTL, a.token.TTL) // what it had once tells when it is near its end
		token.Pod, token.Node = a.token.Pod, a.token.Node
		schedule(a.tokenAge, share(time.Until(token.Ends)))
		a.token = token
		return nil
	}
	return err
}

// endure waits while Vault is away, and meanwhile goes on with the workload: what failed with it is done again, and it is
// looked at. It tells whether another configuration came, which is adopted then.
func (a *Agent) endure(ctx context.Context, problem error, wait time.Duration) (reconfigured bool) {
	end := time.NewTimer(wait)
	defer end.Stop()
	a.startFromCopy(ctx, problem)
	a.applyHeld(ctx, problem)
	a.sayNotStarted()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end.C:
			return false
		case c := <-a.next:
			a.adopt(c)
			return true
		case <-a.nextCheck.C:
			a.judge(ctx)
		case <-a.retry.C:
			a.again(ctx)
		case <-a.nextLook.C:
			a.lookAfter(ctx)
		}
		a.publish()
	}
}

// applyHeld brings what another configuration wants to what is held: it came while Vault cannot be reached.
func (a *Agent) applyHeld(ctx context.Context, problem error) {
	if a.rendered == "" && a.faults == 0 && (a.have || a.copies.used) && errors.Is(problem, client.ErrUnavailable) {
		a.apply(ctx)
	}
}
