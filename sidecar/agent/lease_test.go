// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"testing"
	"time"
)

// hanging waits until it is released, where a test says so.
type hanging struct {
	in      string // "check" or "gate"
	from    func() bool
	entered chan struct{}
	release chan struct{}
}

func (h *hanging) Check(ctx context.Context, _ string) error { return h.wait(ctx, "check") }

func (h *hanging) Begin(ctx context.Context, _ string) error { return h.wait(ctx, "gate") }

func (h *hanging) wait(ctx context.Context, in string) error {
	if in != h.in || !h.from() {
		return nil
	}
	select {
	case h.entered <- struct{}{}:
	default:
	}
	select {
	case <-h.release:
		return errors.New("it has hung")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Without a lease an instance holds no rotation up: the value in use would be retired.
func TestLeaseIsExtendedWhileTheWorkloadHangs(t *testing.T) {
	for _, in := range []string{"check", "gate"} {
		t.Run(in, func(t *testing.T) {
			h := &hanging{in: in, entered: make(chan struct{}, 1), release: make(chan struct{})}
			r := startAgentWith(t, t.TempDir(), nil, func(r *running, c *Config) {
				r.fake.lease = 1
				h.from = func() bool { return r.fake.count("report") > 0 }
				c.Checker, c.Interval = h, 10*time.Millisecond
			})
			r.await("first", loaded("etag-1-0"))
			r.fake.change(func() { r.fake.version = 2 })
			select {
			case <-h.entered:
			case <-time.After(30 * time.Second):
				t.Fatal("it does not hang")
			}
			before := r.fake.count("extend")
			r.holds("the lease is extended meanwhile", func() bool { return r.fake.count("extend") >= before+3 })
			close(h.release)
		})
	}
}
