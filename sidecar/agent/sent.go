// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
)

// requests are the effects that start a request to Vault. It runs beside the loop: while Vault is silent, the workload is checked,
// and another configuration is loaded.
var requests = map[machine.Do]func(*Agent) request{
	machine.Login:       (*Agent).login,
	machine.RenewToken:  (*Agent).renewToken,
	machine.ReadBundle:  (*Agent).readBundle,
	machine.SendReport:  (*Agent).sendReport,
	machine.ExtendLease: (*Agent).extendLease,
	machine.ReadNew:     (*Agent).readNew,
}

// request is a request that the loop has prepared.
type request struct {
	send func(context.Context) finish   // touches no field of Agent
	has  finish                         // in place of send: the result is there already
	read *atomic.Pointer[client.Bundle] // what send has read as the instance that the sidecar is; nil: send reads nothing
	drop func()                         // of the result, after a cancellation; nil: there is nothing to do
}

// finish takes the result of a request in the loop, and returns its event.
type finish func() machine.Event

// sent is the request that is under way.
type sent struct {
	request
	of     machine.Do
	cancel context.CancelFunc
	ended  chan answer
	hold   *holding // of the lease meanwhile
	newer  *change  // of ReadNew: a newer configuration, for which the bundle is read as well
}

type answer struct {
	finish
	at time.Time
}

// send starts a request.
func (a *Agent) send(ctx context.Context, of machine.Do) {
	r := requests[of](a)
	hold := a.holdLease(ctx, of)
	if r.read != nil { // at the end of the process, finishRead waits for it
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan answer, 1)
	a.sent = &sent{request: r, of: of, cancel: cancel, ended: ended, hold: hold}
	if r.has != nil {
		ended <- answer{r.has, time.Now()}
		return
	}
	go func() {
		f := r.send(ctx)
		ended <- answer{f, time.Now()}
	}()
}

func (s *sent) result() <-chan answer {
	if s == nil {
		return nil
	}
	return s.ended
}

// holds reports whether the lease is extended during the request.
func (s *sent) holds() bool { return s != nil && s.hold != nil }

// newest returns the bundle that the request has read, or else the one before, and whether a read is under way still: Vault may
// have served it, and then the secret of the bundle before proves nothing.
func (s *sent) newest(before client.Bundle) (newest client.Bundle, reads bool) {
	if s == nil || s.read == nil {
		return before, false
	}
	if b := s.read.Load(); b != nil {
		return *b, false
	}
	return before, true
}

// end ends a request that was answered or is to be canceled.
func (a *Agent) end() *sent {
	s := a.sent
	a.sent = nil
	s.cancel()
	a.endHold(s.hold)
	return s
}

// answered is the event of the request that was under way. The loop may have been busy since Vault has answered.
func (a *Agent) answered(ctx context.Context, result answer) machine.Event {
	s := a.sent
	e := result.finish()
	a.end()
	if e.Kind.Failed() && ctx.Err() != nil {
		return a.stops()
	}
	late := time.Since(result.at)
	e.Of, e.TTL, e.Lease = s.of, left(e.TTL, late), left(e.Lease, late)
	return e
}

// left returns what is left of a time; 0 stays, which is no end.
func left(of, late time.Duration) time.Duration { return max(min(of, time.Second), of-late) }

// cancelRequest cancels the request that is under way, if there is one.
func (a *Agent) cancelRequest() {
	if a.sent == nil {
		return
	}
	s := a.end()
	<-s.ended // at once; nothing uses the login and its method meanwhile
	if s.drop != nil {
		s.drop()
	}
}

// readsFor reports whether the bundle of another instance that is being read is what a newer configuration needs, too. That takes
// the place of the other one then: to read it again might take until the name is free, since another login would do it.
func (a *Agent) readsFor(c change) bool {
	if a.sent == nil || a.sent.of != machine.ReadNew {
		return false
	}
	was := a.coming.config
	if identityOf(was) != identityOf(c.config) || !slices.Equal(was.oneLine(), c.config.oneLine()) || !reflect.DeepEqual(was.Vault, c.config.Vault) {
		return false
	}
	a.sent.newer = &c
	return true
}
