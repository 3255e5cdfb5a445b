// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

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
