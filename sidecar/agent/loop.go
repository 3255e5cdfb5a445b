// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/reload"
)

// moment is the present on the machine's clock, which no change of the time of day moves.
func (a *Agent) moment() machine.Moment { return time.Since(a.began) }

// loop performs what the machine decides until its life has ended.
func (a *Agent) loop(ctx context.Context, begin machine.State) {
	sightings := a.proxies.ticker()
	defer sightings.Stop()
	var effects []machine.Effect
	a.state, effects = machine.Begin(begin, a.moment())
	for {
		event, ok := machine.Perform(effects, func(e machine.Effect) (machine.Event, bool) { return a.perform(ctx, e) })
		if a.state.Life == machine.Ended {
			break
		}
		if !ok {
			event = a.wait(ctx, sightings)
		}
		event.At, event.Draw = a.moment(), rand.Float64() //nolint:gosec // spreading, not secrecy
		a.state, effects = machine.Next(a.state, event)
		a.publish()
	}
	a.closeWatch()
}

// perform performs an effect. What fails once ctx has ended has no other meaning than that, and nothing that has a result is
// begun then but what ends the instance.
func (a *Agent) perform(ctx context.Context, effect machine.Effect) (machine.Event, bool) {
	if do := does[effect.Do]; do != nil {
		do(a)
		return machine.Event{}, false
	}
	if say := says[effect.Do]; say != nil {
		say(a, effect)
		return machine.Event{}, false
	}
	if last := lasts[effect.Do]; last != nil {
		return last(a), true
	}
	act := acts[effect.Do]
	if ctx.Err() != nil {
		return a.stops(), true
	}
	event, has := act(a, ctx)
	if has && event.Kind.Failed() && ctx.Err() != nil {
		return a.stops(), true
	}
	event.Of = effect.Do
	return event, has
}

// stops ends work and returns the event of the end.
func (a *Agent) stops() machine.Event {
	a.jobs.stop()
	a.discard()
	if p, ok := a.config.Reloader.(reload.Provider); ok && p.Failed() != "" {
		return machine.Event{Kind: machine.WorkloadGone, Reason: p.Failed()}
	}
	return machine.Event{Kind: machine.Stop}
}

// wait waits for what comes first: the end, another configuration, the result of the watch, news of work, a sighting, a timer.
func (a *Agent) wait(ctx context.Context, sightings *time.Ticker) machine.Event {
	at, due := a.state.Timers.First()
	timer := time.NewTimer(at - min(at, a.moment()))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return a.stops()
		case c := <-a.next:
			a.coming = c
			if identityOf(c.config) != identityOf(a.config) {
				return machine.Event{Kind: machine.Renamed}
			}
			return machine.Event{Kind: machine.Reconfigured}
		case w := <-a.watching.result():
			return a.watched(w)
		case <-sightings.C:
			if _, newest := a.proxies.sightings(); newest.After(a.proxies.told) {
				return machine.Event{Kind: machine.Sighted}
			}
		case <-a.jobs.news:
			return machine.Event{Kind: machine.WorkNews}
		case <-timer.C:
			return machine.Event{Kind: due}
		}
	}
}

// acts are effects that may have a result.
var acts = map[machine.Do]func(*Agent, context.Context) (machine.Event, bool){
	machine.Login:          result((*Agent).login),
	machine.RenewToken:     result((*Agent).renewToken),
	machine.ReadBundle:     result((*Agent).readBundle),
	machine.SendReport:     result((*Agent).sendReport),
	machine.ExtendLease:    result((*Agent).extendLease),
	machine.SaveSecret:     result((*Agent).saveSecret),
	machine.LoadCopy:       result((*Agent).loadCopy),
	machine.BeginGates:     (*Agent).beginGates,
	machine.KeepCopy:       (*Agent).keepCopy,
	machine.FeedProxies:    (*Agent).feedProxies,
	machine.PrepareFiles:   (*Agent).prepareFiles,
	machine.NoteReload:     (*Agent).noteReload,
	machine.Write:          result((*Agent).write),
	machine.ReloadWorkload: result((*Agent).reload),
	machine.CheckWorkload:  result((*Agent).check),
	machine.LookAtTargets:  result((*Agent).lookAtTargets),
	machine.LookAtPods:     result((*Agent).lookAtPods),
}

// lasts are effects with a result that are performed also when the process ends.
var lasts = map[machine.Do]func(*Agent) machine.Event{
	machine.Leave:         (*Agent).leave,
	machine.ReportFailure: (*Agent).reportFailure,
	machine.Adopt:         (*Agent).adopt,
}

// result makes an effect of what always has a result.
func result(do func(*Agent, context.Context) machine.Event) func(*Agent, context.Context) (machine.Event, bool) {
	return func(a *Agent, ctx context.Context) (machine.Event, bool) { return do(a, ctx), true }
}
