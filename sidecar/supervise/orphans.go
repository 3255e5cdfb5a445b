// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// adoptOrphans makes this process the parent of what the workload's processes leave behind, as process 1 of a container
// is anyway.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the parent of orphans (PR_SET_CHILD_SUBREAPER): %w", err)
	}
	return nil
}

// reapPause is how long a process that has ended is left to whoever in this program has started it and waits for it.
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
			found := zombies()
			left := map[int]bool{}
			for _, pid := range found {
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

// zombies are the children of this process that have ended and were not waited for. Their numbers alone are looked up:
// none of these can be another process before somebody waits for it.
func zombies() (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // fails for a bad pattern only
	self := strconv.Itoa(os.Getpid())
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it is gone
		}
		// proc_pid_stat(5): the name, field 2, stands in parentheses and may hold anything; then state and parent.
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(fields) < 2 || fields[0] != "Z" || fields[1] != self {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
