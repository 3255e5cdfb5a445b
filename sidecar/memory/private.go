// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Private keeps what the process has in memory to itself, whatever the limits are that it was started with: no core file is
// written of it, and no other process of its user can read it in /proc or trace it; root can. Programs that it starts are
// not concerned (PR_SET_DUMPABLE, prctl(2)).
func Private() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping the process's memory private: %w", err)
	}
	return nil
}
