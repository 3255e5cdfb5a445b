// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Floor returns what retention never goes below.
func (s *state) Floor() catalog.Floor {
	m, unlock := s.memory.Lock()
	defer unlock()
	return m.JournalFloor
}

// FloorChanges returns what writing f changes.
func (s *state) FloorChanges(f catalog.Floor) []rotation.EntryChange {
	return s.Floor().Fields().Changes(f.Fields())
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

func (l *locked) loadFloor(ctx context.Context) error {
	data, err := l.Store.Get(ctx, pathFloor)
	if err != nil || data == nil {
		return err
	}
	if err := json.Unmarshal(data, &l.JournalFloor); err != nil {
		return fmt.Errorf("stored floor of the journal: %w", err)
	}
	return nil
}
