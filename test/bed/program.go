// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"os"
	"syscall"
)

// Program is any other program that runs in the bed.
type Program struct {
	LogPath string
	process *process
}

// Program starts one; it ends with the bed, or with us.
func (b *Bed) Program(name, path string, args, env []string) (*Program, error) {
	p, err := b.start(spec{
		name: name, path: path, args: args, dir: b.Dir, env: append([]string{"PATH=" + os.Getenv("PATH")}, env...),
		stopSignal: syscall.SIGTERM, dieSignal: syscall.SIGKILL,
	})
	if err != nil {
		return nil, err
	}
	return &Program{LogPath: p.log, process: p}, nil
}

// Stop asks it to end.
func (p *Program) Stop() error { return p.process.stop(stopPatience) }

// Kill ends it as a crash would.
func (p *Program) Kill() { p.process.kill() }

// PID is its process number.
func (p *Program) PID() int { return p.process.cmd.Process.Pid }

// Running reports whether it has not ended.
func (p *Program) Running() bool { return p.process.running() }

// Done is closed when it has ended.
func (p *Program) Done() <-chan struct{} { return p.process.done }

// Tail is the end of what it printed.
func (p *Program) Tail() string { return p.process.tail() }
