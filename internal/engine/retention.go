// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
)

// retainEvery is how often old records are looked for.
const retainEvery = time.Minute

// retain takes away the oldest journal entries and ended rotations beyond what the configuration keeps.
func (l *locked) retain(ctx context.Context, now time.Time) error {
	if !l.needsRetention || l.Uptime() < l.retainAt {
		return nil
	}
	l.retainAt, l.needsRetention = l.Uptime()+retainEvery, false
	if err := l.journal.Retain(ctx, now, uint64(l.JournalFloor.Entries), l.Expired); err != nil { //nolint:gosec // no floor is negative
		return err
	}
	return l.retainRotations(ctx, now)
}

// retainRotations goes by the same bounds.
func (l *locked) retainRotations(ctx context.Context, now time.Time) error {
	ids, err := l.Store.List(ctx, pathRotations)
	if err != nil {
		return fmt.Errorf("listing rotations: %w", err)
	}
	for n, id := range ids {
		born, err := time.Parse(catalog.IdTime, id[:min(len(id), len(catalog.IdTime))])
		if err != nil || !l.Expired(uint64(len(ids)-n-1), now.Sub(born)) { //nolint:gosec // n is an index of ids
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
