// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

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
	connector, err := e.base.connector(written.Kind)
	if err != nil {
		return written, err
	}
	if exists && old.Kind != written.Kind {
		return written, rotation.Refusef("connection %s is of kind %s; a kind cannot be changed: make a new connection", old.Name, old.Kind)
	}
	c, given, err := e.base.mergeConnection(connector, old, written)
	if err != nil {
		return c, rotation.Refusef("connection %s: %w", c.Name, err)
	}
	if exists {
		if err := mayMove(connector.ConnectionFields(), old, c, given); err != nil {
			return c, rotation.Refusef("connection %s: %w; nothing was stored, and nobody was asked", c.Name, err)
		}
	}
	if c.Revision, err = e.base.revision(); err != nil {
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
	changes := e.base.connectionChanges(old, c, written)
	if !verify {
		changes = append(changes, rotation.EntryChange{Field: "verify_connection", To: "false"})
	}
	l, release := e.acquire()
	defer release()
	return c, l.storeConnection(ctx, old, c, changes, by)
}

// overwritten is a connection with what is written over it, as it stands.
func overwritten(old, written kind.Connection) kind.Connection {
	c := kind.Connection{Name: written.Name, Kind: written.Kind, Options: maps.Clone(old.Options), Secrets: maps.Clone(old.Secrets)}
	if c.Options == nil {
		c.Options = kind.Options{}
	}
	if c.Secrets == nil {
		c.Secrets = map[string]key.Value{}
	}
	maps.Copy(c.Options, written.Options)
	maps.Copy(c.Secrets, written.Secrets)
	return c
}

// mergeConnection checks what is written and puts it over the old connection. given has the secrets that were written,
// whether as fields or in a URL.
func (b *base) mergeConnection(connector kind.Connector, old, written kind.Connection) (c kind.Connection, given map[string]bool, err error) {
	c = overwritten(old, written)
	given = map[string]bool{}
	for _, f := range connector.ConnectionFields() {
		value, ok := written.Secrets[f.Name]
		if !f.Secret || !ok {
			continue
		}
		given[f.Name] = true
		if err := checkLines(value, f); err != nil {
			return c, given, err
		}
	}
	stored, has := c.Secrets[kind.FieldPassword]
	if given[kind.FieldPassword] || !has || stored.Empty() {
		c, err = connector.NormalizeConnection(c)
		return c, given, err
	}
	// A password in the URL is told from the stored one by a stand-in.
	text, err := b.random(rootBytes)
	if err != nil {
		return c, given, err
	}
	standIn := key.NewValue(text)
	c.Secrets[kind.FieldPassword] = standIn
	if c, err = connector.NormalizeConnection(c); err != nil {
		return c, given, err
	}
	c.Secrets = maps.Clone(c.Secrets)
	if c.Secrets[kind.FieldPassword].Equal(standIn) {
		c.Secrets[kind.FieldPassword] = stored
	} else {
		given[kind.FieldPassword] = true
	}
	return c, given, nil
}

// checkLines refuses a secret with a line break at its end, which a shell has added unasked.
func checkLines(value key.Value, f kind.Field) error {
	if f.Lines || !strings.HasSuffix(value.Reveal(), "\n") {
		return nil
	}
	return fmt.Errorf("%s ends with a newline, as echo and here-strings add one; use printf '%%s', or echo -n, as in: printf '%%s' \"$SECRET\" | vault write … %s=-", f.Name, f.Name)
}

// mayMove refuses a change that would send a stored secret elsewhere than it was given for.
func mayMove(fields []kind.Field, old, c kind.Connection, given map[string]bool) error {
	for _, f := range fields {
		if !f.Secret || given[f.Name] || old.Secrets[f.Name].Empty() {
			continue
		}
		moved := kind.Moved(fields, f, old.Options, c.Options)
		if len(moved) == 0 {
			continue
		}
		verb := "was"
		if len(moved) > 1 {
			verb = "were"
		}
		remedy := "give it again in the same write, with " + f.Name + "=-"
		if f.Name == kind.FieldPassword && (!old.Rotated.IsZero() || !old.Next.Empty()) {
			remedy += " (rotate-root has made the stored one, and nobody knows it: set another one at the server first)"
		}
		return fmt.Errorf("%s %s changed, which decides where %s is sent, and a stored %s goes only where it was given for; %s", strings.Join(moved, ", "), verb, f.Name, f.Name, remedy)
	}
	return nil
}

// storeConnection persists a connection, swaps it in, and lets rotations that failed at its server try again now. old is
// what it was made from: it must still be what is stored.
func (l *locked) storeConnection(ctx context.Context, old, c kind.Connection, changes []rotation.EntryChange, by rotation.Actor) error {
	if now := l.connections[c.Name]; now.Revision != old.Revision || !now.Next.Equal(old.Next) {
		return rotation.Refusef("connection %s was written by somebody else meanwhile; look at it with: vault read hyvve/connections/%s, and write it again; nothing was stored", c.Name, c.Name)
	}
	if err := l.connectionEndsUndeleted(c, old); err != nil {
		return err
	}
	if err := l.journal.Add(ctx, journal.Entry{What: "connection written", By: by.Name, Entity: by.Entity, Connection: c.Name, Changes: changes}); err != nil {
		return err
	}
	if err := l.put(ctx, pathConnections+c.Name, c); err != nil {
		return err
	}
	l.lock(func(m *memory) { m.connections[c.Name] = c })
	l.lock(func(m *memory) { delete(m.health, checksConnection+c.Name) }) // it was checked just now, or is not to be
	l.planCheck(checksConnection+c.Name, l.Now())
	return l.retryRotations(ctx, c.Name)
}
