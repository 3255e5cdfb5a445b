// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"encoding/json"
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
	for _, id := range e.litter {
		if err := e.remove(ctx, pathJournal+id); err != nil {
			return err
		}
	}
	e.litter = nil
	if err := e.retainJournal(ctx, now); err != nil {
		return err
	}
	return e.retainRotations(ctx, now)
}

// retainJournal moves the anchor first: killed after it, what is left below is no part of the chain, and goes
// after the next start.
func (e *Engine) retainJournal(ctx context.Context, now time.Time) error {
	if e.first == 0 {
		return nil
	}
	var last Entry
	seq := e.first
	for ; seq < e.head.Seq; seq++ {
		tooMany := e.config.JournalEntries > 0 && e.head.Seq-seq >= uint64(e.config.JournalEntries)
		if !tooMany && e.config.JournalAge == 0 {
			break
		}
		entry, ok, err := e.JournalEntry(ctx, entryID(seq))
		if err != nil {
			return err
		}
		if !tooMany && ok && now.Sub(entry.At) <= e.config.JournalAge {
			break
		}
		if ok {
			last = entry
		}
	}
	if last.Seq == 0 || seq == e.first {
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
		if err := e.remove(ctx, pathJournal+entryID(first)); err != nil {
			return err
		}
	}
	return nil
}

// retainRotations goes by the same bounds.
func (e *Engine) retainRotations(ctx context.Context, now time.Time) error {
	ids, err := e.Store.List(ctx, pathRotations)
	if err != nil {
		return fmt.Errorf("listing rotations: %w", err)
	}
	for n, id := range ids {
		tooMany := e.config.JournalEntries > 0 && len(ids)-n > e.config.JournalEntries
		born, err := time.Parse(idTime, id[:min(len(id), len(idTime))])
		tooOld := err == nil && e.config.JournalAge > 0 && now.Sub(born) > e.config.JournalAge
		if !tooMany && !tooOld {
			return nil
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
