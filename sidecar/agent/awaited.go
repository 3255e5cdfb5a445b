// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// Whoever holds the workload back until its keys are there is missed if it does not come within awaitedFirst, at once if it goes
// without an answer, as one that is killed, and otherwise after awaitedAgain.
const (
	awaitedFirst = 5 * time.Second
	awaitedAgain = time.Second
)

// errAbandoned ends a sidecar, so that whoever starts it again holds the workload back again.
var errAbandoned = errors.New("nobody waits any more for what the workload needs to start, and it is not in place: ending, so that the workload is not started without it")

// awaited gives a context that ends with errAbandoned when nobody holds the workload back any more, where the configuration asks
// for that. It is over with once the sidecar has been ready, also in an earlier life: the workload may run then, and whoever waited
// for the sidecar again, as a kubelet does with its hook, would not look after the workload meanwhile.
func (a *Agent) awaited(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	end := func() { cancel(nil) }
	if a.config.Status == nil || !a.config.Status.EndUnlessAwaited {
		return ctx, end
	}
	note := a.config.Socket + ".ready" // beside the files, and gone when they are
	if _, err := os.Lstat(note); err == nil {
		a.log.Info("files of an earlier start are in place")
		a.board.Update(func(s *status.State) { s.Ready = true })
		return ctx, end
	}
	gone := a.board.Abandoned(awaitedFirst, awaitedAgain, ctx.Done())
	go func() {
		select {
		case <-gone:
			cancel(errAbandoned)
		case <-ctx.Done():
		case <-a.board.Ready():
			if err := os.WriteFile(note, nil, 0o600); err != nil {
				a.log.Warn("that files are in place is not noted; the next start waits for Vault", "error", err)
			}
		}
	}()
	return ctx, end
}

// abandoned is errAbandoned if ctx has ended of it.
func abandoned(ctx context.Context) error {
	if err := context.Cause(ctx); errors.Is(err, errAbandoned) {
		return err
	}
	return nil
}
