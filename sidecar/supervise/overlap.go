// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"context"
	"fmt"
	"time"
)

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
			return fmt.Errorf("it is unhealthy after %s: %w", p.o.ReadyTimeout, err)
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
