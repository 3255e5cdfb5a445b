// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
)

// sidecar is one of this release, beside a process: the real machine, whose effects happen in the world. It may be killed
// between any two of them, and the process lives on. Other processes go by a model: liars, those that give no name, and
// sidecars of earlier releases.
type sidecar struct {
	p       *process
	s       machine.State
	effects []machine.Effect
	killed  bool
	revoked bool // its token; it will find out at its next watch

	contents map[string]int  // numbers of contents
	prepared *engine.Reading // stands beside the files
	works    bool            // it has handed its work over
	news     time.Duration   // when there may be news of it again
	watching time.Duration   // since when its watch is open
	away     time.Duration   // within which the next one starts, after it has stopped
	sent     *sent           // nil: no request is under way

	files *engine.Reading // on the disk: what they hold
	note  bool            // on the disk: that a reload is pending
	saved key.Value       // on the disk: the secret of its newest read
}

// sent is a request that is under way: it was served, or lost, and its answer is late.
type sent struct {
	of      machine.Do
	at      time.Duration // when its result comes
	result  machine.Event
	reading *engine.Reading // nil: it has read nothing
}

func newSidecar(p *process) *sidecar {
	a := &sidecar{p: p, contents: map[string]int{}, saved: p.secret}
	a.start()
	return a
}

// start starts it, perhaps after it was killed.
func (a *sidecar) start() {
	c := machine.Settings{
		Reloads: machine.WithReload, Checks: machine.WithChecks, Copies: machine.WithoutCopy, Interval: 5 * time.Second, Deadline: 5 * time.Second,
		Successes: 1, Failures: 1, OnStop: machine.HoldOnStop,
	}
	pending := machine.NoReload
	if a.note {
		pending = machine.ReloadPending
	}
	a.killed, a.works, a.prepared, a.sent = false, false, nil, nil
	a.p.reading, a.p.secret = nil, a.saved
	a.s, a.effects = machine.Begin(machine.Start(c, pending, a.p.w.uptime), a.p.w.uptime)
}

// act takes a few events, one after the other, and now and then lets something else happen between two of them.
func (a *sidecar) act() {
	for a.step() && a.p.w.rng.IntN(4) > 0 {
	}
}

// step performs effects and takes one event, if there is one. It reports whether more is to be done at once.
func (a *sidecar) step() bool {
	p, w := a.p, a.p.w
	e, ok := machine.Perform(a.effects, a.perform)
	a.effects = nil
	if a.killed {
		w.logf("the sidecar of %s is killed", p.name())
		w.stats.Killed++
		a.start()
		p.unreported = true
		p.next = w.uptime + w.between(100*time.Millisecond, 3*time.Second)
		return false
	}
	if !ok {
		if e, ok = a.wait(); !ok {
			at, _ := a.s.Timers.First()
			if a.sent != nil {
				at = min(at, a.sent.at)
			}
			p.next = max(w.uptime+time.Millisecond, min(at, w.uptime+p.pause()))
			return false
		}
	}
	e.At, e.Draw = w.uptime, w.rng.Float64()
	a.s, a.effects = machine.Next(a.s, e)
	p.unreported = a.s.Bundle != machine.BundleCurrent || a.s.Load != machine.Loaded || a.s.Report != machine.NoReport || a.s.Request == machine.Reporting || (a.s.Verdict == machine.Healthy) == p.unhealthy
	p.next = w.uptime + w.between(time.Millisecond, 50*time.Millisecond)
	if a.s.Life == machine.Ended {
		a.start()
		p.unreported = true
		p.next = w.uptime + w.between(100*time.Millisecond, a.away)
		return false
	}
	return len(a.effects) > 0 && (w.engine == nil || !w.node.dead)
}

// wait returns what has happened, if something has.
func (a *sidecar) wait() (machine.Event, bool) {
	p, w := a.p, a.p.w
	if !w.calm && w.rng.IntN(300) == 0 && p.running && a.files != nil {
		w.logf("%s restarts on its own", p.name())
		p.loadFrom(a.files)
	}
	if !w.calm && w.rng.IntN(500) == 0 {
		w.logf("the sidecar of %s is stopped", p.name())
		a.away = 3 * time.Second
		return machine.Event{Kind: machine.Stop}, true
	}
	if s := a.sent; s != nil && s.at <= w.uptime {
		return a.answered(), true
	}
	if at, kind := a.s.Timers.First(); at <= w.uptime {
		return machine.Event{Kind: kind}, true
	}
	if a.s.Watch == machine.WatchOpen {
		if kind := a.watch(); kind != "" {
			return machine.Event{Kind: kind, Of: machine.StartWatch}, true
		}
	}
	if a.works && w.uptime >= a.news && (p.reencrypt && len(p.reading.Bundle.Work) > 0 || w.rng.IntN(8) == 0) {
		a.news = w.uptime + p.pause()
		return machine.Event{Kind: machine.WorkNews}, true
	}
	return machine.Event{}, false
}

// watch returns what the watch that is open has brought; nothing yet: empty.
func (a *sidecar) watch() machine.Kind {
	p, w := a.p, a.p.w
	switch {
	case w.engine == nil:
		return machine.Unavailable
	case a.revoked:
		a.revoked = false
		return machine.Denied
	case !w.engine.SignOfLife(p.workload, p.id, p.token):
		return machine.Changed
	}
	p.spoke()
	watched, err := w.engine.Watch(ctx, p.workload, p.id, p.reading.Bundle.Holding.Etag, 0)
	switch {
	case err != nil:
		return a.failed(err, "watch").Kind
	case watched.Etag != p.reading.Bundle.Holding.Etag:
		return machine.Changed
	case w.uptime-a.watching > 5*time.Second:
		return machine.Quiet
	}
	return ""
}

// failed is the event of a request that the engine did not serve.
func (a *sidecar) failed(err error, what string) machine.Event {
	a.p.w.expect(err, what+" by "+a.p.name())
	if refused(err) {
		return machine.Event{Kind: machine.Refused}
	}
	return machine.Event{Kind: machine.Unavailable}
}

func (a *sidecar) perform(effect machine.Effect) (machine.Event, bool) {
	if a.kills() {
		return machine.Event{}, true
	}
	e, ok := a.do(effect.Do)
	e.Of = effect.Do
	if a.kills() {
		return machine.Event{}, true
	}
	return e, ok
}

func (a *sidecar) kills() bool {
	a.killed = !a.p.w.calm && a.p.w.rng.IntN(1000) == 0
	return a.killed
}

func (a *sidecar) do(one machine.Do) (machine.Event, bool) {
	p, w := a.p, a.p.w
	switch one {
	case machine.Login, machine.ReadBundle, machine.ExtendLease, machine.SendReport:
		a.send(one)
	case machine.CancelRequest:
		a.sent = nil
	case machine.SaveSecret:
		a.saved = p.reading.Secret
		return machine.Event{Kind: machine.Saved}, true
	case machine.PrepareFiles:
		a.prepared = p.reading
	case machine.NoteReload:
		a.note = a.note || a.files == nil || a.content(a.files) != a.content(a.prepared)
	case machine.Write:
		return a.write(), true
	case machine.ReloadWorkload:
		if !w.calm && w.rng.IntN(20) == 0 {
			return machine.Event{Kind: machine.ReloadFailed, Reason: "deaf"}, true
		}
		p.loadFrom(a.files)
		return machine.Event{Kind: machine.Reloaded}, true
	case machine.ReportLeaving:
		return a.leaving(), true
	case machine.ClearNotes:
		a.note = false
	case machine.CheckWorkload:
		if p.unhealthy {
			return machine.Event{Kind: machine.CheckFailed, Reason: "unhealthy"}, true
		}
		return machine.Event{Kind: machine.CheckPassed, Proof: string(w.proofOf(p.name()))}, true
	case machine.StartWatch:
		a.watching = w.uptime
	case machine.StartWork:
		a.works = true
	default: // what it says, and what this world has not
	}
	return machine.Event{}, false
}

// send sends a request. Its answer takes a moment, and now and then much longer.
func (a *sidecar) send(one machine.Do) {
	w := a.p.w
	if a.sent != nil {
		w.violate("%s sends two requests: %s while %s is under way", a.p.name(), one, a.sent.of)
	}
	a.sent = &sent{of: one, at: w.uptime + w.between(time.Millisecond, 20*time.Millisecond)}
	if !w.calm && w.rng.IntN(50) == 0 {
		a.sent.at = w.uptime + w.between(time.Second, 5*time.Second)
	}
	a.sent.result = a.request(one)
}

// answered is the result of the request that was under way.
func (a *sidecar) answered() machine.Event {
	s := a.sent
	if a.sent = nil; s.result.Kind == machine.BundleRead {
		a.p.reading, a.p.stale = s.reading, false
	}
	s.result.Of = s.of
	return s.result
}

// request asks the engine. Requests and their answers are lost, one in a row.
func (a *sidecar) request(one machine.Do) machine.Event {
	p, w := a.p, a.p.w
	away := machine.Event{Kind: machine.Unavailable}
	switch one {
	case machine.Login:
		if w.engine == nil {
			return away
		}
		return machine.Event{Kind: machine.LoggedIn, Renewal: machine.Fixed}
	case machine.ExtendLease:
		away.Kind = machine.ExtendFailed
	default:
	}
	var request, reply bool
	if a.s.Requests == 0 && a.s.Sessions == 0 {
		request, reply = p.lost()
	}
	if w.engine == nil || request {
		return away
	}
	var e machine.Event
	switch one {
	case machine.ReadBundle:
		e = a.read(reply)
	case machine.SendReport:
		etag, lease, err := a.report()
		if e = (machine.Event{Kind: machine.Reported, Etag: etag, Lease: lease}); err != nil {
			e = a.failed(err, "report")
		}
	default:
		extended, err := w.engine.Extend(p.workload, p.id, p.reading.Secret, time.Hour)
		if e = (machine.Event{Kind: machine.Extended, Etag: extended.Etag, Lease: extended.Lease}); err != nil {
			e = machine.Event{Kind: machine.ExtendFailed}
			w.expect(err, "extension by "+p.name())
		}
	}
	if w.node.dead || reply {
		return away
	}
	return e
}

func (a *sidecar) read(reply bool) machine.Event {
	reading, err := a.p.ask(reply)
	if err != nil {
		return a.failed(err, "read")
	}
	if reading == nil {
		return machine.Event{Kind: machine.Unavailable}
	}
	a.sent.reading = reading
	held := machine.Held{Etag: reading.Bundle.Holding.Etag, Content: a.content(reading)}
	return machine.Event{Kind: machine.BundleRead, Held: held, Lease: reading.TTL}
}

func (a *sidecar) report() (etag string, lease time.Duration, err error) {
	p, w := a.p, a.p.w
	if a.s.Loaded != "" && !p.holdsOf(a.files) {
		w.violate("%s reports %s as loaded, and runs with something else", p.name(), a.s.Loaded)
	}
	report := engine.Report{
		Workload: p.workload, Instance: p.id, Secret: p.reading.Secret, Etag: a.s.Loaded, Proof: workload.Proof(a.s.Proof), Healthy: a.s.Verdict == machine.Healthy, Reason: a.s.Reason,
	}
	if a.works {
		report.Work = p.workReports()
	}
	etag, err = w.engine.Report(ctx, report)
	if err != nil || w.node.dead {
		return etag, 0, err
	}
	for _, done := range report.Work {
		p.done[done.ID] = true
	}
	extended, err := w.engine.Extend(p.workload, p.id, p.reading.Secret, time.Hour)
	return etag, extended.Lease, err
}

// leaving says that it stops beside its process. If that arrives, the instance counts for a lease from then on, in which the next
// one comes.
func (a *sidecar) leaving() machine.Event {
	p, w := a.p, a.p.w
	request, reply := p.lost()
	if w.engine == nil || request {
		return machine.Event{Kind: machine.LeaveFailed}
	}
	extended, err := w.engine.Leaving(ctx, p.workload, p.id, p.reading.Secret, time.Hour)
	if err != nil {
		w.expect(err, "the stop of the sidecar of "+p.name())
	}
	if err != nil || reply || w.node.dead {
		return machine.Event{Kind: machine.LeaveFailed}
	}
	w.logf("%s counts for %s without its sidecar", p.name(), extended.Lease)
	w.stats.Stopped++
	a.away = extended.Lease / 2
	return machine.Event{Kind: machine.Left}
}

// write puts what was prepared into its place.
func (a *sidecar) write() machine.Event {
	changed := a.files == nil || a.content(a.files) != a.content(a.prepared)
	a.files, a.prepared = a.prepared, nil
	if changed {
		return machine.Event{Kind: machine.Wrote, Reload: machine.ReloadPending}
	}
	return machine.Event{Kind: machine.Wrote}
}

// content numbers what a reading holds, but for its etag and its work.
func (a *sidecar) content(r *engine.Reading) int {
	var text strings.Builder
	held := holdingOf(r)
	for _, env := range slices.Sorted(maps.Keys(held.values)) {
		fmt.Fprintf(&text, "%s=%s\n", env, held.values[env])
	}
	for _, env := range slices.Sorted(maps.Keys(held.accepts)) {
		fmt.Fprintf(&text, "%s:%q\n", env, held.accepts[env])
	}
	number, ok := a.contents[text.String()]
	if !ok {
		number = len(a.contents) + 1
		a.contents[text.String()] = number
	}
	return number
}
