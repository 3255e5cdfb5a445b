// SPDX-License-Identifier: Apache-2.0

// Package journal keeps who did what to which version when, and why, as a chain: each entry has the hash of the one before.
// It knows no engine: its writer gives it a store, a keyed hash, a clock and a lock.
package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Store keeps records by path. Get returns nil, nil for what is not there; List returns names below a
// prefix, sorted. A Put or Delete that fails may have taken effect or not.
type Store interface {
	Get(ctx context.Context, path string) ([]byte, error)
	Put(ctx context.Context, path string, data []byte) error
	Delete(ctx context.Context, path string) error
	List(ctx context.Context, prefix string) ([]string, error)
}

// Where records are.
const (
	pathAnchor  = "mount/journal"
	pathHead    = "mount/head"
	pathEntries = "journal/"
)

// Journal is the chain of entries. Its writer calls [Journal.Load] first. Load, Begin, Add, Append, End and Retain are called
// with the writer's lock; the other methods take it where they need it.
type Journal struct {
	store Store
	sum   func(data string) string // keyed with the mount's secret
	now   func() time.Time
	lock  func() (unlock func()) // the writer's

	head     tip
	first    uint64   // entry of the chain, 0 while there is none
	orphaned []string // entries below the chain
	unsaved  bool     // head is not what is stored
	begun    bool     // it is the one that is written
	damage   []string // what was found wrong when it was read

	verifying sync.Mutex
}

// New returns the journal of a store. lock takes the lock of its writer.
func New(store Store, sum func(data string) string, now func() time.Time, lock func() (unlock func())) *Journal {
	return &Journal{store: store, sum: sum, now: now, lock: lock}
}

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
	Keys     []Key          `json:"keys,omitempty"`
	Workload string         `json:"workload,omitempty"`

	Connection string `json:"connection,omitempty"`

	Changes []rotation.EntryChange `json:"changes,omitempty"` // fields that a write changes
	Refused string                 `json:"refused,omitempty"` // why a write changed nothing
	Failed  string                 `json:"failed,omitempty"`  // why nobody knows whether a write took effect

	// Keep marks an entry that retention leaves, and links it to the one before that it has left.
	Keep *Link `json:"keep,omitempty"`

	Prev string `json:"prev"` // hash of the entry before
	Hash string `json:"hash"` // of this one without Hash, keyed with the mount's secret
}

// Key is a key in an entry.
type Key struct {
	Key         string `json:"key"`
	From        int    `json:"from,omitempty"` // version numbers
	To          int    `json:"to,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"` // of version To
}

// ID is where the entry is kept. It sorts by Seq.
func (n Entry) ID() string { return ID(n.Seq) }

// digits hold the sequence of a thousand entries a second for 300 years. Entries of schema 1 have longer ids.
const digits = 13

// ID is where the entry of that number is kept.
func ID(seq uint64) string { return fmt.Sprintf("%0*d", digits, seq) }

func entrySeq(id string) (uint64, bool) {
	var seq uint64
	if len(id) != digits {
		return 0, false
	}
	if n, err := fmt.Sscanf(id, "%d", &seq); n != 1 || err != nil {
		return 0, false
	}
	return seq, true
}

// Link is an entry as the next one sees it.
type Link struct {
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

// entryRecord is the stored form of an entry.
type entryRecord struct {
	Schema int `json:"schema"`
	Entry
}

// encode returns the stored form.
func (n Entry) encode() ([]byte, error) { return json.Marshal(entryRecord{entrySchema, n}) }

// seal returns the hash of an entry.
func (j *Journal) seal(n Entry) (string, error) {
	n.Hash = ""
	data, err := json.Marshal(n)
	if err != nil {
		return "", fmt.Errorf("hashing journal entry %d: %w", n.Seq, err)
	}
	return j.sum(string(data)), nil
}

// Add adds an entry, then stores the new head: killed in between, the next start finds the entry beyond the head that
// is stored. The other way round, a crash would look as if the entry had been taken out.
func (j *Journal) Add(ctx context.Context, n Entry) error {
	if err := j.Append(ctx, n); err != nil {
		return err
	}
	return j.SaveHead(ctx)
}

// Append adds an entry and does not store the head.
func (j *Journal) Append(ctx context.Context, n Entry) error {
	n.Seq, n.Prev = j.head.Seq+1, j.head.Hash
	if n.At.IsZero() {
		n.At = j.now().UTC()
	}
	n.At = n.At.Round(0) // as it is read back
	if n.Keep != nil {
		kept := j.head.Kept
		n.Keep = &kept
	}
	hash, err := j.seal(n)
	if err != nil {
		return err
	}
	n.Hash = hash
	data, err := n.encode()
	if err != nil {
		return fmt.Errorf("encoding journal entry %d: %w", n.Seq, err)
	}
	if err := j.store.Put(ctx, pathEntries+n.ID(), data); err != nil {
		return err
	}
	j.head.follow(n)
	if j.first == 0 {
		j.first = n.Seq
	}
	return nil
}

// errDamaged marks a record that is no record.
var errDamaged = errors.New("damaged")

// IDs lists the entries, oldest first.
func (j *Journal) IDs(ctx context.Context) ([]string, error) {
	ids, err := j.store.List(ctx, pathEntries)
	if err != nil {
		return nil, fmt.Errorf("listing the journal: %w", err)
	}
	return ids, nil
}

// Entry reads one; false where there is none of that id.
func (j *Journal) Entry(ctx context.Context, id string) (Entry, bool, error) {
	r, ok, err := j.record(ctx, id)
	return r.Entry, ok, err
}

func (j *Journal) record(ctx context.Context, id string) (entryRecord, bool, error) {
	data, err := j.store.Get(ctx, pathEntries+id)
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
