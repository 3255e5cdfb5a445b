// SPDX-License-Identifier: Apache-2.0

// Package proc reads what /proc says of processes, and sets what the kernel does with the memory of this one.
package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Identity distinguishes a process from any other since the machine's start, also from a later one with the same number.
type Identity struct {
	PID     int
	Started time.Duration // since the machine's start, rounded down
}

// Info is what /proc says of a process.
type Info struct {
	Identity
	Parent int
	State  byte // as ps shows it
	Name   string
}

// Ended reports whether a process has ended and was not waited for yet.
func (i Info) Ended() bool { return i.State == 'Z' || i.State == 'X' }

// Read reads /proc/PID/stat.
func Read(pid int) (Info, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Info{}, err
	}
	return parse(pid, string(data))
}

// parse parses fields 2, 3, 4 and 22 of proc_pid_stat(5). The name, field 2, is in parentheses and may contain anything.
func parse(pid int, text string) (Info, error) {
	const state, parent, start, tick = 0, 1, 19, time.Second / 100 // fields from the third; USER_HZ is 100 on all of Go's architectures
	from, to := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if from >= 0 && to > from {
		if fields := strings.Fields(text[to+1:]); len(fields) > start {
			ppid, err := strconv.Atoi(fields[parent])
			if ticks, fault := strconv.ParseInt(fields[start], 10, 64); err == nil && fault == nil {
				return Info{Identity{pid, time.Duration(ticks) * tick}, ppid, fields[state][0], text[from+1 : to]}, nil
			}
		}
	}
	return Info{}, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
}

// All returns the processes that can be seen, by number.
func All() (map[int]Info, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := map[int]Info{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, err := Read(pid); err == nil { // else it is gone
			all[pid] = p
		}
	}
	return all, nil
}
