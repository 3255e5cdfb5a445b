// SPDX-License-Identifier: Apache-2.0

package reload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Identity tells a process from any other since the machine's start, also from a later one of the same number.
type Identity struct {
	PID     int
	Started time.Duration // since the machine's start
}

// Identifier is what a Reloader may be besides: it knows which process the workload is. last is what it was before, if
// anything; while that process lives, it is the answer.
type Identifier interface {
	Identify(last Identity) (Identity, error)
}

// process is what /proc tells of one.
type process struct {
	Identity
	parent int
	state  byte
	name   string
	hidden bool // it is there, and /proc does not show it: only its number is known
}

func (p process) ended() bool { return p.state == 'Z' || p.state == 'X' }

// stat reads /proc/PID/stat (proc_pid_stat(5), fields 2, 3, 4 and 22). The start is rounded down.
func stat(pid int) (process, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// The name, field 2, stands in parentheses and may hold anything.
	text := string(data)
	from, to := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	const stateAt, parentAt, startAt, tick = 0, 1, 19, time.Second / 100 // fields from the third on; USER_HZ is 100 on every architecture that Go knows
	if from < 0 || to < from {
		return process{}, fmt.Errorf("/proc/%d/stat has another form than is known", pid)
	}
	fields := strings.Fields(text[to+1:])
	if len(fields) <= startAt {
		return process{}, fmt.Errorf("/proc/%d/stat has another form than is known", pid)
	}
	parent, err := strconv.Atoi(fields[parentAt])
	if err != nil {
		return process{}, err
	}
	ticks, err := strconv.ParseInt(fields[startAt], 10, 64)
	return process{Identity: Identity{pid, time.Duration(ticks) * tick}, parent: parent, state: fields[stateAt][0], name: text[from+1 : to]}, err
}

// Match says which process the workload is, by what can be seen of it. Of the two, what is set must hold.
type Match struct {
	Name    string         // of the program
	Command *regexp.Regexp // is found in the command line, the words of which have a space between them
}

// String tells what is looked for.
func (m Match) String() string {
	var parts []string
	if m.Name != "" {
		parts = append(parts, fmt.Sprintf("process = %q", m.Name))
	}
	if m.Command != nil {
		parts = append(parts, fmt.Sprintf("cmdline = %q", m.Command))
	}
	return strings.Join(parts, " and ")
}

// nameMost is how many bytes of a program's name the kernel keeps.
const nameMost = 15

func (m Match) is(p process) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
	if err != nil || len(data) == 0 {
		return false // it is gone, or a thread of the kernel
	}
	args := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
	if m.Name != "" && filepath.Base(args[0]) != m.Name && p.name != m.Name[:min(len(m.Name), nameMost)] {
		return false
	}
	return m.Command == nil || m.Command.MatchString(strings.Join(args, " "))
}

// find gives the one process that matches. Of a family, as of a master with its workers, it is the ancestor of all. This
// process, and what it has started, are never it.
func (m Match) find() (process, error) {
	all, err := processes()
	if err != nil {
		return process{}, err
	}
	matching := map[int]bool{}
	for pid, p := range all {
		if !p.ended() && !ours(all, pid) && m.is(p) {
			matching[pid] = true
		}
	}
	var heads []int
	for pid := range matching {
		if head := eldest(all, matching, pid); !slices.Contains(heads, head) {
			heads = append(heads, head)
		}
	}
	switch len(heads) {
	case 0:
		return process{}, fmt.Errorf("%w: no process is seen with %s; of another container, processes are only seen in a shared PID namespace", ErrNotRunning, m)
	case 1:
		return all[heads[0]], nil
	}
	slices.Sort(heads)
	// What they are run with is not told: it may hold secrets.
	return process{}, fmt.Errorf("processes %s match %s, and none of them is the parent of all; set cmdline to what only the workload is run with, or use pid_file",
		strings.Trim(fmt.Sprint(heads), "[]"), m)
}

// processes are all that can be seen, by number.
func processes() (map[int]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("looking for the workload's process: %w", err)
	}
	all := map[int]process{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, err := stat(pid); err == nil { // else it is gone
			all[pid] = p
		}
	}
	return all, nil
}

// Unreaped are the children of this process that have ended and were not waited for. Their numbers are enough: none of these
// can be another process before somebody waits for it.
func Unreaped() (pids []int) {
	all, _ := processes() // without /proc, none can be seen
	for pid, p := range all {
		if p.state == 'Z' && p.parent == os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// ours tells whether a process is this one or comes from it.
func ours(all map[int]process, pid int) bool {
	self := os.Getpid()
	for range len(all) { // what was read while processes come and go may lead in a circle
		if pid == self {
			return true
		}
		p, ok := all[pid]
		if !ok {
			return false
		}
		pid = p.parent
	}
	return false
}

// eldest is the farthest of a process's ancestors that matches, or the process itself.
func eldest(all map[int]process, matching map[int]bool, pid int) int {
	head := pid
	for range len(all) {
		p, ok := all[pid]
		if !ok {
			break
		}
		if pid = p.parent; matching[pid] {
			head = pid
		}
	}
	return head
}

// signal sends a signal to the process that was looked at, and to no later one of its number. It is ErrNotRunning if that
// process is gone.
func (p process) signal(s syscall.Signal) error {
	err := p.send(s)
	switch {
	case errors.Is(err, syscall.ESRCH):
		return ErrNotRunning
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("process %d belongs to another user; run the sidecar as that user, or with CAP_KILL", p.PID)
	case err != nil:
		return fmt.Errorf("signalling process %d: %w", p.PID, err)
	}
	// A signal to a process that has ended and was not waited for yet is taken, and does nothing.
	if now, err := stat(p.PID); err == nil && now.Identity == p.Identity && now.ended() {
		return ErrNotRunning
	}
	return nil
}

// openHandle is replaced by tests.
var openHandle = unix.PidfdOpen

func (p process) send(s syscall.Signal) error {
	handle, err := openHandle(p.PID, 0)
	if err == nil {
		defer unix.Close(handle) //nolint:errcheck // nothing was written
	}
	// With a handle, the number cannot be given to another process any more; without, this is as near as one gets.
	if now, err := stat(p.PID); !p.hidden && (errors.Is(err, fs.ErrNotExist) || err == nil && now.Identity != p.Identity) {
		return syscall.ESRCH
	}
	if err == nil {
		err = unix.PidfdSendSignal(handle, s, nil, 0)
	}
	if errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM) {
		// A kernel before 5.3, or a container's filter of system calls; or it is not permitted, which this tells as well.
		err = syscall.Kill(p.PID, s)
	}
	return err
}
