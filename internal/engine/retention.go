// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"time"
)

// retainEvery is how often old records are looked for.
const retainEvery = time.Minute

// retain takes away the oldest journal entries and ended rotations beyond what the configuration keeps.
func (l *locked) retain(ctx context.Context, now time.Time) error {
	if !l.needsRetention || l.Uptime() < l.retainAt {
		return nil
	}
	l.retainAt, l.needsRetention = l.Uptime()+retainEvery, false
	if err := l.journal.Retain(ctx, now, uint64(l.floor.Entries), l.expired); err != nil { //nolint:gosec // no floor is negative
		return err
	}
	return l.retainRotations(ctx, now)
}

// expired reports whether retention takes away a record of that age, with so many newer ones: one of the configuration's
// bounds says so, and the floor does not keep it.
func (cat *catalog) expired(newer uint64, age time.Duration) bool {
	if newer < uint64(cat.floor.Entries) || age <= cat.floor.Age { //nolint:gosec // no floor is negative
		return false
	}
	tooMany := cat.config.JournalEntries > 0 && newer >= uint64(cat.config.JournalEntries)
	return tooMany || cat.config.JournalAge > 0 && age > cat.config.JournalAge
}

// retainRotations goes by the same bounds.
func (l *locked) retainRotations(ctx context.Context, now time.Time) error {
	ids, err := l.Store.List(ctx, pathRotations)
	if err != nil {
		return fmt.Errorf("listing rotations: %w", err)
	}
	for n, id := range ids {
		born, err := time.Parse(idTime, id[:min(len(id), len(idTime))])
		if err != nil || !l.expired(uint64(len(ids)-n-1), now.Sub(born)) { //nolint:gosec // n is an index of ids
			return nil //nolint:nilerr // what has no time of its own is kept, and so is all that is newer
		}
		if _, running := l.active[id]; running {
			continue
		}
		if err := l.remove(ctx, pathRotations+id); err != nil {
			return err
		}
	}
	return nil
}
