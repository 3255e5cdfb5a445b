// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"encoding/json"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// PutConfig replaces them.
func (e *Engine) PutConfig(ctx context.Context, c catalog.Config, by rotation.Actor) error {
	c.Confirm, c.ConfirmBy = cmp.Or(c.Confirm, rotation.ConfirmAuto), cmp.Or(c.ConfirmBy, rotation.ConfirmByAny)
	if err := c.Check(); err != nil {
		return err
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	l, release := e.acquire()
	defer release()
	if err := l.JournalFloor.Admits(l.Defaults, c); err != nil {
		return err
	}
	if err := e.journal.Add(ctx, journal.Entry{What: "config written", By: by.Name, Entity: by.Entity, Changes: l.Defaults.Fields().Changes(c.Fields())}); err != nil {
		return err
	}
	if err := e.write(ctx, pathConfig, data); err != nil {
		return err
	}
	again := c.LookEvery != l.Defaults.LookEvery
	e.lock(func(m *memory) { m.Defaults = c })
	if again {
		l.planChecks(e.Now())
	}
	l.needsRetention = true
	l.markDirty()
	return nil
}

// PutFloor replaces it. The entry of one that is lower in any way is never taken away.
func (e *Engine) PutFloor(ctx context.Context, f catalog.Floor, by rotation.Actor) error {
	if err := f.Check(); err != nil {
		return err
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	l, release := e.acquire()
	defer release()
	entry := journal.Entry{What: "journal's floor written", By: by.Name, Entity: by.Entity, Changes: l.JournalFloor.Fields().Changes(f.Fields())}
	if f.Entries < l.JournalFloor.Entries || f.Age < l.JournalFloor.Age {
		entry.What, entry.Keep = "journal's floor lowered", &journal.Link{}
	}
	if err := e.journal.Add(ctx, entry); err != nil {
		return err
	}
	if err := e.write(ctx, pathFloor, data); err != nil {
		return err
	}
	e.lock(func(m *memory) { m.JournalFloor = f })
	l.needsRetention = true
	return nil
}
