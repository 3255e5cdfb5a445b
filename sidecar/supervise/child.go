// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// StartError says that the program is not there, or cannot be run, whatever is tried.
type StartError struct {
	Program string
	Status  int // as a shell's: 127 if it is not there, 126 if it cannot be run
	Err     error
}

// Error implements error.
func (e *StartError) Error() string {
	remedy := "it must be a program for this machine, or a script that begins with #!, and executable by this user"
	if e.Status == 127 {
		remedy = "name one by its path, or one that PATH finds"
	}
	return fmt.Sprintf("workload %s cannot be started: %v; %s", e.Program, e.Err, remedy)
}

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

// Find returns the path of the program; a StartError if there is none.
func Find(command []string) (string, error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return "", startError(command[0], err)
	}
	return path, nil
}

// startError tells what no further attempt mends from what one may, such as too many processes at the moment.
func startError(program string, err error) error {
	cause := err
	var wrapped *exec.Error
	if errors.As(err, &wrapped) {
		cause = wrapped.Err
	}
	switch {
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		return &StartError{program, 127, cause}
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOEXEC) || errors.Is(err, syscall.ENOTDIR) ||
		errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ELOOP) || errors.Is(err, exec.ErrDot):
		return &StartError{program, 126, cause}
	}
	return fmt.Errorf("starting workload %s: %w", program, cause)
}

// child is one process. What is not said to be constant is guarded by the mutex of Process.
type child struct {
	cmd  *exec.Cmd         // constant
	sum  [sha256.Size]byte // constant; over what it got of the bundle
	etag string            // constant; of that bundle
	done chan struct{}     // closed when it was waited for
	born time.Duration     // constant; when it was started, as reload.Uptime

	since    time.Time // of its start, or of the last signal on a change
	stopping bool      // it is us who stop it
	over     bool
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) signal(s os.Signal) error { return c.cmd.Process.Signal(s) }

// wait reaps the process. Method status returns how it ended.
func (c *child) wait() { _ = c.cmd.Wait() }

// status is the exit status, once done.
func (c *child) status() int {
	if w, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}

// start is a program to be started by the thread.
type start struct {
	cmd    *exec.Cmd
	result chan error
}

// thread starts programs. The kernel's promise to kill a process at its parent's death (PR_SET_PDEATHSIG) is about the
// thread that has started it, so that this thread must live as long as they may, and do nothing else.
func (p *Process) thread() {
	runtime.LockOSThread()
	for s := range p.starts {
		s.result <- s.cmd.Start()
	}
}

// spawn starts a process in a group of its own, so that a signal to the group ends all its children, too.
func (p *Process) spawn(path string, env []string) (*child, error) {
	cmd := &exec.Cmd{
		Path: path, Args: p.o.Command, Env: env, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	result := make(chan error)
	p.starts <- start{cmd, result}
	if err := <-result; err != nil {
		return nil, startError(p.o.Command[0], err)
	}
	cmd.Env = nil // one copy of the values less
	return &child{cmd: cmd, done: make(chan struct{}), born: reload.Uptime(), since: time.Now()}, nil
}

// stop ends a process that another one replaces. It returns false if that process was the last one: it had ended by
// itself, or a signal asks the workload to end.
func (p *Process) stop(c *child) bool {
	p.mu.Lock()
	if c.over {
		p.mu.Unlock()
		return false
	}
	c.stopping = true
	p.mu.Unlock()
	p.halt(c)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = nil
	if p.leaving {
		p.finish(c.status(), "")
	}
	return !p.leaving
}

// halt ends a process and what it has started. That nobody is to take its end for the workload's was noted before.
func (p *Process) halt(c *child) {
	begun := time.Now()
	until := begun.Add(p.o.StopTimeout)
	_ = c.signal(p.o.StopSignal) // one that has ended meanwhile is what is wanted
	killed := false
	select {
	case <-c.done:
	case <-time.After(p.o.StopTimeout):
		killed = true
		p.log.Warn("workload does not stop in time; it is killed", "pid", c.pid(), "stop_timeout", p.o.StopTimeout)
		_ = syscall.Kill(-c.pid(), syscall.SIGKILL)
		<-c.done
	}
	p.endGroup(c.pid(), until)
	p.log.Info("workload stopped for a change", "pid", c.pid(), "status", c.status(), "took", time.Since(begun), "killed", killed)
}

// endGroup ends what a process that was waited for has left of its group: what it started may hold its port, or work
// with what it was given. They get the stop signal, and are killed at the given time.
func (p *Process) endGroup(group int, until time.Time) {
	const pause, patience = 10 * time.Millisecond, 2 * time.Second
	for signal := p.o.StopSignal; ; {
		reapGroup(group)
		if errors.Is(syscall.Kill(-group, signal), syscall.ESRCH) {
			return
		}
		signal = 0 // once is enough; after that, whether there is anybody
		switch late := time.Since(until); {
		case late > patience:
			p.log.Warn("processes of the workload survive being killed", "group", group)
			return
		case late >= 0:
			signal = syscall.SIGKILL
		}
		<-time.After(pause)
	}
}

// replace starts the next process beside the one that runs, and stops that only once the next one is healthy. If it does
// not come to that, the next one is ended and the one before continues.
func (p *Process) replace(ctx context.Context, old *child) error {
	p.mu.Lock()
	b := p.bundle
	p.mu.Unlock()
	env, sum, err := p.o.environment(b)
	if err != nil {
		return err
	}
	path, err := Find(p.o.Command)
	if err != nil {
		return err
	}
	next, err := p.begin(path, env, sum, true)
	if err != nil {
		return fmt.Errorf("the process before continues: %w", err)
	}
	err = p.ready(ctx, next, b.Etag)
	p.mu.Lock()
	switch {
	case err != nil:
	case next.over:
		err = fmt.Errorf("it ended with status %d", next.status())
	case p.over || p.leaving || old.over:
		err = errLeaving
	default:
		p.current, p.next = next, nil
		old.stopping = true
	}
	failed, ending := err != nil, p.over || p.leaving || old.over
	p.mu.Unlock()
	if !failed {
		p.halt(old)
		return nil
	}
	p.abandon(next)
	if ending {
		return errLeaving
	}
	return fmt.Errorf("the next process is not healthy, and the one before continues: %w", err)
}

// ready waits until the next process answers, and is known by its etag.
func (p *Process) ready(ctx context.Context, next *child, etag string) error {
	const pause = 50 * time.Millisecond
	for until := time.Now().Add(p.o.ReadyTimeout); ; {
		err := p.o.Checker.Check(ctx, etag)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next.done:
			return fmt.Errorf("it ended with status %d", next.status())
		case <-time.After(pause):
		}
		p.mu.Lock()
		ending := p.over || p.leaving
		p.mu.Unlock()
		switch {
		case ending:
			return errLeaving
		case time.Now().After(until):
			return fmt.Errorf("it is unhealthy after %s: %w", duration.Text(p.o.ReadyTimeout), err)
		}
	}
}

// abandon ends a process that was to be the next one.
func (p *Process) abandon(next *child) {
	p.mu.Lock()
	next.stopping = true
	if p.next == next {
		p.next = nil
	}
	p.mu.Unlock()
	p.halt(next)
}

// passedOn are the signals that somebody outside may mean for the workload. The rest is the kernel's with this process
// (SIGCHLD, SIGPIPE, SIGURG and the like), or cannot be caught.
var passedOn = []os.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
	syscall.SIGALRM, syscall.SIGCONT, syscall.SIGIO, syscall.SIGPWR,
}

// Forward passes signals on until ctx ends. Ready is called once none is lost any more.
func (p *Process) Forward(ctx context.Context, ready func()) {
	signals := make(chan os.Signal, 64)
	for _, s := range passedOn {
		if !signal.Ignored(s) { // as under nohup: the workload inherits that
			signal.Notify(signals, s)
		}
	}
	defer signal.Stop(signals)
	ready()
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-signals:
			if s, ok := s.(syscall.Signal); ok {
				p.Pass(s)
			}
		}
	}
}

// Pass forwards a signal to the workload. After a signal that asks the workload to end, Process does not start it again and sets
// no timeout; the caller decides when to send SIGKILL.
func (p *Process) Pass(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	asks := s == syscall.SIGTERM || s == syscall.SIGINT
	p.leaving = p.leaving || asks
	for _, c := range []*child{p.current, p.next} {
		if c == nil {
			continue
		}
		if err := c.signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
			p.log.Warn("signal not passed on", "signal", s.String(), "error", err)
			continue
		}
		p.log.Debug("signal passed on", "signal", s.String(), "pid", c.pid())
	}
	switch {
	case p.current != nil:
	case asks || s == syscall.SIGQUIT:
		p.leaving = true
		p.finish(128+int(s), "") // it was never started, or is between two starts
	}
}
