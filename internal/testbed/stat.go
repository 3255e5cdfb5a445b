// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"fmt"
	"strings"
)

// parseStat reads pid and parent from /proc/PID/stat: "pid (name) state ppid …", where the name may hold anything.
func parseStat(stat string) (pid, parent int, ok bool) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, false
	}
	var state string
	if _, err := fmt.Sscanf(stat, "%d", &pid); err != nil {
		return 0, 0, false
	}
	if _, err := fmt.Sscanf(stat[end+1:], "%s %d", &state, &parent); err != nil {
		return 0, 0, false
	}
	return pid, parent, true
}
