// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// advance moves one rotation on as far as it goes now.
func (l *locked) advance(ctx context.Context, id string) error {
	for {
		r, ok := l.active[id]
		if !ok {
			return nil
		}
		f := l.facts(r)
		if next, changed := rotation.Further(r, f); changed {
			if err := l.move(ctx, next, f); err != nil {
				return err
			}
			continue
		}
		acted, err := l.act(ctx, r)
		if err != nil {
			return err
		}
		if !acted {
			l.sample(r)
			return nil
		}
	}
}

// settle saves a rotation that has changed, as far on as it goes now: steps that it only passes through need no record
// of their own.
func (l *locked) settle(ctx context.Context, r rotation.Rotation) error {
	f := l.facts(r)
	if next, changed := rotation.Further(r, f); changed {
		if lift, ok := l.freeze(f); ok {
			defer lift()
			return l.save(ctx, next)
		}
	}
	return l.save(ctx, r)
}

// move saves a rotation that moves on from these facts, or does nothing where they do not hold any more: then the caller
// gathers them anew.
func (l *locked) move(ctx context.Context, r rotation.Rotation, f rotation.Facts) error {
	lift, ok := l.freeze(f)
	if !ok {
		return nil
	}
	defer lift()
	return l.save(ctx, r)
}

// facts gathers what Next may know.
func (s *state) facts(r rotation.Rotation) (f rotation.Facts) {
	s.lock(func(m *memory) { f = m.factsNow(r) })
	return f
}

// factsNow is facts.
func (m *memory) factsNow(r rotation.Rotation) rotation.Facts {
	f := rotation.Facts{
		Now: m.Now(), Progress: map[string]workload.WorkReport{}, Ignored: map[string][]string{}, Observed: m.observed[r.ID],
		Witness: map[string]string{}, Revisions: map[string]uint64{}, Looks: map[string]rotation.Look{}, Keeps: map[string]time.Duration{},
		Grace: max(0, m.graceUntil-m.Uptime()),
	}
	f.Sampled, f.Dense = m.Sampled(r)
	for _, c := range r.Changes {
		f.Ignored[c.Key], f.Witness[c.Key] = m.Keys[c.Key].IgnoreColumns, m.Keys[c.Key].Witness
		f.Revisions[f.Witness[c.Key]] = m.Connections[f.Witness[c.Key]].Revision
		for _, seen := range r.Witnesses[r.WorkID(c)] {
			f.Revisions[seen.Connection] = m.Connections[seen.Connection].Revision
		}
		f.Keeps[c.Key] = m.Retention(r, m.Keys[c.Key], c)
		if look, ok := m.looks[r.WorkID(c)]; ok {
			f.Looks[r.WorkID(c)] = look
		}
		if report, ok := m.progress[r.WorkID(c)]; ok {
			f.Progress[r.WorkID(c)] = report
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Workloads)) {
		w := m.Workloads[name]
		if w.Uses(r.KeyNames()...) {
			f.Workloads = append(f.Workloads, rotation.WorkloadFact{Workload: w, Instances: m.fleets[name].All(), Given: m.fleets[name].Given()})
		}
	}
	return f
}

// save persists a rotation that has changed, swaps it in, and adds its new events to the journal. Killed between the
// record and the journal, the record tells at the next Begin what the journal lacks, so that it neither lacks nor
// repeats an event.
func (l *locked) save(ctx context.Context, r rotation.Rotation) error {
	before, had := l.active[r.ID]
	known := before.EventCount()
	r.Journaled, r.JournalSeq = known, l.journal.End().Count
	path := pathActive + r.ID
	if r.Finished() {
		path = pathRotations + r.ID
	}
	if err := l.put(ctx, path, r); err != nil {
		return err
	}
	l.lock(func(m *memory) {
		m.active[r.ID] = r
		for _, c := range r.Changes {
			m.rotating[c.Key] = r.ID
			m.agenda.Set(c.Key, never)
		}
	})
	l.needsRetention = true
	if !had || before.State != r.State || before.Step != r.Step || !maps.Equal(before.Stages, r.Stages) {
		l.markDirty(r.KeyNames()...)
	}
	if err := l.journalEvents(ctx, r, known); err != nil {
		return err
	}
	if r.Finished() {
		if err := l.leave(ctx, r); err != nil {
			return err
		}
		l.announceHead()
	}
	for _, event := range r.Timeline[known-r.Omitted:] {
		l.Observer.Moved(r, event)
	}
	return nil
}

// leave takes an ended rotation, whose record is under rotations/, out of active/.
func (l *locked) leave(ctx context.Context, r rotation.Rotation) error {
	if err := l.remove(ctx, pathActive+r.ID); err != nil {
		return err
	}
	l.lock(func(m *memory) {
		delete(m.active, r.ID)
		delete(m.observed, r.ID)
		m.ended(r.ID)
		for _, c := range r.Changes {
			delete(m.rotating, c.Key)
			delete(m.starts, c.Key)
			delete(m.progress, r.WorkID(c))
			delete(m.looks, r.WorkID(c))
		}
	})
	for _, c := range r.Changes {
		l.plan(c.Key, l.Now())
		l.checkSoon(c.Key, l.Now())
	}
	l.markDirty(r.KeyNames()...)
	return nil
}

// act does the step's action if it is due. It reports whether the action is done now; with a server it is done in the
// background, and a nudge follows.
func (l *locked) act(ctx context.Context, r rotation.Rotation) (bool, error) {
	what := r.Action()
	if what == rotation.NoAction || r.Acted || r.Paused != nil || l.busy[r.ID] || l.Now().Before(r.RetryAt) {
		return false, nil
	}
	if slices.ContainsFunc(r.KeyNames(), l.beingChecked) {
		return false, nil // what an inspection restores must not be what this takes away
	}
	if what == rotation.ActErase && len(rotation.CheckRows(r, l.facts(r))) > 0 {
		l.lookAtRows(r)
		return false, nil
	}
	if err := l.endingLeaked(ctx, r); err != nil {
		return false, err
	}
	calls, err := l.serverCalls(r, what)
	if err != nil {
		return false, l.acted(ctx, r, err)
	}
	if len(calls) == 0 {
		return true, l.record(ctx, r)
	}
	l.busy[r.ID] = true
	l.background(func(e *Engine) {
		fault := e.callAll(calls)
		l, release := e.acquire()
		defer release()
		l.finishAction(r, fault)
	})
	return false, nil
}

// callAll makes the calls of several keys one after the other, each in time.
func (s *state) callAll(calls []serverCall) error {
	for _, call := range calls {
		ctx, cancel := context.WithTimeout(s.ctx, actionDeadline)
		err := call(ctx, 0)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// finishAction records how an action in the background went, and moves the rotation on at once: it need not wait until run has
// rested.
func (l *locked) finishAction(r rotation.Rotation, fault error) {
	defer l.nudge()
	delete(l.busy, r.ID)
	now, ok := l.active[r.ID]
	if l.failing() || !ok || now.State != r.State || now.Step != r.Step {
		return // it went elsewhere meanwhile; what it does there is idempotent too
	}
	var err error
	if fault == nil {
		err = l.record(l.ctx, now)
	} else {
		err = l.acted(l.ctx, now, fault)
	}
	if err != nil {
		l.Observer.Fault("result of "+string(r.Action())+" for rotation "+r.ID+" could not be stored", err)
		return
	}
	if err := l.advance(l.ctx, r.ID); err != nil {
		l.Observer.Fault("rotation "+r.ID+" could not be moved on", err)
	}
}

// serverCall asks a server for something. One that samples does so for that long; 0: it looks once.
type serverCall func(ctx context.Context, long time.Duration) error

// serverCalls returns the calls that an action needs, one a key whose kind has a server. Before stage every key is checked
// first, so that nothing is changed for one where another cannot be.
func (l *locked) serverCalls(r rotation.Rotation, what rotation.Action) ([]serverCall, error) {
	var checks, calls []serverCall
	for _, c := range r.Changes {
		k, ok := l.Keys[c.Key]
		if !ok {
			return nil, fmt.Errorf("key %s is gone", c.Key)
		}
		kd, err := l.Kinds.Get(k.Kind)
		if err != nil {
			return nil, err
		}
		verifier, ok := kd.(kind.Verifier)
		if !ok || what == rotation.ActPromote || what == rotation.ActErase {
			continue
		}
		connection, err := l.ConnectionOf(k)
		if err != nil {
			return nil, err
		}
		from, _ := k.Version(c.From)
		to, _ := k.Version(c.To)
		if what == rotation.ActRetire && !from.State.Live() || what == rotation.ActUnstage && !to.State.Live() {
			continue // the server has done it: only the rotation's record of it was lost, and the value is gone
		}
		change := kind.Change{Key: k, From: from, To: to, Connection: connection, Cut: r.Compromised, Kept: k.Kept}
		if err := l.StillShared(r, k, what, change); err != nil {
			return nil, err
		}
		if what == rotation.ActStage {
			if err := l.CheckHosts(k, to.Value); err != nil {
				return nil, fmt.Errorf("key %s: %w", k.Name, err)
			}
		}
		if preflighter, ok := kd.(kind.Preflighter); ok && what == rotation.ActStage {
			refuse := preflightCall{preflighter, change}.refuse
			checks = append(checks, func(ctx context.Context, _ time.Duration) error { return refuse(ctx) })
		}
		if server, ok := kd.(kind.Server); ok {
			calls = append(calls, callFor(server, what, change, r.LookAgain(l.Now())))
			for _, number := range l.Leaked(r, k) {
				if change.From, _ = k.Version(number); what == rotation.ActRetire {
					calls = append(calls, callFor(server, what, change, 0))
				}
			}
		} else if what == rotation.ActStage {
			calls = append(calls, func(ctx context.Context, _ time.Duration) error { return untrusted.Verify(ctx, verifier, change) })
		}
	}
	return append(checks, calls...), nil
}

// callFor returns the call that an action makes to a server; again is for how long it looks for use before it takes a
// version away.
func callFor(server kind.Server, what rotation.Action, c kind.Change, again time.Duration) serverCall {
	return func(ctx context.Context, long time.Duration) error {
		switch what {
		case rotation.ActStage:
			if err := untrusted.Stage(ctx, server, c); err != nil {
				return err
			}
			return untrusted.Verify(ctx, server, c)
		case rotation.ActSample:
			return unused(ctx, server, c, long)
		case rotation.ActRetire:
			if !c.Cut {
				if err := unusedStill(ctx, server, c, again); err != nil {
					return err
				}
			}
			return untrusted.Retire(ctx, server, c)
		case rotation.ActUnstage:
			if !c.Cut { // whoever presented the new version has gone back; what it has still open at the server may not have
				back := c
				back.From, back.To = c.To, c.From
				if err := unusedStill(ctx, server, back, again); err != nil {
					return err
				}
			}
			return untrusted.Unstage(ctx, server, c)
		case rotation.NoAction, rotation.ActPromote, rotation.ActErase:
		}
		return nil
	}
}

// record writes the action's result into the keys, then into the rotation: killed in between, the action is done again
// and writes the same.
func (l *locked) record(ctx context.Context, r rotation.Rotation) error {
	ends := map[string]string{}
	if err := l.endLeaked(ctx, r); err != nil {
		return err
	}
	for _, c := range r.Changes {
		var change func(from, to int) (key.Key, error)
		k := l.Keys[c.Key]
		switch r.Action() {
		case rotation.ActPromote:
			change = k.Promoted
		case rotation.ActErase:
			change = func(int, int) (key.Key, error) { return l.endVersions(r, k, c) }
		case rotation.NoAction, rotation.ActStage, rotation.ActSample, rotation.ActRetire, rotation.ActUnstage:
			continue
		}
		old, _ := k.Version(c.From)
		login, _ := l.LoginOf(k, old.Value)
		k, err := change(c.From, c.To)
		if err != nil {
			return l.acted(ctx, r, err)
		}
		if r.State == rotation.Retiring && login.Name != "" {
			k = k.WithLogin(c.From, login.Name, l.Now().UTC())
		}
		if err := l.put(ctx, pathKeys+k.Name, k); err != nil {
			return err
		}
		l.lock(func(m *memory) { m.Keys[k.Name] = k })
		if r.Action() == rotation.ActErase {
			ends[c.Key] = r.EndText(k, c)
		}
	}
	if len(ends) > 0 {
		r.Ends = ends
	}
	return l.acted(ctx, r, nil)
}

// acted persists that the action succeeded, with what follows from that, or when it is tried again.
func (l *locked) acted(ctx context.Context, r rotation.Rotation, fault error) error {
	r = r.Clone()
	r.Acted = fault == nil
	r.Fault = ""
	r.RetryAt = never
	if fault != nil {
		r.Attempts++
		for _, c := range r.Changes {
			l.checkSoon(c.Key, l.Now())
		}
		if use := (inUse{}); errors.As(fault, &use) { // waiting mends that
			r.Attempts = min(r.Attempts, schedule.OrphanAfter-1)
		}
		r.Fault, r.RetryAt = untrusted.Reason(fault.Error()), l.Now().Add(retryAfter(r.Attempts, fault))
		return l.save(ctx, r)
	}
	return l.settle(ctx, r)
}

// erased reports whether a value that the rotation erases is gone, so that it cannot go back any more. Reports that come
// then are late: the value went on evidence that is stored.
func (rs *records) erased(r rotation.Rotation) bool {
	return r.Action() == rotation.ActErase && slices.ContainsFunc(r.Changes, func(c rotation.Change) bool {
		v, ok := rs.Keys[c.Key].Version(r.Leaving(c))
		return ok && !v.State.Live()
	})
}
