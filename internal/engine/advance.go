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
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// advance moves one rotation on as far as it goes now. turn is held.
func (e *Engine) advance(ctx context.Context, id string) error {
	for {
		r, ok := e.active[id]
		if !ok {
			return nil
		}
		f := e.facts(r)
		if next, changed := rotation.Further(r, f); changed {
			if err := e.move(ctx, next, f); err != nil {
				return err
			}
			continue
		}
		acted, err := e.act(ctx, r)
		if err != nil {
			return err
		}
		if !acted {
			e.sample(r)
			return nil
		}
	}
}

// settle saves a rotation that has changed, as far on as it goes now: places that it only passes through need no record
// of their own. turn is held.
func (e *Engine) settle(ctx context.Context, r rotation.Rotation) error {
	f := e.facts(r)
	if next, changed := rotation.Further(r, f); changed {
		if lift, ok := e.bar(f); ok {
			defer lift()
			return e.save(ctx, next)
		}
	}
	return e.save(ctx, r)
}

// move saves a rotation that moves on from these facts, or does nothing where they do not hold any more: then the caller
// gathers them anew. turn is held.
func (e *Engine) move(ctx context.Context, r rotation.Rotation, f rotation.Facts) error {
	lift, ok := e.bar(f)
	if !ok {
		return nil
	}
	defer lift()
	return e.save(ctx, r)
}

// facts gathers what Next may know. turn is held.
func (e *Engine) facts(r rotation.Rotation) (f rotation.Facts) {
	e.lock(func() { f = e.factsNow(r) })
	return f
}

// factsNow is facts. mu is held.
func (e *Engine) factsNow(r rotation.Rotation) rotation.Facts {
	f := rotation.Facts{
		Now: e.Now(), Progress: map[string]workload.WorkReport{}, Waived: map[string][]string{}, Observed: e.observed[r.ID],
		Witness: map[string]string{}, Revisions: map[string]uint64{}, Looks: map[string]rotation.Look{}, Keeps: map[string]time.Duration{},
		Grace: max(0, e.graceUntil-e.Uptime()),
	}
	f.Sampled, f.Dense = e.sampled(r)
	for _, c := range r.Changes {
		f.Waived[c.Key], f.Witness[c.Key] = e.keys[c.Key].Waives, e.keys[c.Key].Witness
		f.Revisions[f.Witness[c.Key]] = e.connections[f.Witness[c.Key]].Revision
		for _, seen := range r.Witnesses[r.WorkID(c)] {
			f.Revisions[seen.Connection] = e.connections[seen.Connection].Revision
		}
		f.Keeps[c.Key] = e.retention(r, e.keys[c.Key], c)
		if look, ok := e.looks[r.WorkID(c)]; ok {
			f.Looks[r.WorkID(c)] = look
		}
		if report, ok := e.progress[r.WorkID(c)]; ok {
			f.Progress[r.WorkID(c)] = report
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.workloads)) {
		w := e.workloads[name]
		if w.Uses(r.KeyNames()...) {
			f.Workloads = append(f.Workloads, rotation.WorkloadFact{Workload: w, Instances: e.fleets[name].all(), Given: e.fleets[name].given})
		}
	}
	return f
}

// save persists a rotation that has changed, swaps it in, and adds its new events to the journal. Killed between the
// record and the journal, the record tells at the next Begin what the journal lacks, so that it neither lacks nor
// repeats an event. turn is held.
func (e *Engine) save(ctx context.Context, r rotation.Rotation) error {
	before, had := e.active[r.ID]
	known := before.EventCount()
	r.Journaled, r.JournalSeq = known, e.journal.End().Count
	path := pathActive + r.ID
	if r.Finished() {
		path = pathRotations + r.ID
	}
	if err := e.put(ctx, path, r); err != nil {
		return err
	}
	e.lock(func() {
		e.active[r.ID] = r
		for _, c := range r.Changes {
			e.rotating[c.Key] = r.ID
			e.agenda.Set(c.Key, never)
		}
	})
	e.grown = true
	if !had || before.State != r.State || before.Step != r.Step || !maps.Equal(before.Positions, r.Positions) {
		e.ring(r.KeyNames()...)
	}
	if err := e.journalEvents(ctx, r, known); err != nil {
		return err
	}
	if r.Finished() {
		if err := e.leave(ctx, r); err != nil {
			return err
		}
		e.tellHead()
	}
	for _, event := range r.Timeline[known-r.Omitted:] {
		e.Observer.Moved(r, event)
	}
	return nil
}

// leave takes an ended rotation, whose record is under rotations/, out of active/. turn is held.
func (e *Engine) leave(ctx context.Context, r rotation.Rotation) error {
	if err := e.remove(ctx, pathActive+r.ID); err != nil {
		return err
	}
	e.lock(func() {
		delete(e.active, r.ID)
		delete(e.observed, r.ID)
		e.ended(r.ID)
		for _, c := range r.Changes {
			delete(e.rotating, c.Key)
			delete(e.starts, c.Key)
			delete(e.progress, r.WorkID(c))
			delete(e.looks, r.WorkID(c))
		}
	})
	for _, c := range r.Changes {
		e.plan(c.Key, e.Now())
		e.checkSoon(c.Key, e.Now())
	}
	e.ring(r.KeyNames()...)
	return nil
}

// act does the place's action if it is due. It tells whether the action is done now; with a server it is done in the
// background, and a nudge follows. turn is held.
func (e *Engine) act(ctx context.Context, r rotation.Rotation) (bool, error) {
	what := r.Action()
	if what == rotation.NoAction || r.Acted || r.Paused != nil || e.busy[r.ID] || e.Now().Before(r.RetryAt) {
		return false, nil
	}
	if slices.ContainsFunc(r.KeyNames(), e.beingChecked) {
		return false, nil // what an inspection restores must not be what this takes away
	}
	if what == rotation.ActErase && len(rotation.CheckRows(r, e.facts(r))) > 0 {
		e.lookAtRows(r)
		return false, nil
	}
	if err := e.endingLeaked(ctx, r); err != nil {
		return false, err
	}
	calls, err := e.serverCalls(r, what)
	if err != nil {
		return false, e.acted(ctx, r, err)
	}
	if len(calls) == 0 {
		return true, e.record(ctx, r)
	}
	e.busy[r.ID] = true
	e.Background(func() {
		e.take(r, e.callAll(calls))
	})
	return false, nil
}

// callAll makes the calls of several keys one after the other, each in time.
func (e *Engine) callAll(calls []serverCall) error {
	for _, call := range calls {
		ctx, cancel := context.WithTimeout(e.ctx, actionDeadline)
		err := call(ctx, 0)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// take records how an action in the background went, and moves the rotation on at once: it need not wait until run has
// rested.
func (e *Engine) take(r rotation.Rotation, fault error) {
	defer e.takeTurn()()
	defer e.nudge()
	delete(e.busy, r.ID)
	now, ok := e.active[r.ID]
	if e.failing() || !ok || now.State != r.State || now.Step != r.Step {
		return // it went elsewhere meanwhile; what it does there is idempotent too
	}
	var err error
	if fault == nil {
		err = e.record(e.ctx, now)
	} else {
		err = e.acted(e.ctx, now, fault)
	}
	if err != nil {
		e.Observer.Fault("result of "+string(r.Action())+" for rotation "+r.ID+" could not be stored", err)
		return
	}
	if err := e.advance(e.ctx, r.ID); err != nil {
		e.Observer.Fault("rotation "+r.ID+" could not be moved on", err)
	}
}

// serverCall asks a server for something. One that samples does so for that long; 0: it looks once.
type serverCall func(ctx context.Context, long time.Duration) error

// serverCalls returns the calls that an action needs, one a key whose kind has a server. Before stage every key is checked
// first, so that nothing is changed for one where another cannot be. The writer lock is held.
func (e *Engine) serverCalls(r rotation.Rotation, what rotation.Action) ([]serverCall, error) {
	var checks, calls []serverCall
	for _, c := range r.Changes {
		k, ok := e.keys[c.Key]
		if !ok {
			return nil, fmt.Errorf("key %s is gone", c.Key)
		}
		kd, err := e.Kinds.Get(k.Kind)
		if err != nil {
			return nil, err
		}
		verifier, ok := kd.(kind.Verifier)
		if !ok || what == rotation.ActPromote || what == rotation.ActErase {
			continue
		}
		connection, err := e.connectionOf(k)
		if err != nil {
			return nil, err
		}
		from, _ := k.Version(c.From)
		to, _ := k.Version(c.To)
		if what == rotation.ActRetire && !from.State.Live() || what == rotation.ActUnstage && !to.State.Live() {
			continue // the server has done it: only the rotation's record of it was lost, and the value is gone
		}
		change := kind.Change{Key: k, From: from, To: to, Connection: connection, Cut: r.Compromised, Kept: k.Kept}
		if err := e.stillShared(r, k, what, change); err != nil {
			return nil, err
		}
		if what == rotation.ActStage {
			if err := e.checkHosts(k, to.Value); err != nil {
				return nil, fmt.Errorf("key %s: %w", k.Name, err)
			}
		}
		if preflighter, ok := kd.(kind.Preflighter); ok && what == rotation.ActStage {
			refuse := preflightCall{preflighter, change}.refuse
			checks = append(checks, func(ctx context.Context, _ time.Duration) error { return refuse(ctx) })
		}
		if server, ok := kd.(kind.Server); ok {
			calls = append(calls, callFor(server, what, change, r.LookAgain(e.Now())))
			for _, number := range e.leaked(r, k) {
				if change.From, _ = k.Version(number); what == rotation.ActRetire {
					calls = append(calls, callFor(server, what, change, 0))
				}
			}
		} else if what == rotation.ActStage {
			calls = append(calls, func(ctx context.Context, _ time.Duration) error { return verifyAt(ctx, verifier, change) })
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
			if err := stageAt(ctx, server, c); err != nil {
				return err
			}
			return verifyAt(ctx, server, c)
		case rotation.ActSample:
			return unused(ctx, server, c, long)
		case rotation.ActRetire:
			if !c.Cut {
				if err := unusedStill(ctx, server, c, again); err != nil {
					return err
				}
			}
			return retireAt(ctx, server, c)
		case rotation.ActUnstage:
			if !c.Cut { // whoever presented the new version has gone back; what it has still open at the server may not have
				back := c
				back.From, back.To = c.To, c.From
				if err := unusedStill(ctx, server, back, again); err != nil {
					return err
				}
			}
			return unstageAt(ctx, server, c)
		case rotation.NoAction, rotation.ActPromote, rotation.ActErase:
		}
		return nil
	}
}

// record writes the action's result into the keys, then into the rotation: killed in between, the action is done again
// and writes the same. turn is held.
func (e *Engine) record(ctx context.Context, r rotation.Rotation) error {
	ends := map[string]string{}
	if err := e.endLeaked(ctx, r); err != nil {
		return err
	}
	for _, c := range r.Changes {
		var change func(from, to int) (key.Key, error)
		k := e.keys[c.Key]
		switch r.Action() {
		case rotation.ActPromote:
			change = k.Promoted
		case rotation.ActErase:
			change = func(int, int) (key.Key, error) { return e.endVersions(r, k, c) }
		case rotation.NoAction, rotation.ActStage, rotation.ActSample, rotation.ActRetire, rotation.ActUnstage:
			continue
		}
		old, _ := k.Version(c.From)
		login, _ := e.loginOf(k, old.Value)
		k, err := change(c.From, c.To)
		if err != nil {
			return e.acted(ctx, r, err)
		}
		if r.State == rotation.Retiring && login.name != "" {
			k = k.WithLogin(c.From, login.name, e.Now().UTC())
		}
		if err := e.put(ctx, pathKeys+k.Name, k); err != nil {
			return err
		}
		e.lock(func() { e.keys[k.Name] = k })
		if r.Action() == rotation.ActErase {
			ends[c.Key] = r.EndText(k, c)
		}
	}
	if len(ends) > 0 {
		r.Ends = ends
	}
	return e.acted(ctx, r, nil)
}

// acted persists that the action succeeded, with what follows from that, or when it is tried again. turn is held.
func (e *Engine) acted(ctx context.Context, r rotation.Rotation, fault error) error {
	r = r.Clone()
	r.Acted = fault == nil
	r.Fault = ""
	r.RetryAt = never
	if fault != nil {
		r.Attempts++
		for _, c := range r.Changes {
			e.checkSoon(c.Key, e.Now())
		}
		if use := (inUse{}); errors.As(fault, &use) { // waiting mends that
			r.Attempts = min(r.Attempts, schedule.OrphanAfter-1)
		}
		r.Fault, r.RetryAt = cutOff(fault.Error()), e.Now().Add(retryAfter(r.Attempts, fault))
		return e.save(ctx, r)
	}
	return e.settle(ctx, r)
}

// erased reports whether a value that the rotation erases is gone, so that it cannot go back any more. Reports that come
// then are late: the value went on evidence that is stored. turn is held.
func (e *Engine) erased(r rotation.Rotation) bool {
	return r.Action() == rotation.ActErase && slices.ContainsFunc(r.Changes, func(c rotation.Change) bool {
		v, ok := e.keys[c.Key].Version(r.Leaving(c))
		return ok && !v.State.Live()
	})
}
