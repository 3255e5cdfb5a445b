// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"time"
)

// retainEvery is how often old records are looked for.
const retainEvery = time.Minute

// retain takes away the oldest journal entries and ended rotations beyond what the configuration keeps. turn is held.
func (e *Engine) retain(ctx context.Context, now time.Time) error {
	if !e.grown || e.Uptime() < e.retainAt {
		return nil
	}
	e.retainAt, e.grown = e.Uptime()+retainEvery, false
	if err := e.journal.Retain(ctx, now, uint64(e.floor.Entries), e.expired); err != nil { //nolint:gosec // no floor is negative
		return err
	}
	return e.retainRotations(ctx, now)
}

// expired reports whether retention takes away a record of that age, with so many newer ones: one of the configuration's
// bounds says so, and the floor does not keep it. The writer lock is held.
func (e *Engine) expired(newer uint64, age time.Duration) bool {
	if newer < uint64(e.floor.Entries) || age <= e.floor.Age { //nolint:gosec // no floor is negative
		return false
	}
	tooMany := e.config.JournalEntries > 0 && newer >= uint64(e.config.JournalEntries)
	return tooMany || e.config.JournalAge > 0 && age > e.config.JournalAge
}

// retainRotations goes by the same bounds.
func (e *Engine) retainRotations(ctx context.Context, now time.Time) error {
	ids, err := e.Store.List(ctx, pathRotations)
	if err != nil {
		return fmt.Errorf("listing rotations: %w", err)
	}
	for n, id := range ids {
		born, err := time.Parse(idTime, id[:min(len(id), len(idTime))])
		if err != nil || !e.expired(uint64(len(ids)-n-1), now.Sub(born)) { //nolint:gosec // n is an index of ids
			return nil //nolint:nilerr // what has no time of its own is kept, and so is all that is newer
		}
		if _, running := e.active[id]; running {
			continue
		}
		if err := e.remove(ctx, pathRotations+id); err != nil {
			return err
		}
	}
	return nil
}
