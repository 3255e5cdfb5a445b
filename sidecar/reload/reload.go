// SPDX-License-Identifier: Apache-2.0

// Package reload makes a workload load what was rendered, by a signal, a command or an HTTP request. Package
// kubernetes restarts rollouts.
package reload

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

// Reloader makes a workload reload. ErrNotRunning says that there is none yet, which at the first rendering is as it
// should be: it will read the files when it starts.
type Reloader interface {
	Reload(ctx context.Context) error
}

// Starter is an optional interface of a Reloader. It reports whether the workload was started after a moment, as Uptime returns
// it. Such a workload has read what was rendered before, and must not be signalled: it may not be ready for that yet.
type Starter interface {
	StartedSince(moment time.Duration) bool
}

// Provider is an optional interface of a Reloader that passes a bundle to the workload itself, beside any files. Provide takes
// the bundle of the next Reload, and reports whether the workload still needs it. Etag returns the etag of the bundle that the
// workload has: it may be older than that of Provide if both bundles have the same content for the workload. Failed returns how
// the workload has failed, and the empty string if it runs or was stopped.
type Provider interface {
	Provide(b client.Bundle) (changed bool, err error)
	Etag() string
	Failed() string
}

// PendingReloader is an optional interface of a Reloader that knows whether a reload is pending: whether the workload has yet
// to load what is rendered. It knows so after a crash of the sidecar, too, no matter which files have changed.
type PendingReloader interface {
	ReloadPending(ctx context.Context) (bool, error)
}

// Uptime is the present moment, as time since the machine's start, which no change of the clock moves.
func Uptime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 1<<63 - 1 // nothing was started since
	}
	return time.Duration(now.Nano())
}

// ErrNotRunning means that there is no process to reload.
var ErrNotRunning = errors.New("the workload is not running")
