// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
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

// lookFailed keeps why a look has failed, and when there is another.
func (l *locked) lookFailed(id string, fault error) {
	l.lock(func(m *memory) {
		look := m.looks[id]
		look.Running, look.Attempts, look.Fault = false, look.Attempts+1, untrusted.Reason(fault.Error())
		look.RetryAt = l.Now().Add(retryAfter(look.Attempts, fault))
		m.looks[id] = look
	})
}

// lookNow makes looks by a connection that have failed due now: somebody has mended it.
func (l *locked) lookNow(connection string) {
	for _, r := range l.active {
		for _, c := range r.Changes {
			if l.Keys[c.Key].Witness == connection {
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
