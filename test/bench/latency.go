// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

const (
	rotations    = 21
	instanceWait = 20 * time.Second       // of a watch: the engine's own default
	endPoll      = 100 * time.Millisecond // between looks at whether a rotation has ended; not part of what is measured
)

// holding is a bundle and when the instance had it.
type holding struct {
	client.Bundle
	at time.Time
}

// rotateLatency returns the median time from the request to rotate until an instance, which waits for news all the time,
// has read the bundle in which it presents the new version. It accepts the version first, and says so: this is two
// changes of its bundle and a report.
func rotateLatency(ctx context.Context, e *client.Client) (time.Duration, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	held := make(chan holding)
	group.Go(func() error { return attend(ctx, e, held) })
	var all []time.Duration
	group.Go(func() (err error) {
		defer stop()
		all, err = rotateInTurn(ctx, e, held)
		return err
	})
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return median(all), nil
}

// attend is the instance: it reads its bundle, reports it as loaded and waits for the next, until the context ends.
func attend(ctx context.Context, e *client.Client, held chan<- holding) error {
	for {
		b, err := e.Creds(ctx, benchLoad, "attending")
		now := holding{b, time.Now()}
		if err == nil {
			_, err = e.Report(ctx, client.Report{Workload: benchLoad, Instance: b.Instance, Secret: b.Secret, Etag: b.Etag, Healthy: true})
		}
		if err == nil {
			select {
			case held <- now:
			case <-ctx.Done():
			}
		}
		for w := (api.Watched{}); err == nil && !w.Changed; {
			w, err = e.Watch(ctx, benchLoad, b.Instance, b.Etag, instanceWait)
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to end
		}
		if err != nil {
			return err
		}
	}
}

// rotateInTurn rotates, each time to the end, and gives how long the instance was without the new version.
func rotateInTurn(ctx context.Context, e *client.Client, held <-chan holding) (all []time.Duration, err error) {
	poll := time.NewTicker(endPoll)
	defer poll.Stop()
	var now holding
	// await takes the next bundle; with or without one, it returns after a while.
	await := func() error {
		select {
		case now = <-held:
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	}
	for now.Etag == "" {
		if err := await(); err != nil {
			return nil, err
		}
	}
	for range rotations {
		want := now.Versions[benchEnv] + 1
		begun := time.Now()
		r, err := e.Rotate(ctx, "bench", benchKey)
		if err != nil {
			return nil, err
		}
		for now.Versions[benchEnv] != want {
			if err := await(); err != nil {
				return nil, err
			}
		}
		all = append(all, now.at.Sub(begun))
		for !r.Ended() {
			if err := await(); err != nil {
				return nil, err
			}
			if r, err = e.Rotation(ctx, r.ID); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}
