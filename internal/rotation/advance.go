// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Retries of an action: exponential, with a cap.
const (
	retryFirst = time.Second
	retryMost  = 5 * time.Minute
)

func backoff(attempts int) time.Duration {
	return min(retryFirst<<min(attempts-1, 16), retryMost)
}

// advance moves one rotation on as far as it goes now. mu is held.
func (e *Engine) advance(ctx context.Context, id string) error {
	for {
		r, ok := e.active[id]
		if !ok {
			return nil
		}
		next, _, changed := Next(r, e.facts(r))
		if changed {
			if err := e.save(ctx, next, len(r.Timeline)); err != nil {
				return err
			}
			continue
		}
		acted, err := e.act(ctx, r)
		if err != nil || !acted {
			return err
		}
	}
}

// facts gathers what Next may know. mu is held.
func (e *Engine) facts(r Rotation) Facts {
	f := Facts{Now: e.Now(), Progress: e.progress, WaitUntil: e.waitUntil}
	for _, name := range slices.Sorted(maps.Keys(e.workloads)) {
		w := e.workloads[name]
		if !w.Uses(r.KeyNames()...) {
			continue
		}
		f.Workloads = append(f.Workloads, WorkloadFact{w, e.instancesOf(name)})
	}
	return f
}

// save persists a rotation that has changed and swaps it in. Events since known are journaled first: killed between the
// two writes, the transition is made again and overwrites its own entry, so that the journal neither lacks nor repeats
// one. mu is held.
func (e *Engine) save(ctx context.Context, r Rotation, known int) error {
	for n := known; n < len(r.Timeline); n++ {
		if err := e.journalEvent(ctx, r, n); err != nil {
			return err
		}
	}
	if r.Finished() {
		if err := e.put(ctx, pathRotations+r.ID, r); err != nil {
			return err
		}
		if err := e.Store.Delete(ctx, pathActive+r.ID); err != nil {
			return fmt.Errorf("removing ended rotation %s from the active: %w", r.ID, err)
		}
		delete(e.active, r.ID)
		for _, c := range r.Changes {
			delete(e.starts, c.Key)
		}
	} else {
		if err := e.put(ctx, pathActive+r.ID, r); err != nil {
			return err
		}
		e.active[r.ID] = r
	}
	for _, event := range r.Timeline[known:] {
		e.Observer.Moved(r, event)
	}
	e.broadcast()
	return nil
}

// act does the place's action if it is due. It tells whether the action is done now; with a server it is done in the
// background, and a nudge follows. mu is held.
func (e *Engine) act(ctx context.Context, r Rotation) (bool, error) {
	what := r.at().action
	if what == noAction || r.Acted || e.busy[r.ID] || e.Now().Before(r.RetryAt) {
		return false, nil
	}
	calls, err := e.serverCalls(r)
	if err != nil {
		return false, e.acted(ctx, r, err)
	}
	if len(calls) == 0 {
		return true, e.record(ctx, r)
	}
	e.busy[r.ID] = true
	e.running.Go(func() {
		ctx, cancel := context.WithTimeout(e.ctx, actionDeadline)
		defer cancel()
		var err error
		for _, call := range calls {
			if err = call(ctx); err != nil {
				break
			}
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.busy, r.ID)
		defer e.nudge()
		now, ok := e.active[r.ID]
		if e.closed || !ok || now.State != r.State || now.Step != r.Step {
			return // it went elsewhere meanwhile; what it does there is idempotent too
		}
		if err == nil {
			err = e.record(e.ctx, now)
		} else {
			err = e.acted(e.ctx, now, err)
		}
		if err != nil {
			e.Observer.Fault("result of "+string(what)+" for rotation "+r.ID+" could not be stored", err)
		}
	})
	return false, nil
}

// serverCalls are the calls that the place's action needs, one a key whose kind has a server. mu is held.
func (e *Engine) serverCalls(r Rotation) ([]func(context.Context) error, error) {
	var calls []func(context.Context) error
	for _, c := range r.Changes {
		k, ok := e.keys[c.Key]
		if !ok {
			return nil, fmt.Errorf("key %s is gone", c.Key)
		}
		kd, err := e.Kinds.Get(k.Kind)
		if err != nil {
			return nil, err
		}
		server, ok := kd.(kind.Server)
		if !ok || r.at().action == actPromote {
			continue
		}
		from, _ := k.Version(c.From)
		to, _ := k.Version(c.To)
		calls = append(calls, serverCall(server, r.at().action, kind.Change{Key: k, From: from, To: to}))
	}
	return calls, nil
}

func serverCall(server kind.Server, what action, c kind.Change) func(context.Context) error {
	return func(ctx context.Context) error {
		switch what {
		case actStage:
			if err := server.Stage(ctx, c); err != nil {
				return err
			}
			return server.Verify(ctx, c)
		case actInUse:
			count, use, err := server.InUse(ctx, c)
			if err == nil && count > 0 {
				err = fmt.Errorf("%s: version %d is in use: %s", c.Key.Env, c.From.Number, use)
			}
			return err
		case actRetire:
			return server.Retire(ctx, c)
		case actUnstage:
			return server.Unstage(ctx, c)
		case noAction, actPromote:
		}
		return nil
	}
}

// record writes the action's result into the keys, then into the rotation: killed in between, the action is done again
// and writes the same. mu is held.
func (e *Engine) record(ctx context.Context, r Rotation) error {
	for _, c := range r.Changes {
		var change func(from, to int) (key.Key, error)
		k := e.keys[c.Key]
		switch r.at().action {
		case actPromote:
			change = k.Promoted
		case actRetire:
			change = k.Retired
		case actUnstage:
			change = k.Reverted
		case noAction, actStage, actInUse:
			continue
		}
		k, err := change(c.From, c.To)
		if err != nil {
			return e.acted(ctx, r, err)
		}
		if err := e.put(ctx, pathKeys+k.Name, k); err != nil {
			return err
		}
		e.keys[k.Name] = k
	}
	return e.acted(ctx, r, nil)
}

// acted persists that the action succeeded, or when it is tried again. mu is held.
func (e *Engine) acted(ctx context.Context, r Rotation, fault error) error {
	r = r.clone()
	r.Acted = fault == nil
	r.Fault, r.RetryAt = "", time.Time{}
	if fault != nil {
		r.Attempts++
		r.Fault, r.RetryAt = fault.Error(), e.Now().Add(backoff(r.Attempts))
	}
	return e.save(ctx, r, len(r.Timeline))
}

// startDue starts the rotations whose time has come, and gives how long until the next one. mu is held.
func (e *Engine) startDue(ctx context.Context, now time.Time) time.Duration {
	wait := tickEvery
	for _, name := range slices.Sorted(maps.Keys(e.keys)) {
		due := e.due(e.keys[name])
		if due.IsZero() || e.rotationOf(name) != nil {
			continue
		}
		if fault := e.starts[name]; fault.next.After(due) {
			due = fault.next
		}
		if left := due.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		_, err := e.start(ctx, Request{Keys: []string{name}, Trigger: ByPeriod, Reason: "rotation_period is over", By: "schedule"})
		if err != nil {
			fault := e.starts[name]
			fault.attempts++
			fault.next, fault.reason = now.Add(backoff(fault.attempts)), err.Error()
			e.starts[name] = fault
			var refused *Refused
			if !errors.As(err, &refused) || fault.attempts == 1 {
				e.Observer.Fault("automatic rotation of key "+name+" could not start", err)
			}
		}
	}
	return wait
}

// due is when the key rotates by itself: at the end of its current version's life, less up to a twentieth of it (ten
// minutes at most) that differs between keys and versions, so that keys made together do not rotate together. It is
// derived, not drawn, so that a restart changes nothing.
func (e *Engine) due(k key.Key) time.Time {
	expires := k.Expires()
	if expires.IsZero() {
		return time.Time{}
	}
	current, _ := k.Current()
	share, err := strconv.ParseUint(e.fingerprints.Sum("jitter", k.Name, strconv.Itoa(current.Number))[:8], 16, 32)
	if err != nil {
		return expires
	}
	most := min(k.Policy.Period/20, 10*time.Minute)
	return expires.Add(-time.Duration(float64(most) * float64(share) / float64(1<<32)))
}
