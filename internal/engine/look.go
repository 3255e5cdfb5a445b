// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// lookDeadline is for how long the engine looks at rows of a key before it begins again.
const lookDeadline = 30 * time.Minute

// looker returns a connection by which the engine can look at rows, and what does it. turn or mu is held.
func (e *Engine) looker(name string) (kind.RowLooker, kind.Connection, error) {
	c, ok := e.connections[name]
	if !ok {
		return nil, c, fmt.Errorf("connection %q is not known; define it first, or name another: vault list hyvve/connections", name)
	}
	kd, err := e.Kinds.Get(c.Kind)
	if err != nil {
		return nil, c, err
	}
	looker, ok := kd.(kind.RowLooker)
	if !ok {
		return nil, c, fmt.Errorf("connection %s is of kind %s, by which no rows can be looked at; name one of kind postgres", name, c.Kind)
	}
	return looker, c, nil
}

// lookAtRows lets the engine itself be a witness of rows where a key says by which connection: in the background, once for
// each place and pass, and again with a growing pause where it fails. It changes nothing at the server. turn is held.
func (e *Engine) lookAtRows(r rotation.Rotation) {
	for _, c := range r.Changes {
		k, id := e.keys[c.Key], r.WorkID(c)
		if len(c.Protects) == 0 || k.Witness == "" || k.Witness == rotation.WitnessNone || !r.Presented() || r.LookedBy(c, k.Witness, e.connections[k.Witness].Revision) {
			continue
		}
		var last rotation.Look
		e.lock(func() { last = e.looks[id] })
		if last.Running || e.Now().Before(last.RetryAt) {
			continue
		}
		looker, connection, err := e.looker(k.Witness)
		stays, ok := k.Version(r.Staying(c))
		if err == nil && !ok {
			err = fmt.Errorf("version %d of key %s is gone", r.Staying(c), k.Name)
		}
		if err != nil {
			e.lookFailed(id, err)
			continue
		}
		last.Running = true
		e.lock(func() { e.looks[id] = last })
		look := kind.RowLook{Columns: c.Protects, Value: stays.Value, Others: e.otherValues(r, c)}
		e.Background(func() {
			ctx, cancel := context.WithTimeout(e.ctx, lookDeadline)
			defer cancel()
			report, err := rowsAt(ctx, looker, connection, look)
			e.looked(r.ID, c, id, connection, report, err)
		})
	}
}

// otherValues are those under which rows in the columns of a change are not lost: of further keys that have rows of their own
// there and, of a revert, of the key's undeleted versions. Otherwise the rotation retires these, too, and a row under one of
// them would be lost. turn is held.
func (e *Engine) otherValues(r rotation.Rotation, change rotation.Change) (all []kind.RowValue) {
	for _, other := range e.keys {
		var layouts []key.Layout
		for _, c := range other.Protects {
			if sharesColumn(c, change.Protects) && !slices.Contains(layouts, c.Layout) {
				layouts = append(layouts, c.Layout)
			}
		}
		for _, v := range other.Versions {
			stays := other.Name != change.Key || v.State == key.Undeleted && r.State == rotation.Reverting
			if !v.State.Live() || !stays {
				continue
			}
			for _, layout := range layouts {
				all = append(all, kind.RowValue{Layout: layout, Value: v.Value})
			}
		}
	}
	return all
}

// lookFailed keeps why a look has failed, and when there is another. turn is held.
func (e *Engine) lookFailed(id string, fault error) {
	e.lock(func() {
		l := e.looks[id]
		l.Running, l.Attempts, l.Fault = false, l.Attempts+1, cutOff(fault.Error())
		l.RetryAt = e.Now().Add(retryAfter(l.Attempts, fault))
		e.looks[id] = l
	})
}

// lookNow makes looks by a connection that have failed due now: somebody has mended it. turn is held.
func (e *Engine) lookNow(connection string) {
	for _, r := range e.active {
		for _, c := range r.Changes {
			if e.keys[c.Key].Witness == connection {
				e.lock(func() {
					if l, ok := e.looks[r.WorkID(c)]; ok && !l.Running {
						l.RetryAt, l.Attempts = e.Now(), 1
						e.looks[r.WorkID(c)] = l
					}
				})
			}
		}
	}
}

// looked stores what the engine has seen of rows, and moves the rotation on. A look that has come too late, since the
// rotation has gone elsewhere meanwhile or the connection was changed, says nothing.
func (e *Engine) looked(rotationID string, c rotation.Change, id string, connection kind.Connection, report workload.WorkReport, fault error) {
	defer e.takeTurn()()
	defer e.nudge()
	r, ok := e.active[rotationID]
	changed := e.connections[connection.Name].Revision != connection.Revision
	if e.failing() || !ok || r.WorkID(c) != id || e.erased(r) || e.keys[c.Key].Witness != connection.Name || changed && fault == nil {
		e.lock(func() { delete(e.looks, id) })
		return
	}
	if fault != nil {
		e.lookFailed(id, fault)
		if changed { // it was mended meanwhile
			e.lookNow(connection.Name)
		}
		return
	}
	report.ID = id
	report = rotation.BoundedLook(report, r.Phase(), nil)
	next := r.Witnessed(c, rotation.Evidence{Report: report, At: e.Now().UTC(), Connection: connection.Name, Revision: connection.Revision}).Bounded()
	e.lock(func() { delete(e.looks, id) })
	err := e.save(e.ctx, next)
	if err == nil {
		err = e.advance(e.ctx, rotationID)
	}
	if err != nil {
		e.Observer.Fault("what the engine has seen of rows for rotation "+rotationID+" could not be stored", err)
	}
}
