// SPDX-License-Identifier: Apache-2.0

// Package external is how the sidecar deals with what it does not control: it runs the operator's programs, sends requests to the
// workload, presents credentials from files, and quotes the responses in errors with their secrets masked.
package external

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Program is a program of the operator's, run without a shell. It makes a workload reload, for instance.
type Program struct {
	Args    []string
	Env     []string // besides the sidecar's own
	Timeout time.Duration
}

// Run runs the program to its end and returns the end of its output. After Timeout it kills the program's process group. Processes
// that a successful program leaves behind keep running, but their output is closed a second later.
func (p Program) Run(ctx context.Context) (Quote, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Args[0], p.Args[1:]...) //nolint:gosec // the operator's
	if len(p.Env) > 0 {
		cmd.Env = append(os.Environ(), p.Env...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		// It was not waited for yet, so that its number is still that of its group.
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	// A child of the program that keeps its output open must not keep us waiting.
	cmd.WaitDelay = time.Second
	output := &tail{}
	cmd.Stdout, cmd.Stderr = output, output
	err := cmd.Run()
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		err = nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("not done after %s", p.Timeout)
	case ctx.Err() != nil:
		err = ctx.Err()
	}
	return Quote{Kept: output.kept, Part: output.part}, err
}

// tail keeps the end of what is written to it.
type tail struct {
	kept []byte
	part bool
}

const tailSize = 64 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if len(t.kept) > 2*tailSize {
		t.kept, t.part = append([]byte(nil), t.kept[len(t.kept)-tailSize:]...), true
	}
	return len(p), nil
}
