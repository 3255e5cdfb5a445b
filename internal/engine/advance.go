// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
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
		next, results, changed := rotation.Further(r, f)
		if changed {
			if err := l.move(ctx, next, f); err != nil {
				return err
			}
			continue
		}
		l.note(id, func(n rotation.Notes) rotation.Notes { return n.Looked(r, results, f.Now) })
		l.show(r, results)
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
		return l.failed(ctx, r, err)
	}
	if len(calls) == 0 {
		return true, l.record(ctx, r)
	}
	l.busy[r.ID] = true
	l.background(func(e *Engine) {
		fault := servers{e}.callAll(calls, r)
		l, release := e.acquire()
		defer release()
		l.finishAction(r, fault)
	})
	return false, nil
}

// finishAction records how an action in the background went, and moves the rotation on at once: it need not wait until run has
// rested.
func (l *locked) finishAction(r rotation.Rotation, fault error) {
	defer l.nudge()
	delete(l.busy, r.ID)
	now, ok := l.active[r.ID]
	if l.failing() || !ok || now.State != r.State || now.Step != r.Step || now.Compromised != r.Compromised {
		return // it went elsewhere meanwhile, or has to end sessions, too; what it does there is idempotent too
	}
	var err error
	if fault == nil {
		err = l.record(l.ctx, now)
	} else {
		_, err = l.failed(l.ctx, now, fault)
	}
	if err != nil {
		l.Observer.Fault("result of "+string(r.Action())+" for rotation "+r.ID+" could not be stored", err)
		return
	}
	if err := l.advance(l.ctx, r.ID); err != nil {
		l.Observer.Fault("rotation "+r.ID+" could not be moved on", err)
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
		if err := l.putKey(ctx, k); err != nil {
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

// failed persists that the action has failed, or lets the keys continue alone that hold up the others, which it reports.
func (l *locked) failed(ctx context.Context, r rotation.Rotation, fault error) (parted bool, err error) {
	if parted, err = l.partIf(ctx, r, r.Action(), fault, r.Attempts > 0); parted || err != nil {
		return parted, err
	}
	return false, l.acted(ctx, r, fault)
}

// partIf lets keys continue alone that hold up the others because of a fault, if they may, and moves them on. again: it is not the first.
func (l *locked) partIf(ctx context.Context, r rotation.Rotation, what rotation.Action, fault error, again bool) (parted bool, err error) {
	names := l.parting(r, what, fault, again)
	if len(names) == 0 {
		return false, nil
	}
	id, err := l.part(ctx, r, what, names, fault)
	if err != nil {
		return false, err
	}
	return true, l.advance(ctx, id)
}

// acted persists that the action succeeded, with what follows from that, or when it is tried again.
func (l *locked) acted(ctx context.Context, r rotation.Rotation, fault error) error {
	r = r.Clone()
	r.Acted = fault == nil
	r.Fault, r.StillUsed = "", false
	r.RetryAt = never
	if fault != nil {
		r.Attempts++
		for _, c := range r.Changes {
			l.checkSoon(c.Key, l.Now())
		}
		if use := (inUse{}); errors.As(fault, &use) { // waiting mends that
			l.note(r.ID, func(n rotation.Notes) rotation.Notes { return n.Seen(untrusted.Text(use.text), l.Now()) })
			r.Attempts, r.StillUsed = min(r.Attempts, schedule.OrphanAfter-1), true
		}
		r.Fault, r.RetryAt = untrusted.Reason(fault.Error()), l.Now().Add(retryAfter(r.Attempts, fault))
		return l.save(ctx, r)
	}
	return l.settle(ctx, r)
}

// endVersions returns a key after its rotation: one version stays, and the others are retained or erased.
func (l *locked) endVersions(r rotation.Rotation, k key.Key, c rotation.Change) (key.Key, error) {
	keep, now := l.Retention(r, k, c), l.Now().UTC()
	leaving := []int{r.Leaving(c)}
	v, stored := k.Version(leaving[0])
	var err error
	switch {
	case keep > 0 && stored && (v.State.Live() || v.State == key.Retained):
	case r.State == rotation.Reverting:
		k, err = k.Reverted(c.From, c.To)
		leaving = nil
	default:
		k, err = k.Retired(c.From, c.To)
		leaving = nil
	}
	if r.State == rotation.Retiring {
		leaving = append(leaving, c.Also...)
	}
	for _, number := range leaving {
		if err == nil {
			k, err = catalog.Retired(k, number, keep, now)
		}
	}
	if err == nil {
		k, err = k.WithCurrent(r.Staying(c))
	}
	if err != nil {
		return k, err
	}
	return catalog.Uncrowded(k, now)
}

const (
	// lookEvery is how often servers are looked at for use of an old version while the end of its window is not near.
	lookEvery = time.Second
	// denseSlice is the length of one dense sample. A longer one would hold an administrator's session for longer.
	denseSlice = time.Second
)

// lookDeadline is for how long the engine looks at rows of a key before it begins again.
const lookDeadline = 30 * time.Minute

// lookAtRows lets the engine itself be a witness of rows where a key says by which connection: in the background, once for
// each step and pass, and again with a growing pause where it fails. It changes nothing at the server.
func (l *locked) lookAtRows(r rotation.Rotation) {
	for _, c := range r.Changes {
		k, id := l.Keys[c.Key], r.WorkID(c)
		if len(c.Protects) == 0 || k.Witness == "" || k.Witness == rotation.WitnessNone || !r.Presented() || r.LookedBy(c, k.Witness, l.Connections[k.Witness].Revision) {
			continue
		}
		var last rotation.Look
		l.lock(func(m *memory) { last = m.looks[id] })
		if last.Running || l.Now().Before(last.RetryAt) {
			continue
		}
		looker, connection, err := l.Looker(k.Witness)
		stays, ok := k.Version(r.Staying(c))
		if err == nil && !ok {
			err = fmt.Errorf("version %d of key %s is gone", r.Staying(c), k.Name)
		}
		if err != nil {
			l.lookFailed(id, err)
			continue
		}
		last.Running = true
		l.lock(func(m *memory) { m.looks[id] = last })
		look := kind.RowLook{Columns: c.Protects, Value: stays.Value, Others: l.OtherValues(r, c)}
		l.background(func(e *Engine) {
			ctx, cancel := context.WithTimeout(e.ctx, lookDeadline)
			defer cancel()
			report, err := untrusted.LookAtRows(ctx, looker, connection, look)
			l, release := e.acquire()
			defer release()
			l.looked(r.ID, c, id, connection, report, err)
		})
	}
}

// looked stores what the engine has seen of rows, and moves the rotation on. A look that has come too late, since the
// rotation has gone elsewhere meanwhile or the connection was changed, says nothing.
func (l *locked) looked(rotationID string, c rotation.Change, id string, connection kind.Connection, report workload.WorkReport, fault error) {
	defer l.nudge()
	r, ok := l.active[rotationID]
	changed := l.Connections[connection.Name].Revision != connection.Revision
	if l.failing() || !ok || r.WorkID(c) != id || l.erased(r) || l.Keys[c.Key].Witness != connection.Name || changed && fault == nil {
		l.lock(func(m *memory) { delete(m.looks, id) })
		return
	}
	if fault != nil {
		l.lookFailed(id, fault)
		if changed { // it was mended meanwhile
			l.lookNow(connection.Name)
		}
		return
	}
	report.ID = id
	report = rotation.BoundedLook(report, r.Phase(), nil)
	next := r.Witnessed(c, rotation.Evidence{Report: report, At: l.Now().UTC(), Connection: connection.Name, Revision: connection.Revision}).Bounded()
	l.lock(func(m *memory) { delete(m.looks, id) })
	err := l.save(l.ctx, next)
	if err == nil {
		err = l.advance(l.ctx, rotationID)
	}
	if err != nil {
		l.Observer.Fault("what the engine has seen of rows for rotation "+rotationID+" could not be stored", err)
	}
}

// lookFailed keeps why a look has failed, and when there is another.
func (l *locked) lookFailed(id string, fault error) {
	l.lock(func(m *memory) {
		look := m.looks[id]
		look.Running, look.Attempts, look.Fault = false, look.Attempts+1, untrusted.Reason(fault.Error())
		look.RetryAt = l.Now().Add(retryAfter(look.Attempts, fault))
		m.looks[id] = look
	})
}

// sample takes the next sample of a rotation's servers in the background, if one is due.
func (l *locked) sample(r rotation.Rotation) {
	if !r.Samples() || l.busy[r.ID] {
		return
	}
	f := l.facts(r)
	if !f.Sampled {
		return
	}
	dense := r.WantsDense(f)
	if o := f.Observed; !dense && !o.Until.IsZero() && f.Now.Sub(o.Until) < lookEvery && !f.Now.Before(o.Until) {
		return
	}
	calls, err := l.serverCalls(r, rotation.ActSample)
	if err != nil || len(calls) == 0 {
		l.observe(r.ID, func(o rotation.Observation) rotation.Observation {
			return rotation.Observation{Until: f.Now, Since: f.Now, Fault: untrusted.Text(fmt.Sprint(err))}
		})
		return
	}
	l.busy[r.ID] = true
	l.background(func(e *Engine) {
		fault := servers{e}.observeWith(r, calls, dense)
		l, release := e.acquire()
		defer release()
		defer l.nudge()
		delete(l.busy, r.ID)
		if l.failing() {
			return
		}
		var err error
		if now, ok := l.active[r.ID]; ok && fault != nil && now.Samples() {
			_, err = l.partIf(l.ctx, now, rotation.ActSample, fault, f.Observed.Fault != "")
		}
		if err == nil {
			err = l.advance(l.ctx, r.ID)
		}
		if err != nil {
			l.Observer.Fault("rotation "+r.ID+" could not be moved on", err)
		}
	})
}

// observeWith takes one sample, or dense ones until they are enough, or one has seen somebody.
func (e servers) observeWith(r rotation.Rotation, calls []serverCall, dense bool) (fault error) {
	for {
		slice := time.Duration(0)
		if dense {
			slice = denseSlice
		}
		begin := e.Now()
		err := e.sampleAll(calls, r, slice)
		end := e.Now()
		var use inUse
		var short kind.Unattributed
		seen := ""
		fault = nil
		o := e.observe(r.ID, func(o rotation.Observation) rotation.Observation {
			switch {
			case errors.As(err, &use):
				seen = untrusted.Text(use.text)
				return o.Used(end, seen)
			case errors.As(err, &short):
				o = o.Unused(end, slice)
				o.Short = untrusted.Text(short.Error())
				return o
			case err != nil:
				fault = err
				return rotation.Observation{Since: end, Until: end, Seen: o.Seen, Use: o.Use, Fault: untrusted.Text(err.Error())}
			}
			return o.Unused(end, slice)
		})
		if seen != "" {
			e.note(r.ID, func(n rotation.Notes) rotation.Notes { return n.Seen(seen, end) })
		}
		_, enough := r.Needs(o)
		if !dense || o.Fault != "" || o.Until.Equal(o.Seen) || e.ctx.Err() != nil || o.Dense == 0 || o.Dense >= enough || end.Sub(begin) < slice/2 || !e.still(r) {
			return fault
		}
	}
}

// observe replaces what is known of the use of a rotation's old versions, and returns it.
func (s *state) observe(id string, change func(rotation.Observation) rotation.Observation) (o rotation.Observation) {
	s.lock(func(m *memory) {
		o = change(m.observed[id])
		m.observed[id] = o
	})
	return o
}

// note replaces what was noted of a running rotation since its record was stored.
func (s *state) note(id string, change func(rotation.Notes) rotation.Notes) {
	s.lock(func(m *memory) {
		if _, ok := m.active[id]; ok {
			m.notes[id] = change(m.notes[id])
		}
	})
}

// still reports whether a rotation is where it was, samples for as long as it did, and is not paused.
func (s *state) still(r rotation.Rotation) bool {
	m, unlock := s.memory.Lock()
	defer unlock()
	now, ok := m.active[r.ID]
	return ok && now.State == r.State && now.Paused == nil && now.Compromised == r.Compromised && now.Window() == r.Window()
}
