// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/backoff"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/status"
)

// former is an instance that the sidecar was under an earlier configuration. Its lease is extended until the workload has loaded
// the bundle of the present one: so long no rotation retires what it uses.
type former struct {
	*keeper
	identity
	secretPath string
	every      time.Duration // 0: there is no need
	stop       func()
	shown      *status.Former // on the board; nil: nothing is
}

// holdFormer begins to hold the present instance, if it has a lease.
func (a *Agent) holdFormer() {
	if !a.state.Holds() {
		return
	}
	path, _ := a.config.secretPath()
	f := &former{keeper: a.keeper(), identity: identityOf(a.config), secretPath: path, every: min(a.bundle.LeaseDuration/6, 2*watchFor)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	f.stop = func() {
		cancel()
		<-ended
		a.showFormer(f, nil)
	}
	go func() {
		defer close(ended)
		a.extendFormer(ctx, f)
	}()
	a.formers = append(a.formers, f)
}

// extendFormer extends the lease until ctx ends, and says the first error of a row.
func (a *Agent) extendFormer(ctx context.Context, f *former) {
	if f.every <= 0 {
		return
	}
	for backoff.Wait(ctx, f.every) == nil {
		err := f.extend(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && f.shown == nil {
			a.log.Warn("lease of the former instance not extended", "workload", f.workload, "instance", f.name, "error", a.mask(err.Error()))
		}
		a.showFormer(f, err)
	}
}

// showFormer puts on the board that the lease of a former instance is not extended; without an error, that it is.
func (a *Agent) showFormer(f *former, err error) {
	if err == nil && f.shown == nil {
		return
	}
	before := f.shown
	f.shown = nil
	if err != nil {
		f.shown = &status.Former{Workload: f.workload, Instance: f.name, Since: time.Now(), Error: a.mask(err.Error())}
		if before != nil {
			f.shown.Since = before.Since
		}
	}
	a.board.Update(func(s *status.State) {
		all := slices.DeleteFunc(slices.Clone(s.Formers), func(one *status.Former) bool { return one == before }) // readers may hold those before
		if f.shown != nil {
			all = append(all, f.shown)
		}
		s.Formers = all
	})
}

// formerOf returns the former instance that a configuration names; nil if none is.
func (a *Agent) formerOf(c Config) *former {
	for _, f := range a.formers {
		if f.identity == identityOf(c) {
			return f
		}
	}
	return nil
}

// dropFormer lets the present instance, whose bundle was read, be no former one any more: the secret of the read before proves nothing.
func (a *Agent) dropFormer() {
	if f := a.formerOf(a.config); f != nil {
		f.stop()
		a.formers = slices.DeleteFunc(a.formers, func(one *former) bool { return one == f })
	}
}

// leaveFormers leaves the instances of earlier configurations. Beside a workload that may run on, they keep their leases. One that the
// present configuration names stays while the sidecar runs: its bundle was not read again.
func (a *Agent) leaveFormers() {
	var stay []*former
	for _, f := range a.formers {
		if f.identity == identityOf(a.config) && a.state.Life != machine.Ended {
			stay = append(stay, f)
			continue
		}
		f.stop()
		ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
		leave := f.leave
		if a.holds {
			leave = f.reportLeaving
		}
		if err := leave(ctx); err != nil {
			a.log.Warn("engine not told that the sidecar gives up the former instance; it counts as live until its lease ends", "workload", f.workload, "instance", f.name, "error", a.mask(err.Error()))
		}
		cancel()
		if here, _ := a.config.secretPath(); f.secretPath != "" && f.secretPath != here {
			if err := os.Remove(f.secretPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
				a.log.Warn("the secret of the instance that has ended stays; it proves nothing", "error", err)
			}
		}
	}
	a.formers = stay
}
