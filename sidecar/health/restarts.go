// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"time"
)

const (
	maxRestarts    = 3               // restarts that are a loop
	restartsWindow = 5 * time.Minute // within which they are
)

// Restarts detects a workload that restarts in a loop after a change. One or two restarts after a change are expected: the
// workload may load the change that way.
type Restarts struct {
	Identify func() (string, error) // the process; an error if there is none
	Path     string                 // where it is kept over restarts of the sidecar; empty: nowhere
	Warn     func(err error)

	kept struct {
		Change string  `json:"change"`
		Seen   []start `json:"seen"` // processes since the change, the first of which no restart has brought
	}
	recalled bool
	now      func() time.Time // nil: time.Now
}

type start struct {
	Process string    `json:"process"`
	At      time.Time `json:"at"` // when it was first seen
}

var (
	_ Checker = (*Restarts)(nil)
	_ Gate    = (*Restarts)(nil)
)

// Begin implements Gate.
func (r *Restarts) Begin(_ context.Context, change string) error {
	r.recall()
	if r.kept.Change == change {
		return nil
	}
	r.kept.Change, r.kept.Seen = change, nil
	return keep(r.Path, r.kept)
}

func (r *Restarts) recall() {
	if r.recalled {
		return
	}
	r.recalled = true
	if err := recall(r.Path, &r.kept); err != nil {
		r.kept.Change, r.kept.Seen = "", nil
		r.Warn(err)
	}
}

// Check implements Checker.
func (r *Restarts) Check(context.Context, string) error {
	r.recall()
	process, err := r.Identify()
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	now := time.Now
	if r.now != nil {
		now = r.now
	}
	seen := r.kept.Seen
	if n := len(seen); n == 0 || seen[n-1].Process != process {
		seen = append(seen, start{process, now()})
		seen = seen[max(0, len(seen)-maxRestarts-1):]
		r.kept.Seen = seen
		if err := keep(r.Path, r.kept); err != nil {
			r.Warn(err)
		}
	}
	if len(seen) <= maxRestarts || now().Sub(seen[1].At) > restartsWindow {
		return nil
	}
	// These words stay the same until there is one more restart.
	took := seen[maxRestarts].At.Sub(seen[0].At).Round(time.Second)
	return proof{fmt.Errorf("health check: the workload was restarted %d times in %s after the change; look at why it ends", maxRestarts, max(took, time.Second))}
}
