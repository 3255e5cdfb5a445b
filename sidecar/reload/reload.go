// SPDX-License-Identifier: Apache-2.0

// Package reload makes a workload take up what was rendered: by a signal, a command or an HTTP request.
package reload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

// Reloader makes a workload reload. ErrNotRunning says that there is none yet, which at the first rendering is as it
// should be: it will read the files when it starts.
type Reloader interface {
	Reload(ctx context.Context) error
}

// Starter is what a Reloader may be besides: it tells whether the workload was started after a moment, as Uptime gives
// it. Then it has read what was rendered before, and must not be signalled, perhaps before it is ready for that.
type Starter interface {
	StartedSince(moment time.Duration) bool
}

// Provider is what a Reloader may be besides: it gives the workload a bundle by itself, beside any files. Provide takes
// the bundle of the next Reload, and tells whether the workload has yet to be given it. Failed says how the workload has
// ended, if by itself and not well; it is empty otherwise.
type Provider interface {
	Provide(b client.Bundle) (changed bool, err error)
	Failed() string
}

// Uptime is the present moment, as time since the machine's start, which no change of the clock moves.
func Uptime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 1<<63 - 1 // nothing was started since
	}
	return time.Duration(now.Nano())
}

// ErrNotRunning: there is no process to reload.
var ErrNotRunning = errors.New("the workload is not running")

// Signal sends a signal to the process whose number a file holds.
type Signal struct {
	PIDFile string
	Signal  syscall.Signal
}

var (
	_ Reloader = Signal{}
	_ Starter  = Signal{}
)

// ParseSignal reads a name such as SIGHUP or HUP.
func ParseSignal(name string) (syscall.Signal, error) {
	full := strings.ToUpper(name)
	if !strings.HasPrefix(full, "SIG") {
		full = "SIG" + full
	}
	if s := unix.SignalNum(full); s != 0 {
		return s, nil
	}
	return 0, fmt.Errorf("signal %q is not known; use a name such as SIGHUP or SIGUSR1", name)
}

// Reload implements Reloader.
func (s Signal) Reload(context.Context) error {
	pid, err := s.pid()
	if err != nil {
		return err
	}
	err = syscall.Kill(pid, s.Signal)
	switch {
	case errors.Is(err, syscall.ESRCH):
		return s.gone(pid)
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("process %d of pid file %s belongs to another user; run the sidecar as that user, or with CAP_KILL", pid, s.PIDFile)
	case err != nil:
		return fmt.Errorf("signalling process %d: %w", pid, err)
	}
	// A signal to a process that has ended and was not waited for yet is taken, and does nothing.
	if state, _, err := stat(pid); err == nil && (state == 'Z' || state == 'X') {
		return s.gone(pid)
	}
	return nil
}

func (s Signal) gone(pid int) error {
	return fmt.Errorf("%w: process %d of pid file %s is gone", ErrNotRunning, pid, s.PIDFile)
}

func (s Signal) pid() (int, error) {
	data, err := os.ReadFile(s.PIDFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w: pid file %s does not exist", ErrNotRunning, s.PIDFile)
	}
	if err != nil {
		return 0, fmt.Errorf("reading the pid file: %w", err)
	}
	// What it holds is not quoted: it may be a file of secrets, named here by mistake.
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 || pid == os.Getpid() {
		return 0, fmt.Errorf("pid file %s does not hold the number of the workload's process", s.PIDFile)
	}
	return pid, nil
}

// StartedSince implements Starter.
func (s Signal) StartedSince(moment time.Duration) bool {
	pid, err := s.pid()
	if err != nil {
		return false
	}
	state, started, err := stat(pid)
	return err == nil && state != 'Z' && state != 'X' && started >= moment
}

// stat gives a process's state and the moment of its start, rounded down (proc_pid_stat(5), fields 3 and 22).
func stat(pid int) (state byte, started time.Duration, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name, field 2, stands in parentheses and may hold anything.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	const stateAt, startAt, tick = 0, 19, time.Second / 100 // fields from the third on; USER_HZ is 100 on every architecture that Go knows
	if len(fields) <= startAt {
		return 0, 0, fmt.Errorf("/proc/%d/stat has another form than is known", pid)
	}
	ticks, err := strconv.ParseInt(fields[startAt], 10, 64)
	return fields[stateAt][0], time.Duration(ticks) * tick, err
}

// Command runs a program, without a shell.
type Command struct {
	Args    []string
	Timeout time.Duration
	Mask    func(text string) string // hides values in what it printed
}

var _ Reloader = Command{}

// Reload implements Reloader.
func (c Command) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	// A child of the command that keeps its output open must not keep us waiting.
	cmd.WaitDelay = time.Second
	output := &ring{}
	cmd.Stdout, cmd.Stderr = output, output
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %s", c.Timeout)
	}
	const most = 400
	tail := string(output.kept)
	if c.Mask != nil {
		tail = c.Mask(tail) // before it is cut, perhaps through a value
	}
	if tail = strings.TrimSpace(tail); len(tail) > most {
		tail = "…" + strings.ToValidUTF8(tail[len(tail)-most:], "")
	}
	return fmt.Errorf("reload command %s: %w: %s", c.Args[0], err, tail)
}

// ring keeps the end of what is written to it.
type ring struct{ kept []byte }

const ringSize = 64 << 10

// Write implements io.Writer.
func (r *ring) Write(p []byte) (int, error) {
	r.kept = append(r.kept, p...)
	if len(r.kept) > 2*ringSize {
		r.kept = append([]byte(nil), r.kept[len(r.kept)-ringSize:]...)
	}
	return len(p), nil
}

// HTTP makes a POST request.
type HTTP struct {
	URL     string
	Timeout time.Duration
}

var _ Reloader = HTTP{}

// direct goes to the workload and nowhere else: by no proxy, after no redirection, on a connection of its own.
var direct = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Reload implements Reloader.
func (h HTTP) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, http.NoBody)
	if err != nil {
		return fmt.Errorf("reload request: %w", err)
	}
	resp, err := direct.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if err != nil {
		return fmt.Errorf("reload request: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("reload request: %s answered %s", req.URL.Redacted(), resp.Status)
	}
	return nil
}
