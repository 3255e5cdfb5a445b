// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// PutConnection creates a connection, or changes the fields that are written and leaves the others. A stored secret is sent
// only where it was given for: when a field changes that decides where that is, the secret has to be written again. With
// verify, the server is asked whether the administrator can log in and may do what will be asked for. Nothing waits for
// that server meanwhile.
func (e *Engine) PutConnection(ctx context.Context, written kind.Connection, verify bool, by rotation.Actor) (kind.Connection, error) {
	old, _ := e.Connection(written.Name)
	if err := key.ValidateName("connection", written.Name); err != nil {
		return written, rotation.Refusef("%w", err)
	}
	exists := old.Name != ""
	if written.Kind == "" {
		written.Kind = old.Kind
	}
	connector, err := e.base.Connector(written.Kind)
	if err != nil {
		return written, err
	}
	if exists && old.Kind != written.Kind {
		return written, rotation.Refusef("connection %s is of kind %s; a kind cannot be changed: make a new connection", old.Name, old.Kind)
	}
	c, given, err := e.base.MergeConnection(connector, old, written)
	if err != nil {
		return c, rotation.Refusef("connection %s: %w", c.Name, err)
	}
	if exists {
		if err := catalog.MayMove(connector.ConnectionFields(), old, c, given); err != nil {
			return c, rotation.Refusef("connection %s: %w; nothing was stored, and nobody was asked", c.Name, err)
		}
	}
	if c.Revision, err = e.base.Revision(); err != nil {
		return c, err
	}
	c.Written, c.Rotated, c.Notes = time.Time{}, time.Time{}, nil
	if !given[kind.FieldPassword] { // rotate-root may have to be finished, and nobody else knows the password
		c.Next, c.Rotated, c.Written = old.Next, old.Rotated, old.Written
	}
	if verify {
		if c.Notes, err = checkConnection(ctx, connector, c); err != nil {
			return c, rotation.Refusef("connection %s: %w; nothing was stored (verify_connection=false stores it unverified)", c.Name, err)
		}
	}
	c.Written = e.Now().UTC()
	changes := e.base.ConnectionChanges(old, c, written)
	if !verify {
		changes = append(changes, rotation.EntryChange{Field: "verify_connection", To: "false"})
	}
	l, release := e.acquire()
	defer release()
	return c, l.storeConnection(ctx, old, c, changes, by)
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
