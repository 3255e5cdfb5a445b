// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// Whoever holds the workload back until its keys are there is missed if it does not come within awaitedFirst, at once if it goes
// without an answer, as one that is killed, and otherwise after awaitedAgain.
const (
	awaitedFirst = 5 * time.Second
	awaitedAgain = time.Second
)

// awaited gives a context that ends with status.ErrAbandoned when nobody holds the workload back any more, where the configuration
// asks for that: whoever starts the sidecar again holds it back again. It is over with once the sidecar has been ready, also in an
// earlier life: the workload may run then, and whoever waited for the sidecar again, as a kubelet does with its hook, would not look
// after the workload meanwhile.
func (a *Agent) awaited(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if a.config.Status == nil || !a.config.Status.EndUnlessAwaited {
		return ctx, cancel
	}
	first := a.config.Targets[0]
	if first.InPlace() {
		a.log.Info("files of an earlier start are in place")
		a.board.Update(func(s *status.State) { s.Ready = true })
		return ctx, cancel
	}
	go func() {
		switch err := a.board.Held(ctx, awaitedFirst, awaitedAgain); {
		case errors.Is(err, status.ErrAbandoned):
			cancel(err)
		case err == nil:
			if err := first.SetInPlace(); err != nil {
				a.log.Warn("that files are in place is not noted; the next start waits for Vault", "error", err)
			}
		}
	}()
	return ctx, cancel
}

// abandoned is status.ErrAbandoned if ctx has ended of it.
func abandoned(ctx context.Context) error {
	if err := context.Cause(ctx); errors.Is(err, status.ErrAbandoned) {
		return err
	}
	return nil
}
