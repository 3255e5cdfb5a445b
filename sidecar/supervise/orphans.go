// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// adoptOrphans makes this process the parent of what the workload's processes leave behind, as process 1 of a container
// is anyway.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the parent of orphans (PR_SET_CHILD_SUBREAPER): %w", err)
	}
	return nil
}

// reapPause is how long a process that has ended is left to the goroutine that has started it and waits for it.
const reapPause = 500 * time.Millisecond

// Reap reaps orphans until ctx ends. A process which somebody here waits for is reaped by them at once; what is still
// there when it is looked for again is nobody's.
func Reap(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	seen := map[int]bool{}
	look := time.NewTimer(0) // for what has ended before Notify
	defer look.Stop()
	waiting := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-ended:
			if !waiting {
				look.Reset(reapPause)
				waiting = true
			}
		case <-look.C:
			left := map[int]bool{}
			for _, pid := range reload.Unreaped() {
				if seen[pid] {
					_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
				} else {
					left[pid] = true
				}
			}
			seen, waiting = left, len(left) > 0
			if waiting {
				look.Reset(reapPause)
			}
		}
	}
}

// reapGroup reaps what has ended of a group whose first process was waited for.
func reapGroup(group int) {
	for {
		if pid, err := syscall.Wait4(-group, nil, syscall.WNOHANG, nil); err != nil || pid <= 0 {
			return
		}
	}
}
