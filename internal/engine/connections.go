// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// connectionDeadline bounds what a connection's server is asked for while somebody waits for the answer.
const connectionDeadline = 30 * time.Second

// Connectors lists the kinds that have connections.
func (s *state) Connectors() []string { return s.base.Connectors() }

// Connection returns a connection; false where there is none.
func (s *state) Connection(name string) (kind.Connection, bool) {
	m, unlock := s.memory.Lock()
	defer unlock()
	c, ok := m.Connections[name]
	return c, ok
}

// ConnectionNames lists the connections, sorted.
func (s *state) ConnectionNames() []string {
	m, unlock := s.memory.Lock()
	defer unlock()
	return slices.Sorted(maps.Keys(m.Connections))
}

func checkConnection(ctx context.Context, connector kind.Connector, c kind.Connection) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, connectionDeadline)
	defer cancel()
	notes, err := untrusted.CheckConnection(ctx, connector, c)
	return append(notes, kind.OpenHosts(c)...), err
}

// retryRotations makes rotations whose last try at a connection's server failed due now.
func (l *locked) retryRotations(ctx context.Context, connection string) error {
	defer l.nudge()
	l.lookNow(connection)
	for _, id := range slices.Sorted(maps.Keys(l.active)) {
		r := l.active[id]
		uses := slices.ContainsFunc(r.Changes, func(c rotation.Change) bool { return l.Keys[c.Key].Options[kind.OptionConnection] == connection })
		if !uses || r.Fault == "" || l.busy[id] {
			continue
		}
		if err := l.save(ctx, r.Retried(l.Now())); err != nil {
			return err
		}
	}
	return nil
}

// DeleteConnection removes a connection. Refused while a key names it. The server is not asked for anything.
func (e *Engine) DeleteConnection(ctx context.Context, name string, by rotation.Actor) error {
	l, release := e.acquire()
	defer release()
	c, ok := l.Connections[name]
	if !ok {
		return nil
	}
	for _, k := range l.Keys {
		if k.Options[kind.OptionConnection] == name {
			return rotation.Refusef("connection %s is used by key %s; delete the key first, or name another connection in hyvve/keys/%s", name, k.Name, k.Name)
		}
		if k.Witness == name {
			return rotation.Refusef("connection %s is the witness of the rows of key %s; name another first: vault write hyvve/keys/%s witness=…", name, k.Name, k.Name)
		}
	}
	if err := e.journal.Add(ctx, journal.Entry{What: "connection deleted", By: by.Name, Entity: by.Entity, Connection: name, Changes: catalog.OptionChanges(c.Options, nil, e.base.ConnectionFields(c.Kind), nil)}); err != nil {
		return err
	}
	if err := e.remove(ctx, pathConnections+name); err != nil {
		return err
	}
	e.lock(func(m *memory) {
		delete(m.Connections, name)
		delete(m.health, checksConnection+name)
	})
	return nil
}

// RotateRoot returns a connection's administrator another password, which nobody but this mount knows. The new one is stored
// before the server hears of it; killed anywhere, either of the two is in force, both are known, and a repetition ends it.
func (e *Engine) RotateRoot(ctx context.Context, name string, by rotation.Actor) (kind.Connection, error) {
	var c kind.Connection
	err := e.update(func(l *locked) (err error) {
		c, err = l.intendRoot(ctx, name, by)
		return err
	})
	if err != nil {
		return c, err
	}
	connector, err := e.base.Connector(c.Kind)
	if err != nil {
		return c, err
	}
	asked, cancel := context.WithTimeout(ctx, connectionDeadline)
	defer cancel()
	if err := untrusted.RotateRoot(asked, connector, c); err != nil {
		return c, rotation.Refusef("connection %s: %w; the new password is stored beside the old one and both are tried: write rotate-root again to finish it", name, err)
	}
	next := c.Next
	l, release := e.acquire()
	defer release()
	c, ok := l.Connections[name]
	if !ok || !c.Next.Equal(next) {
		return c, rotation.Refusef("connection %s was written by somebody else meanwhile; the administrator's password at the server was changed by this rotation, so write the connection again with a password that was set there", name)
	}
	c.Secrets = maps.Clone(c.Secrets)
	c.Secrets[kind.FieldPassword], c.Next, c.Rotated = next, key.Value{}, e.Now().UTC()
	if c.Revision, err = e.base.Revision(); err != nil {
		return c, err
	}
	if err := e.journal.Add(ctx, journal.Entry{What: "administrator's password rotated", By: by.Name, Entity: by.Entity, Connection: name}); err != nil {
		return c, err
	}
	if err := e.put(ctx, pathConnections+name, c); err != nil {
		return c, err
	}
	e.lock(func(m *memory) { m.Connections[name] = c })
	return c, nil
}

// intendRoot stores the next password of a connection's administrator, or finds it stored.
func (l *locked) intendRoot(ctx context.Context, name string, by rotation.Actor) (kind.Connection, error) {
	c, ok := l.Connections[name]
	if !ok {
		return c, catalog.UnknownConnection(name)
	}
	if c.Secrets[kind.FieldPassword].Empty() {
		return c, rotation.Refusef("connection %s has no password to rotate: its administrator logs in without one", name)
	}
	if !c.Next.Empty() {
		return c, nil
	}
	if other := l.SameAdministrator(c); other != "" {
		return c, rotation.Refusef("connection %s logs in as the same administrator at the same server, and could not do so any more with the password that connection %s would get. Give one of the two an administrator of its own, or delete one, after connection= of its keys names the other; nothing was changed", other, name)
	}
	password, err := l.Hex(catalog.RootBytes)
	if err != nil {
		return c, err
	}
	c.Next = key.NewValue(password)
	if err := l.journal.Add(ctx, journal.Entry{What: "rotation of the administrator's password begun", By: by.Name, Entity: by.Entity, Connection: name}); err != nil {
		return c, err
	}
	if err := l.put(ctx, pathConnections+name, c); err != nil {
		return c, err
	}
	l.lock(func(m *memory) { m.Connections[name] = c })
	return c, nil
}

func (l *locked) loadConnections(ctx context.Context) error {
	return l.each(ctx, pathConnections, func(data []byte) error {
		c, err := kind.DecodeConnection(data)
		l.Connections[c.Name] = c
		l.planCheck(checksConnection+c.Name, l.opened)
		return err
	})
}

// inUse is what keeps an old version alive at its server. It is no failure: it is looked at again soon.
type inUse struct{ text string }

func (u inUse) Error() string { return u.text }

// lookAgain is the longest time between two looks at what still uses a version.
const lookAgain = 5 * time.Second

// retryAfter is when an action is tried again.
func retryAfter(attempts int, fault error) time.Duration {
	if use := (inUse{}); errors.As(fault, &use) {
		return min(schedule.Backoff(attempts), lookAgain)
	}
	if b := (blocked{}); errors.As(fault, &b) {
		if attempts >= schedule.OrphanAfter {
			return schedule.MaxBackoff
		}
		return min(schedule.Backoff(attempts), lookBlocked)
	}
	return schedule.Backoff(attempts)
}
