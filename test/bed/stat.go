// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"fmt"
	"os"
	"strings"
)

// stat is what /proc says of a process.
type stat struct {
	pid, parent int
	ended       bool // and not waited for yet
	stopped     bool // by a signal
}

// parseStat reads /proc/PID/stat: "pid (name) state ppid …", where the name may hold anything.
func parseStat(text string) (s stat, ok bool) {
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return stat{}, false
	}
	var state string
	if _, err := fmt.Sscanf(text, "%d", &s.pid); err != nil {
		return stat{}, false
	}
	if _, err := fmt.Sscanf(text[end+1:], "%s %d", &state, &s.parent); err != nil {
		return stat{}, false
	}
	s.ended, s.stopped = state == "Z" || state == "X", state == "T"
	return s, true
}

// alive tells whether a process runs. One that has ended, and that nobody has waited for, does not: it holds nothing.
func alive(pid int) bool {
	s, ok := statOf(pid)
	return ok && !s.ended
}

// stopped tells whether a process stands still, or is gone.
func stopped(pid int) bool {
	s, ok := statOf(pid)
	return !ok || s.stopped || s.ended
}

func statOf(pid int) (stat, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, false
	}
	return parseStat(string(data))
}
