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
)

// Reloader makes a workload reload. ErrNotRunning says that there is none yet, which at the first rendering is as it
// should be: it will read the files when it starts.
type Reloader interface {
	Reload(ctx context.Context) error
}

// ErrNotRunning: there is no process to reload.
var ErrNotRunning = errors.New("the workload is not running")

// Signal sends a signal to the process whose number a file holds.
type Signal struct {
	PIDFile string
	Signal  syscall.Signal
}

var _ Reloader = Signal{}

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
	data, err := os.ReadFile(s.PIDFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: pid file %s does not exist", ErrNotRunning, s.PIDFile)
	}
	if err != nil {
		return fmt.Errorf("reading the pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("pid file %s holds %q, which is not the number of a process", s.PIDFile, short(string(data)))
	}
	err = syscall.Kill(pid, s.Signal)
	switch {
	case errors.Is(err, syscall.ESRCH):
		return fmt.Errorf("%w: process %d of pid file %s is gone", ErrNotRunning, pid, s.PIDFile)
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("process %d of pid file %s belongs to another user; run the sidecar as that user, or with CAP_KILL", pid, s.PIDFile)
	case err != nil:
		return fmt.Errorf("signalling process %d: %w", pid, err)
	}
	return nil
}

// short keeps garbage short.
func short(text string) string {
	const most = 20
	if text = strings.TrimSpace(text); len(text) > most {
		return text[:most] + "…"
	}
	return text
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
	output, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %s", c.Timeout)
	}
	const most = 400
	tail := strings.TrimSpace(string(output))
	if len(tail) > most {
		tail = "…" + tail[len(tail)-most:]
	}
	if c.Mask != nil {
		tail = c.Mask(tail)
	}
	return fmt.Errorf("reload command %s: %w: %s", c.Args[0], err, tail)
}

// HTTP makes a POST request.
type HTTP struct {
	URL     string
	Timeout time.Duration
}

var _ Reloader = HTTP{}

// Reload implements Reloader.
func (h HTTP) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, http.NoBody)
	if err != nil {
		return fmt.Errorf("reload request: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if err != nil {
		return fmt.Errorf("reload request: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("reload request: %s answered %s", h.URL, resp.Status)
	}
	return nil
}
