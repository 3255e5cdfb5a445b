// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/watch"
)

// Follow reloads the workload whenever files that something else renders have changed, until ctx ends.
func Follow(ctx context.Context, c Config, log *slog.Logger) error {
	o := watch.Options{
		Stable: c.Stable, Poll: c.Poll,
		Warn:    func(err error) { log.Warn("files are harder to follow than they should be", "error", err) },
		Started: func() { log.Info("following files", "paths", c.Watch.Paths) },
	}
	return watch.Files(ctx, c.Watch.Paths, o, func(ctx context.Context) { follow(ctx, c, log) })
}

// follow reloads, again while that fails, and then waits up to the deadline for the workload to be well.
func follow(ctx context.Context, c Config, log *slog.Logger) {
	for failures := 1; ; failures++ {
		err := c.Reloader.Reload(ctx)
		if errors.Is(err, reload.ErrNotRunning) {
			log.Info("files changed; the workload is not running and will read them when it starts", "reason", err)
			return
		}
		if err == nil {
			break
		}
		wait := backoff(failures)
		log.Error("workload not reloaded", "error", err, "retry_in", wait)
		if !sleep(ctx, wait) {
			return
		}
	}
	log.Info("files changed; workload reloaded")
	if c.Checker == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.Deadline)
	defer cancel()
	for good := 0; ; {
		wait := backoffFirst
		err := c.Checker.Check(ctx, "")
		if err != nil {
			good = 0
		} else if good++; good >= c.Successes {
			log.Info("workload is healthy")
			return
		} else {
			wait = c.Interval
		}
		if !sleep(ctx, wait) {
			log.Error("workload is not healthy after the change", "error", err)
			return
		}
	}
}
