// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"maps"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/untrusted"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

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
	rotator, err := e.rootRotator(name)
	if err != nil {
		return kind.Connection{}, err
	}
	var c kind.Connection
	err = e.update(func(l *locked) (err error) {
		c, err = l.intendRoot(ctx, name, by)
		return err
	})
	if err != nil {
		return c, err
	}
	asked, cancel := context.WithTimeout(ctx, connectionDeadline)
	defer cancel()
	if err := untrusted.RotateRoot(asked, rotator, c); err != nil {
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

// rootRotator returns the kind of a connection whose administrator's password Vault can change.
func (s *state) rootRotator(name string) (kind.RootRotator, error) {
	c, ok := s.Connection(name)
	if !ok {
		return nil, catalog.UnknownConnection(name)
	}
	connector, err := s.base.Connector(c.Kind)
	if err != nil {
		return nil, err
	}
	rotator, ok := connector.(kind.RootRotator)
	if !ok {
		return nil, rotation.Refusef("connection %s is of kind %s, whose servers let nobody choose a password; make a new one there, write it with: vault write hyvve/connections/%s password=-, and revoke the old one there; nothing was changed", name, c.Kind, name)
	}
	return rotator, nil
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

// PutConnection creates a connection, or changes the fields that are written and leaves the others. A stored secret is sent
// only where it was given for: when a field changes that decides where that is, the secret has to be written again. With
// verify, the server is asked whether the administrator can log in and may do what will be asked for. Nothing waits for
// that server meanwhile.
func (e *Engine) PutConnection(ctx context.Context, written kind.Connection, verify bool, by rotation.Actor) (kind.Connection, error) {
	old, c, changes, err := e.prepareConnection(ctx, written, verify)
	if err != nil {
		return c, err
	}
	l, release := e.acquire()
	defer release()
	return c, l.storeConnection(ctx, old, c, changes, by)
}

// prepareConnection returns what is stored under the name of a connection, the connection that may be stored in its place, and what that
// changes. The server is asked, if verify is set.
func (s *state) prepareConnection(ctx context.Context, written kind.Connection, verify bool) (old, c kind.Connection, changes []rotation.EntryChange, err error) {
	old, _ = s.Connection(written.Name)
	if err := key.ValidateName("connection", written.Name); err != nil {
		return old, written, nil, rotation.Refusef("%w", err)
	}
	exists := old.Name != ""
	if written.Kind == "" {
		written.Kind = old.Kind
	}
	connector, err := s.base.Connector(written.Kind)
	if err != nil {
		return old, written, nil, err
	}
	if exists && old.Kind != written.Kind {
		return old, written, nil, rotation.Refusef("connection %s is of kind %s; a kind cannot be changed: make a new connection", old.Name, old.Kind)
	}
	c, given, err := s.base.MergeConnection(connector, old, written)
	if err != nil {
		return old, c, nil, rotation.Refusef("connection %s: %w", c.Name, err)
	}
	if exists {
		if err := catalog.MayMove(connector.ConnectionFields(), old, c, given); err != nil {
			return old, c, nil, rotation.Refusef("connection %s: %w; nothing was stored, and nobody was asked", c.Name, err)
		}
	}
	if c.Revision, err = s.base.Revision(); err != nil {
		return old, c, nil, err
	}
	c.Written, c.Rotated, c.Notes = time.Time{}, time.Time{}, nil
	if !given[kind.FieldPassword] { // rotate-root may have to be finished, and nobody else knows the password
		c.Next, c.Rotated, c.Written = old.Next, old.Rotated, old.Written
	}
	if verify {
		if c.Notes, err = checkConnection(ctx, connector, c); err != nil {
			return old, c, nil, rotation.Refusef("connection %s: %w; nothing was stored (verify_connection=false stores it unverified)", c.Name, err)
		}
	}
	c.Written = s.Now().UTC()
	changes = s.base.ConnectionChanges(old, c, written)
	if !verify {
		changes = append(changes, rotation.EntryChange{Field: "verify_connection", To: "false"})
	}
	return old, c, changes, nil
}

// storeConnection persists a connection, swaps it in, and lets rotations that failed at its server try again now. old is
// what it was made from: it must still be what is stored.
func (l *locked) storeConnection(ctx context.Context, old, c kind.Connection, changes []rotation.EntryChange, by rotation.Actor) error {
	if now := l.Connections[c.Name]; now.Revision != old.Revision || !now.Next.Equal(old.Next) {
		return rotation.Refusef("connection %s was written by somebody else meanwhile; look at it with: vault read hyvve/connections/%s, and write it again; nothing was stored", c.Name, c.Name)
	}
	if err := l.ConnectionEndsUndeleted(c, old); err != nil {
		return err
	}
	if err := l.journal.Add(ctx, journal.Entry{What: "connection written", By: by.Name, Entity: by.Entity, Connection: c.Name, Changes: changes}); err != nil {
		return err
	}
	if err := l.put(ctx, pathConnections+c.Name, c); err != nil {
		return err
	}
	l.lock(func(m *memory) { m.Connections[c.Name] = c })
	l.lock(func(m *memory) { delete(m.health, checksConnection+c.Name) }) // it was checked just now, or is not to be
	l.planCheck(checksConnection+c.Name, l.Now())
	return l.retryRotations(ctx, c.Name)
}
