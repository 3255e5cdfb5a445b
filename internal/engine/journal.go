// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Entry is one line of the journal: who did what to which version when, and why. It never holds a value. Entries are
// only ever added, each with the hash of the one before, so that none can be changed or taken out unnoticed.
type Entry struct {
	Seq      uint64         `json:"seq"` // counts from 1
	At       time.Time      `json:"at"`
	What     string         `json:"what"`
	By       string         `json:"by,omitempty"`     // display name
	Entity   string         `json:"entity,omitempty"` // of Vault
	Reason   string         `json:"reason,omitempty"`
	Rotation string         `json:"rotation,omitempty"`
	Event    int            `json:"event,omitempty"` // of the rotation's timeline, from 1
	State    rotation.State `json:"state,omitempty"`
	Step     rotation.Step  `json:"step,omitempty"`
	Keys     []EntryKey     `json:"keys,omitempty"`
	Workload string         `json:"workload,omitempty"`

	Connection string `json:"connection,omitempty"`

	Changes []rotation.EntryChange `json:"changes,omitempty"` // fields that a write changes
	Refused string                 `json:"refused,omitempty"` // why a write changed nothing
	Failed  string                 `json:"failed,omitempty"`  // why nobody knows whether a write took effect

	// Keep marks an entry that retention leaves, and links it to the one before that it has left.
	Keep *link `json:"keep,omitempty"`

	Prev string `json:"prev"` // hash of the entry before
	Hash string `json:"hash"` // of this one without Hash, keyed with the mount's secret
}

// EntryKey is a key in an entry.
type EntryKey struct {
	Key         string `json:"key"`
	From        int    `json:"from,omitempty"` // version numbers
	To          int    `json:"to,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"` // of version To
}

// ID is where the entry is kept. It sorts by Seq.
func (n Entry) ID() string { return entryID(n.Seq) }

// entryDigits hold the sequence of a thousand entries a second for 300 years. Entries of schema 1 have longer ids.
const entryDigits = 13

func entryID(seq uint64) string { return fmt.Sprintf("%0*d", entryDigits, seq) }

func entrySeq(id string) (uint64, bool) {
	var seq uint64
	if len(id) != entryDigits {
		return 0, false
	}
	if n, err := fmt.Sscanf(id, "%d", &seq); n != 1 || err != nil {
		return 0, false
	}
	return seq, true
}

// link is an entry as the next one sees it.
type link struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// entrySchema is the number of the stored form. Entries of schema 1 stood under the id of their rotation and had no
// chain; they are read, and are not part of it. Schema 3 adds Changes and Refused, schema 4
// Failed and Keep: an older release would leave them out of the hash. Entries of schema 4 have a stored head.
const (
	entrySchema    = 4
	schemaWithHead = 4
)

type entryRecord struct {
	Schema int `json:"schema"`
	Entry
}

// Encode gives the stored form.
func (n Entry) Encode() ([]byte, error) { return json.Marshal(entryRecord{entrySchema, n}) }

// seal gives the hash of an entry.
func (e *Engine) seal(n Entry) (string, error) {
	n.Hash = ""
	data, err := json.Marshal(n)
	if err != nil {
		return "", fmt.Errorf("hashing journal entry %d: %w", n.Seq, err)
	}
	return e.fingerprints.Sum("journal", string(data)), nil
}

// journal adds an entry, then stores the new head: killed in between, the next start finds the entry beyond the head that
// is stored. The other way round, a crash would look as if the entry had been taken out. The writer lock is held.
func (e *Engine) journal(ctx context.Context, n Entry) error {
	if err := e.append(ctx, n); err != nil {
		return err
	}
	return e.writeHead(ctx)
}

// append adds an entry and does not store the head. The writer lock is held.
func (e *Engine) append(ctx context.Context, n Entry) error {
	n.Seq, n.Prev = e.head.Seq+1, e.head.Hash
	if n.At.IsZero() {
		n.At = e.Now().UTC()
	}
	n.At = n.At.Round(0) // as it is read back
	if n.Keep != nil {
		kept := e.head.Kept
		n.Keep = &kept
	}
	hash, err := e.seal(n)
	if err != nil {
		return err
	}
	n.Hash = hash
	if err := e.put(ctx, pathJournal+n.ID(), n); err != nil {
		return err
	}
	e.head.follow(n)
	if e.first == 0 {
		e.first = n.Seq
	}
	return nil
}

// eventEntry is the entry of the nth event of a rotation. turn is held.
func (e *Engine) eventEntry(r rotation.Rotation, n int) Entry {
	event := r.Timeline[n-r.Omitted]
	entry := Entry{
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
		entry.Keys = append(entry.Keys, EntryKey{c.Key, c.From, c.To, v.Fingerprint})
	}
	return entry
}

// journalEvents adds the events of a stored rotation from the nth on. turn is held.
func (e *Engine) journalEvents(ctx context.Context, r rotation.Rotation, n int) error {
	if n >= r.EventCount() {
		return nil
	}
	for ; n < r.EventCount(); n++ {
		if err := e.append(ctx, e.eventEntry(r, n)); err != nil {
			return err
		}
	}
	return e.writeHead(ctx)
}

// journaled finds which events of a rotation beyond those that its record knows of are in the journal: killed between
// the record and the journal, an event lacks there. turn is held.
func (e *Engine) journaled(ctx context.Context, r rotation.Rotation) (int, error) {
	known := r.Journaled
	for seq := r.JournalSeq + 1; seq <= e.head.Seq && known < r.EventCount(); seq++ {
		entry, ok, err := e.JournalEntry(ctx, entryID(seq))
		if err != nil {
			return 0, err
		}
		if ok && entry.Rotation == r.ID {
			known = max(known, entry.Event)
		}
	}
	return known, nil
}

// errDamaged marks a record that is no record.
var errDamaged = errors.New("damaged")

// JournalIDs lists the entries, oldest first.
func (e *Engine) JournalIDs(ctx context.Context) ([]string, error) {
	ids, err := e.Store.List(ctx, pathJournal)
	if err != nil {
		return nil, fmt.Errorf("listing the journal: %w", err)
	}
	return ids, nil
}

// JournalEntry reads one; false where there is none of that id.
func (e *Engine) JournalEntry(ctx context.Context, id string) (Entry, bool, error) {
	r, ok, err := e.entryRecord(ctx, id)
	return r.Entry, ok, err
}

func (e *Engine) entryRecord(ctx context.Context, id string) (entryRecord, bool, error) {
	data, err := e.Store.Get(ctx, pathJournal+id)
	if err != nil || data == nil {
		return entryRecord{}, false, err
	}
	var r entryRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return entryRecord{}, false, fmt.Errorf("stored journal entry %s: %w: %w", id, errDamaged, err)
	}
	if r.Schema < 1 || r.Schema > entrySchema {
		return entryRecord{}, false, fmt.Errorf("stored journal entry %s has schema %d, this release reads 1 to %d; use the release that wrote it or a newer one", id, r.Schema, entrySchema)
	}
	return r, true, nil
}
