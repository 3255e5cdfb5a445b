// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
)

// extendLease sends a sign of life before the lease ends.
func (a *Agent) extendLease() request {
	engine, name, b := a.engine, a.config.Workload, a.bundle
	return request{send: func(ctx context.Context) finish {
		begun := time.Now()
		answer, err := engine.Extend(ctx, name, b.Instance, b.Secret)
		ended := ctx.Err() != nil
		return func() machine.Event {
			if err != nil {
				// Refused, or lost: the way on is the same.
				if !ended {
					a.log.Info("lease not extended; reading the bundle again", "error", a.mask(err.Error()))
				}
				return machine.Event{Kind: machine.ExtendFailed}
			}
			a.extended = begun
			return machine.Event{Kind: machine.Extended, Etag: answer.Etag, Lease: answer.Lease()}
		}
	}}
}

// outlasting are effects that may take longer than the lease lasts: they run what belongs to others, or wait for a server or
// a disk. Vault's own answers for the instance are not among them.
var outlasting = []machine.Do{
	machine.BeginGates, machine.KeepCopy, machine.FeedProxies, machine.PrepareFiles, machine.NoteReload, machine.Write,
	machine.ReloadWorkload, machine.CheckWorkload, machine.LookAtTargets, machine.LookAtPods,
	machine.ReadNew,
}

// holding extends a lease until it is ended.
type holding struct {
	cancel   context.CancelFunc
	ended    chan struct{}
	extended time.Time // when the last request began that has extended it
}

// holdLease extends the lease until endHold, during an effect that may take longer than the lease lasts, as a reload that stops the
// workload or a check that hangs; nil where there is no need. An instance without a lease holds no rotation up, and another login
// may use its name.
func (a *Agent) holdLease(ctx context.Context, during machine.Do) *holding {
	b, every := a.bundle, min(a.bundle.LeaseDuration/6, 2*watchFor)
	if every <= 0 || !a.state.Holds() || !slices.Contains(outlasting, during) || a.sent.holds() {
		return nil
	}
	// The machine extends the lease after two thirds of its time, if no effect or request is under way then. Several short ones in
	// a row must not put that off forever.
	first := min(every, max(0, b.LeaseDuration*5/6-time.Since(a.extended)))
	k, beside := a.keeper(), a.sent
	ctx, cancel := context.WithCancel(ctx)
	h := &holding{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(h.ended)
		said := false
		for wait := first; backoff.Wait(ctx, wait) == nil; wait = every {
			begun := time.Now()
			newest, reads := beside.newest(b)
			k.name, k.secret = newest.Instance, newest.Secret
			switch err := k.extend(ctx); {
			case err == nil:
				h.extended, said = begun, false
			case ctx.Err() == nil && !said && !reads:
				a.log.Warn("lease not extended", "during", string(during), "error", a.mask(err.Error()))
				said = true
			}
		}
	}()
	return h
}

// endHold ends what holdLease has begun.
func (a *Agent) endHold(h *holding) {
	if h == nil {
		return
	}
	h.cancel()
	if <-h.ended; h.extended.After(a.extended) {
		a.extended = h.extended
	}
}
