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

// looker returns a connection by which the engine can look at rows, and what does it.
func (cat *catalog) looker(name string) (kind.RowLooker, kind.Connection, error) {
	c, ok := cat.connections[name]
	if !ok {
		return nil, c, fmt.Errorf("connection %q is not known; define it first, or name another: vault list hyvve/connections", name)
	}
	kd, err := cat.Kinds.Get(c.Kind)
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
// each place and pass, and again with a growing pause where it fails. It changes nothing at the server.
func (l *locked) lookAtRows(r rotation.Rotation) {
	for _, c := range r.Changes {
		k, id := l.keys[c.Key], r.WorkID(c)
		if len(c.Protects) == 0 || k.Witness == "" || k.Witness == rotation.WitnessNone || !r.Presented() || r.LookedBy(c, k.Witness, l.connections[k.Witness].Revision) {
			continue
		}
		var last rotation.Look
		l.lock(func(m *memory) { last = m.looks[id] })
		if last.Running || l.Now().Before(last.RetryAt) {
			continue
		}
		looker, connection, err := l.looker(k.Witness)
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
		look := kind.RowLook{Columns: c.Protects, Value: stays.Value, Others: l.otherValues(r, c)}
		l.background(func(e *Engine) {
			ctx, cancel := context.WithTimeout(e.ctx, lookDeadline)
			defer cancel()
			report, err := rowsAt(ctx, looker, connection, look)
			l, release := e.acquire()
			defer release()
			l.looked(r.ID, c, id, connection, report, err)
		})
	}
}

// otherValues are those under which rows in the columns of a change are not lost: of further keys that have rows of their own
// there and, of a revert, of the key's undeleted versions. Otherwise the rotation retires these, too, and a row under one of
// them would be lost.
func (cat *catalog) otherValues(r rotation.Rotation, change rotation.Change) (all []kind.RowValue) {
	for _, other := range cat.keys {
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

// lookFailed keeps why a look has failed, and when there is another.
func (l *locked) lookFailed(id string, fault error) {
	l.lock(func(m *memory) {
		look := m.looks[id]
		look.Running, look.Attempts, look.Fault = false, look.Attempts+1, cutOff(fault.Error())
		look.RetryAt = l.Now().Add(retryAfter(look.Attempts, fault))
		m.looks[id] = look
	})
}

// lookNow makes looks by a connection that have failed due now: somebody has mended it.
func (l *locked) lookNow(connection string) {
	for _, r := range l.active {
		for _, c := range r.Changes {
			if l.keys[c.Key].Witness == connection {
				l.lock(func(m *memory) {
					if look, ok := m.looks[r.WorkID(c)]; ok && !look.Running {
						look.RetryAt, look.Attempts = l.Now(), 1
						m.looks[r.WorkID(c)] = look
					}
				})
			}
		}
	}
}

// looked stores what the engine has seen of rows, and moves the rotation on. A look that has come too late, since the
// rotation has gone elsewhere meanwhile or the connection was changed, says nothing.
func (l *locked) looked(rotationID string, c rotation.Change, id string, connection kind.Connection, report workload.WorkReport, fault error) {
	defer l.nudge()
	r, ok := l.active[rotationID]
	changed := l.connections[connection.Name].Revision != connection.Revision
	if l.failing() || !ok || r.WorkID(c) != id || l.erased(r) || l.keys[c.Key].Witness != connection.Name || changed && fault == nil {
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
