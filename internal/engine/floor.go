// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Floor is what retention never goes below, whatever the configuration says: a journal entry, or an ended rotation, stays
// while it is among the newest Entries, and while it is not older than Age. Whichever keeps more holds.
type Floor struct {
	Entries int           `json:"min_entries"`
	Age     time.Duration `json:"min_age"`
}

// DefaultFloor is what a mount has until somebody sets another.
func DefaultFloor() Floor { return Floor{Entries: 10_000, Age: 90 * 24 * time.Hour} }

func (f Floor) check() error {
	switch {
	case f.Entries < minJournal:
		return rotation.Refusef("min_entries %d is too few; use at least %d (10000 is the default)", f.Entries, minJournal)
	case f.Age < 0:
		return rotation.Refusef("min_age %s is negative; use 0s to go by min_entries alone (2160h, which is 90 days, is the default)", f.Age)
	}
	return nil
}

func (f Floor) fields() fields {
	return fields{"min_entries": strconv.Itoa(f.Entries), "min_age": f.Age.String()}
}

// admits refuses bounds of the configuration below the floor. Bounds that stay as they are were set before the floor was,
// and are no mistake of a user who changes something else; the floor holds nevertheless.
func (f Floor) admits(old, c Config) error {
	const remedy = "the floor of hyvve/journal/config, which an auditor may lower"
	switch {
	case c.JournalEntries != old.JournalEntries && c.JournalEntries != 0 && c.JournalEntries < f.Entries:
		return rotation.Refusef("journal_max_entries %d is below %d, %s; use at least that, or 0 for no bound", c.JournalEntries, f.Entries, remedy)
	case c.JournalAge != old.JournalAge && c.JournalAge != 0 && c.JournalAge < f.Age:
		return rotation.Refusef("journal_max_age %s is below %s, %s; use at least that, or 0s for no bound", c.JournalAge, f.Age, remedy)
	}
	return nil
}

// Floor returns what retention never goes below.
func (s *state) Floor() Floor {
	m, unlock := s.memory.Lock()
	defer unlock()
	return m.floor
}

// FloorChanges returns what writing f changes.
func (s *state) FloorChanges(f Floor) []rotation.EntryChange {
	return s.Floor().fields().changes(f.fields())
}

// PutFloor replaces it. The entry of one that is lower in any way is never taken away.
func (e *Engine) PutFloor(ctx context.Context, f Floor, by rotation.Actor) error {
	if err := f.check(); err != nil {
		return err
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	l, release := e.acquire()
	defer release()
	entry := journal.Entry{What: "journal's floor written", By: by.Name, Entity: by.Entity, Changes: l.floor.fields().changes(f.fields())}
	if f.Entries < l.floor.Entries || f.Age < l.floor.Age {
		entry.What, entry.Keep = "journal's floor lowered", &journal.Link{}
	}
	if err := e.journal.Add(ctx, entry); err != nil {
		return err
	}
	if err := e.write(ctx, pathFloor, data); err != nil {
		return err
	}
	e.lock(func(m *memory) { m.floor = f })
	l.needsRetention = true
	return nil
}

func (l *locked) loadFloor(ctx context.Context) error {
	data, err := l.Store.Get(ctx, pathFloor)
	if err != nil || data == nil {
		return err
	}
	if err := json.Unmarshal(data, &l.floor); err != nil {
		return fmt.Errorf("stored floor of the journal: %w", err)
	}
	return nil
}
