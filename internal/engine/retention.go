// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"errors"
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
	if err := e.removeLitter(ctx); err != nil {
		return err
	}
	if err := e.retainJournal(ctx, now); err != nil {
		return err
	}
	return e.retainRotations(ctx, now)
}

// retainJournal moves the anchor first: killed after it, what is left below is no part of the chain, and goes after the next
// start.
func (e *Engine) retainJournal(ctx context.Context, now time.Time) error {
	if e.first == 0 {
		return nil
	}
	var last Entry
	kept := map[uint64]bool{}
	for seq := e.first; seq < e.head.Seq; seq++ {
		newer := e.head.Seq - seq
		if newer < uint64(e.floor.Entries) { //nolint:gosec // no floor is negative
			break
		}
		entry, ok, err := e.JournalEntry(ctx, entryID(seq))
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		if ok && !e.expired(newer, now.Sub(entry.At)) {
			break
		}
		if err != nil { // it may be one that stays
			kept[seq] = true
		}
		if ok {
			last, kept[seq] = entry, entry.Keep != nil
		}
	}
	if last.Seq == 0 {
		return nil
	}
	data, err := json.Marshal(link{last.Seq, last.Hash})
	if err != nil {
		return err
	}
	if err := e.write(ctx, pathAnchor, data); err != nil {
		return err
	}
	first := e.first
	e.first = last.Seq + 1
	for ; first <= last.Seq; first++ {
		if kept[first] {
			continue
		}
		if err := e.remove(ctx, pathJournal+entryID(first)); err != nil {
			return err
		}
	}
	return nil
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

// removeLitter removes entries below the chain that a crash has left. One that retention leaves stays, and so does one that
// cannot be read: it may be such a one.
func (e *Engine) removeLitter(ctx context.Context) error {
	for _, id := range e.litter {
		entry, ok, err := e.JournalEntry(ctx, id)
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		if !ok || entry.Keep != nil {
			continue
		}
		if err := e.remove(ctx, pathJournal+id); err != nil {
			return err
		}
	}
	e.litter = nil
	return nil
}
