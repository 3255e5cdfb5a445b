// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Entry is one line of the journal: who did what to which version when, and why. It never holds a value. Entries are
// only ever added, each with the hash of the one before, so that none can be changed or taken out unnoticed.
type Entry struct {
	Seq      uint64     `json:"seq"` // counts from 1
	At       time.Time  `json:"at"`
	What     string     `json:"what"`
	By       string     `json:"by,omitempty"`     // display name
	Entity   string     `json:"entity,omitempty"` // of Vault
	Reason   string     `json:"reason,omitempty"`
	Rotation string     `json:"rotation,omitempty"`
	Event    int        `json:"event,omitempty"` // of the rotation's timeline, from 1
	State    State      `json:"state,omitempty"`
	Step     Step       `json:"step,omitempty"`
	Keys     []EntryKey `json:"keys,omitempty"`
	Workload string     `json:"workload,omitempty"`

	Connection string `json:"connection,omitempty"`

	Changes []EntryChange `json:"changes,omitempty"` // fields that a write changes
	Refused string        `json:"refused,omitempty"` // why a write changed nothing
	Failed  string        `json:"failed,omitempty"`  // why nobody knows whether a write took effect

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
// Failed: an older release would leave them out of the hash.
const entrySchema = 4

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

// journal adds an entry. turn is held.
func (e *Engine) journal(ctx context.Context, n Entry) error {
	n.Seq, n.Prev = e.head.Seq+1, e.head.Hash
	if n.At.IsZero() {
		n.At = e.Now().UTC()
	}
	n.At = n.At.Round(0) // as it is read back
	hash, err := e.seal(n)
	if err != nil {
		return err
	}
	n.Hash = hash
	if err := e.put(ctx, pathJournal+n.ID(), n); err != nil {
		return err
	}
	e.head = link{n.Seq, n.Hash}
	if e.first == 0 {
		e.first = n.Seq
	}
	return nil
}

// eventEntry is the entry of the nth event of a rotation. turn is held.
func (e *Engine) eventEntry(r Rotation, n int) Entry {
	event := r.Timeline[n]
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
func (e *Engine) journalEvents(ctx context.Context, r Rotation, n int) error {
	for ; n < len(r.Timeline); n++ {
		if err := e.journal(ctx, e.eventEntry(r, n)); err != nil {
			return err
		}
	}
	return nil
}

// loadJournal finds both ends of the chain.
func (e *Engine) loadJournal(ctx context.Context) error {
	anchor, err := e.anchor(ctx)
	if err != nil {
		return err
	}
	e.head, e.first = anchor, 0
	ids, err := e.Store.List(ctx, pathJournal)
	if err != nil {
		return fmt.Errorf("listing the journal: %w", err)
	}
	for _, id := range ids {
		seq, ok := entrySeq(id)
		switch {
		case !ok:
		case seq <= anchor.Seq:
			e.litter = append(e.litter, id)
		default:
			if e.first == 0 {
				e.first = seq
			}
			e.head.Seq = seq
		}
	}
	if e.head.Seq > anchor.Seq {
		last, ok, err := e.JournalEntry(ctx, entryID(e.head.Seq))
		if err != nil {
			return err
		}
		if ok {
			e.head.Hash = last.Hash
		}
	}
	return nil
}

// anchor is the last entry that retention has taken away; the chain goes on from it.
func (e *Engine) anchor(ctx context.Context) (link, error) {
	data, err := e.Store.Get(ctx, pathAnchor)
	if err != nil || data == nil {
		return link{}, err
	}
	var anchor link
	if err := json.Unmarshal(data, &anchor); err != nil {
		return link{}, fmt.Errorf("stored journal anchor: %w", err)
	}
	return anchor, nil
}

// journaled finds which events of a rotation beyond those that its record knows of are in the journal: killed between
// the record and the journal, an event lacks there. turn is held.
func (e *Engine) journaled(ctx context.Context, r Rotation) (int, error) {
	known := r.Journaled
	for seq := r.JournalSeq + 1; seq <= e.head.Seq && known < len(r.Timeline); seq++ {
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
	data, err := e.Store.Get(ctx, pathJournal+id)
	if err != nil || data == nil {
		return Entry{}, false, err
	}
	var r entryRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return Entry{}, false, fmt.Errorf("stored journal entry %s: %w: %w", id, errDamaged, err)
	}
	if r.Schema < 1 || r.Schema > entrySchema {
		return Entry{}, false, fmt.Errorf("stored journal entry %s has schema %d, this release reads 1 to %d; use the release that wrote it or a newer one", id, r.Schema, entrySchema)
	}
	return r.Entry, true, nil
}

// Verified is what VerifyJournal found.
type Verified struct {
	Entries     int
	First, Last uint64   // sequence numbers
	Faults      []string // in plain words; none: the chain is whole
	Older       int      // entries of schema 1, which have no chain
}

// mostFaults is how many VerifyJournal lists.
const mostFaults = 20

// VerifyJournal walks the chain from the oldest entry that retention has left to the newest.
func (e *Engine) VerifyJournal(ctx context.Context) (Verified, error) {
	e.turn.Lock() // no entry is added meanwhile
	defer e.turn.Unlock()
	before, err := e.anchor(ctx)
	if err != nil {
		return Verified{}, err
	}
	ids, err := e.JournalIDs(ctx)
	if err != nil {
		return Verified{}, err
	}
	var v Verified
	fault := func(format string, args ...any) {
		if len(v.Faults) < mostFaults {
			v.Faults = append(v.Faults, fmt.Sprintf(format, args...))
		}
	}
	for _, id := range ids {
		seq, ok := entrySeq(id)
		if !ok {
			v.Older++
			continue
		}
		if seq <= before.Seq {
			continue // retention was about to take it away
		}
		if v.First == 0 {
			v.First = seq
		}
		if before, err = e.verifyEntry(ctx, id, seq, before, fault); err != nil {
			return Verified{}, err
		}
		v.Entries, v.Last = v.Entries+1, seq
	}
	if before.Seq != e.head.Seq {
		fault("the newest entries, %d to %d, are missing", before.Seq+1, e.head.Seq)
	}
	return v, nil
}

// verifyEntry compares an entry with the one before.
func (e *Engine) verifyEntry(ctx context.Context, id string, seq uint64, before link, fault func(string, ...any)) (link, error) {
	entry, ok, err := e.JournalEntry(ctx, id)
	damaged := errors.Is(err, errDamaged)
	if err != nil && !damaged {
		return link{}, err
	}
	if damaged || !ok {
		fault("entry %d cannot be read", seq)
		return link{Seq: seq}, nil
	}
	hash, err := e.seal(entry)
	switch {
	case err != nil:
		return link{}, err
	case seq != before.Seq+1:
		fault("entries %d to %d are missing", before.Seq+1, seq-1)
	case entry.Prev != before.Hash:
		fault("entry %d does not follow on entry %d as it stands: one of them was changed", seq, before.Seq)
	}
	if entry.Seq != seq || hash != entry.Hash {
		fault("entry %d was changed: its hash is another", seq)
	}
	return link{seq, entry.Hash}, nil
}
