// SPDX-License-Identifier: Apache-2.0

package reload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/proc"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/external"
)

// Signal sends a signal to the process whose number a file holds, or that matches.
type Signal struct {
	PIDFile string
	Match   Match // where there is no PIDFile
	Signal  syscall.Signal
}

var (
	_ Reloader   = Signal{}
	_ Starter    = Signal{}
	_ Identifier = Signal{}
	_ Seer       = Signal{}
)

// Reload implements Reloader.
func (s Signal) Reload(ctx context.Context) error {
	_, err := s.ReloadUnlessStarted(ctx, math.MaxInt64)
	return err
}

// ReloadUnlessStarted implements Starter.
func (s Signal) ReloadUnlessStarted(_ context.Context, since time.Duration) (started bool, err error) {
	p, err := s.find()
	if err != nil {
		return false, err
	}
	if p.Started >= since {
		return true, nil
	}
	switch err = p.signal(s.Signal); {
	case errors.Is(err, ErrNotRunning):
		return false, s.gone(p.PID)
	case err != nil:
		return false, fmt.Errorf("%s: %w", s.where(), err)
	}
	return false, nil
}

// find returns the process, which may have ended meanwhile.
func (s Signal) find() (target, error) {
	if s.PIDFile == "" {
		p, err := s.Match.find()
		return target{Info: p}, err
	}
	pid, written, err := s.pid()
	if err != nil {
		return target{}, err
	}
	info, err := proc.Read(pid)
	p := target{Info: info}
	switch {
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH):
		return target{proc.Info{Identity: proc.Identity{PID: pid}}, true}, nil // by hidepid of /proc
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH), err == nil && p.Ended():
		return p, s.gone(pid)
	case err != nil:
		return p, fmt.Errorf("looking at process %d of pid file %s: %w", pid, s.PIDFile, err)
	case p.startedAfter(written):
		return p, fmt.Errorf("%w: pid file %s is stale: process %d was started after it was written, so that the number is another process's by now; start the workload, which then writes it again (after a change of the clock: touch the file), or find the process by process and cmdline instead",
			ErrNotRunning, s.PIDFile, pid)
	}
	return p, nil
}

// startSlack is how much later than its pid file a process may seem to start: some file systems keep times
// in steps of two seconds (FAT), and the two times come from different clocks.
const startSlack = 2 * time.Second

// startedAfter reports whether a process was started after a moment, by their ages: a process's start is known as time since
// the machine's.
func (p target) startedAfter(moment time.Time) bool {
	age := Uptime() - p.Started
	return age < time.Since(moment)-startSlack
}

func (s Signal) where() string {
	if s.PIDFile == "" {
		return s.Match.String()
	}
	return "pid file " + s.PIDFile
}

func (s Signal) gone(pid int) error {
	return fmt.Errorf("%w: process %d of %s is gone", ErrNotRunning, pid, s.where())
}

// pid returns the number that the pid file holds, and when it was written.
func (s Signal) pid() (pid int, written time.Time, err error) {
	data, err := external.ReadFile(s.PIDFile, maxPid, func(_ string, info fs.FileInfo) error {
		written = info.ModTime()
		return nil
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, written, fmt.Errorf("%w: pid file %s does not exist", ErrNotRunning, s.PIDFile)
	case err != nil:
		return 0, written, fmt.Errorf("reading the pid file: %w", err)
	}
	// What it holds is not quoted: it may be a file of secrets, named here by mistake.
	pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 || pid == os.Getpid() {
		return 0, written, fmt.Errorf("pid file %s does not hold the number of the workload's process", s.PIDFile)
	}
	return pid, written, nil
}

// maxPid is longer than any number with spaces around it.
const maxPid = 64

// See implements Seer.
func (s Signal) See(last proc.Identity) Sight {
	if last.PID == 0 {
		return Unknown
	}
	if p, err := proc.Read(last.PID); err == nil && p.Identity == last && !p.Ended() {
		return Runs
	}
	switch _, err := s.find(); { // of another process, or of one that /proc hides
	case err == nil:
		return Runs
	case errors.Is(err, ErrNotRunning):
		return Ended
	}
	return Unknown
}

// Identify implements Identifier.
func (s Signal) Identify(last proc.Identity) (proc.Identity, error) {
	// All processes are looked through only if the one that was found before is gone.
	if last.PID != 0 && s.PIDFile == "" {
		if p, err := proc.Read(last.PID); err == nil && p.Identity == last && !p.Ended() {
			return last, nil
		}
	}
	p, err := s.find()
	return p.Identity, err
}
