// SPDX-License-Identifier: Apache-2.0

package proc

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

// Harden is Private for a process that starts no others of its user's: it gives up its limit of core files as well, which
// what it starts would inherit.
func Harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core files: %w", err)
	}
	return Private()
}
