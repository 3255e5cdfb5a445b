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
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
)

// Identifier is what a Reloader may be besides: it knows which process the workload is. last is what it was before, if
// anything; while that process lives, it is the answer.
type Identifier interface {
	Identify(last proc.Identity) (proc.Identity, error)
}

// Seer is what a Reloader may be besides: it can report whether the workload still runs. last is what was known of it, if anything.
type Seer interface {
	See(last proc.Identity) Sight
}

// Sight is what is known of the workload.
type Sight int

// The values of Sight.
const (
	Unknown Sight = iota
	Runs
	Ended // it was seen, and is gone, and no other process has taken its place
)

// target is the process to signal.
type target struct {
	proc.Info
	hidden bool // it exists, but /proc does not show it: only its number is known
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

// maxName is how many bytes of a program's name the kernel keeps.
const maxName = 15

func (m Match) is(p proc.Info) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
	if err != nil || len(data) == 0 {
		return false // it is gone, or a thread of the kernel
	}
	args := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
	if m.Name != "" && filepath.Base(args[0]) != m.Name && p.Name != m.Name[:min(len(m.Name), maxName)] {
		return false
	}
	return m.Command == nil || m.Command.MatchString(strings.Join(args, " "))
}

// find returns the one process that matches. Of a family, such as a master with its workers, it returns the ancestor of all. It
// never returns this process or one that this process has started.
func (m Match) find() (proc.Info, error) {
	all, err := proc.All()
	if err != nil {
		return proc.Info{}, fmt.Errorf("looking for the workload's process: %w", err)
	}
	matching := map[int]bool{}
	for pid, p := range all {
		if !p.Ended() && !ours(all, pid) && m.is(p) {
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
		return proc.Info{}, fmt.Errorf("%w: no process is seen with %s; of another container, processes are only seen in a shared PID namespace", ErrNotRunning, m)
	case 1:
		return all[heads[0]], nil
	}
	slices.Sort(heads)
	// What they are run with is not told: it may hold secrets.
	return proc.Info{}, fmt.Errorf("processes %s match %s, and none of them is the parent of all; set cmdline to what only the workload is run with, or use pid_file",
		strings.Trim(fmt.Sprint(heads), "[]"), m)
}

// Unreaped are the children of this process that have ended and were not waited for. Their numbers are enough: none of these
// can be another process before somebody waits for it.
func Unreaped() (pids []int) {
	all, _ := proc.All() // without /proc, none can be seen
	for pid, p := range all {
		if p.State == 'Z' && p.Parent == os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// ours reports whether a process is this one or comes from it.
func ours(all map[int]proc.Info, pid int) bool {
	self := os.Getpid()
	for range len(all) { // what was read while processes come and go may lead in a circle
		if pid == self {
			return true
		}
		p, ok := all[pid]
		if !ok {
			return false
		}
		pid = p.Parent
	}
	return false
}

// eldest is the farthest of a process's ancestors that matches, or the process itself.
func eldest(all map[int]proc.Info, matching map[int]bool, pid int) int {
	head := pid
	for range len(all) {
		p, ok := all[pid]
		if !ok {
			break
		}
		if pid = p.Parent; matching[pid] {
			head = pid
		}
	}
	return head
}

// signal sends a signal to the process that was looked at, and to no later one of its number. It is ErrNotRunning if that
// process is gone.
func (t target) signal(s syscall.Signal) error {
	err := t.send(s)
	switch {
	case errors.Is(err, syscall.ESRCH):
		return ErrNotRunning
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("process %d belongs to another user; run the sidecar as that user, or with CAP_KILL", t.PID)
	case err != nil:
		return fmt.Errorf("signalling process %d: %w", t.PID, err)
	}
	// A signal to a process that has ended and was not waited for yet is taken, and does nothing.
	if now, err := proc.Read(t.PID); err == nil && now.Identity == t.Identity && now.Ended() {
		return ErrNotRunning
	}
	return nil
}

// openHandle is replaced by tests.
var openHandle = unix.PidfdOpen

func (t target) send(s syscall.Signal) error {
	handle, err := openHandle(t.PID, 0)
	if err == nil {
		defer unix.Close(handle) //nolint:errcheck // nothing was written
	}
	// With a handle, the number cannot be given to another process any more; without, this is as near as one gets.
	if now, err := proc.Read(t.PID); !t.hidden && (errors.Is(err, fs.ErrNotExist) || err == nil && now.Identity != t.Identity) {
		return syscall.ESRCH
	}
	if err == nil {
		err = unix.PidfdSendSignal(handle, s, nil, 0)
	}
	if errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM) {
		// A kernel before 5.3, or a container's filter of system calls; or it is not permitted, which this tells as well.
		err = syscall.Kill(t.PID, s)
	}
	return err
}
