// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Entry is one line of the journal: who did what to which version when, and why. It never holds a value.
type Entry struct {
	ID       string     `json:"id"`
	At       time.Time  `json:"at"`
	What     string     `json:"what"`
	By       string     `json:"by,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	Rotation string     `json:"rotation,omitempty"`
	State    State      `json:"state,omitempty"`
	Step     Step       `json:"step,omitempty"`
	Keys     []EntryKey `json:"keys,omitempty"`
	Workload string     `json:"workload,omitempty"`
}

// EntryKey is a key in an entry.
type EntryKey struct {
	Key         string `json:"key"`
	From        int    `json:"from,omitempty"` // version numbers
	To          int    `json:"to,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"` // of version To
}

type entryRecord struct {
	Schema int `json:"schema"`
	Entry
}

// Encode gives the stored form.
func (n Entry) Encode() ([]byte, error) { return json.Marshal(entryRecord{1, n}) }

// journalEvent writes the nth event of a rotation under an id of its own, so that writing it again is harmless.
// mu is held.
func (e *Engine) journalEvent(ctx context.Context, r Rotation, n int) error {
	event := r.Timeline[n]
	entry := Entry{
		ID: fmt.Sprintf("%s-%03d", r.ID, n), At: event.At, What: event.Text, By: event.By, Reason: r.Reason,
		Rotation: r.ID, State: event.State, Step: event.Step,
	}
	if entry.By == "" {
		entry.By = r.By
	}
	for _, c := range r.Changes {
		v, _ := e.keys[c.Key].Version(c.To)
		entry.Keys = append(entry.Keys, EntryKey{c.Key, c.From, c.To, v.Fingerprint})
	}
	return e.put(ctx, pathJournal+entry.ID, entry)
}

// journal writes an entry that belongs to no rotation. mu is held.
func (e *Engine) journal(ctx context.Context, entry Entry) error {
	id, err := e.newID()
	if err != nil {
		return err
	}
	entry.ID, entry.At = id, e.Now().UTC()
	return e.put(ctx, pathJournal+entry.ID, entry)
}

// newID gives an id that sorts by time: UTC to the millisecond, and six random hexadecimal characters.
func (e *Engine) newID() (string, error) {
	tail, err := e.random(3)
	if err != nil {
		return "", err
	}
	return e.Now().UTC().Format("20060102t150405.000") + "-" + tail, nil
}

// JournalIDs lists the entries, oldest first.
func (e *Engine) JournalIDs(ctx context.Context) ([]string, error) {
	return e.Store.List(ctx, pathJournal)
}

// JournalEntry reads one; false where there is none of that id.
func (e *Engine) JournalEntry(ctx context.Context, id string) (Entry, bool, error) {
	data, err := e.Store.Get(ctx, pathJournal+id)
	if err != nil || data == nil {
		return Entry{}, false, err
	}
	var r entryRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return Entry{}, false, fmt.Errorf("stored journal entry %s: %w", id, err)
	}
	return r.Entry, true, nil
}
