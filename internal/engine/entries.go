// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// journalStore stores entries as the engine stores its records: a write that fails makes it stale.
type journalStore struct{ e *Engine }

func (s journalStore) Get(ctx context.Context, path string) ([]byte, error) {
	return s.e.Store.Get(ctx, path)
}

func (s journalStore) List(ctx context.Context, prefix string) ([]string, error) {
	return s.e.Store.List(ctx, prefix)
}

func (s journalStore) Put(ctx context.Context, path string, data []byte) error {
	return s.e.write(ctx, path, data)
}

func (s journalStore) Delete(ctx context.Context, path string) error { return s.e.remove(ctx, path) }

func (e *Engine) sumEntry(data string) string { return e.fingerprints.Sum("journal", data) }

// Journal returns the journal.
func (e *Engine) Journal() *journal.Journal { return e.journal }

// tellEvery is how often the head of a journal that has grown is told, beside the end of each rotation.
const tellEvery = 10 * time.Minute

// tellHead tells the observer where the journal ends. The writer lock is held.
func (e *Engine) tellHead() {
	if h := e.journal.End(); e.told != h.Count {
		e.told, e.tellAt = h.Count, e.Uptime()+tellEvery
		e.Observer.Journal(h)
	}
}

// journalDamage journals what was found wrong with the journal. The writer lock is held.
func (e *Engine) journalDamage(ctx context.Context) error {
	damage, err := e.journal.Begin(ctx)
	if err != nil {
		return err
	}
	for _, text := range damage {
		e.Observer.Fault("the journal was changed behind the engine's back", errors.New(text))
		if err := e.journal.Add(ctx, journal.Entry{What: "the journal was found damaged: " + text, By: rotation.Itself.Name}); err != nil {
			return err
		}
	}
	return nil
}

// eventEntry is the entry of the nth event of a rotation. turn is held.
func (e *Engine) eventEntry(r rotation.Rotation, n int) journal.Entry {
	event := r.Timeline[n-r.Omitted]
	entry := journal.Entry{
		At: event.At, What: event.Text, By: event.By, Entity: event.Entity, Reason: event.Reason,
		Rotation: r.ID, Event: n + 1, State: event.State, Step: event.Step,
	}
	if entry.By == "" {
		entry.By, entry.Entity = r.By, r.Entity
	}
	if entry.Reason == "" {
		entry.Reason = r.Reason
	}
	if n == 0 {
		entry.Changes = r.Asked
	}
	for _, c := range r.Changes {
		v, _ := e.keys[c.Key].Version(c.To)
		entry.Keys = append(entry.Keys, journal.Key{Key: c.Key, From: c.From, To: c.To, Fingerprint: v.Fingerprint})
	}
	return entry
}

// journalEvents adds the events of a stored rotation from the nth on. turn is held.
func (e *Engine) journalEvents(ctx context.Context, r rotation.Rotation, n int) error {
	if n >= r.EventCount() {
		return nil
	}
	for ; n < r.EventCount(); n++ {
		if err := e.journal.Append(ctx, e.eventEntry(r, n)); err != nil {
			return err
		}
	}
	return e.journal.SaveHead(ctx)
}

// journaled finds which events of a rotation beyond those that its record knows of are in the journal: killed between
// the record and the journal, an event lacks there. turn is held.
func (e *Engine) journaled(ctx context.Context, r rotation.Rotation) (int, error) {
	known := r.Journaled
	for seq := r.JournalSeq + 1; seq <= e.journal.End().Count && known < r.EventCount(); seq++ {
		entry, ok, err := e.journal.Entry(ctx, journal.ID(seq))
		if err != nil {
			return 0, err
		}
		if ok && entry.Rotation == r.ID {
			known = max(known, entry.Event)
		}
	}
	return known, nil
}
