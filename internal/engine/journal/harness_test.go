// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

var errInjected = errors.New("injected fault")

// memory is a Store that can fail from the nth write on, before or after that one took effect.
type memory struct {
	data   map[string][]byte
	writes int
	failAt int // 0: never
	after  bool
}

func (m *memory) write(do func()) error {
	m.writes++
	if m.failAt > 0 && m.writes >= m.failAt {
		if m.after && m.writes == m.failAt {
			do()
		}
		return errInjected
	}
	do()
	return nil
}

func (m *memory) Get(_ context.Context, path string) ([]byte, error) { return m.data[path], nil }

func (m *memory) Put(_ context.Context, path string, data []byte) error {
	return m.write(func() { m.data[path] = slices.Clone(data) })
}

func (m *memory) Delete(_ context.Context, path string) error {
	return m.write(func() { delete(m.data, path) })
}

func (m *memory) List(_ context.Context, prefix string) ([]string, error) {
	var names []string
	for _, path := range slices.Sorted(maps.Keys(m.data)) {
		if name, ok := strings.CutPrefix(path, prefix); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// book is a journal with its store and its clock.
type book struct {
	*Journal
	t      testing.TB
	store  *memory
	now    time.Time
	damage []string // what the last open has found
}

func newBook(t testing.TB) *book {
	t.Helper()
	b := &book{t: t, store: &memory{data: map[string][]byte{}}, now: time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)}
	b.open()
	return b
}

// open reads the journal as after a restart, and begins it.
func (b *book) open() {
	b.t.Helper()
	b.store.failAt = 0
	b.Journal = New(b.store, sum, func() time.Time { return b.now }, func() func() { return func() {} })
	b.ok(b.Load(b.t.Context()))
	var err error
	b.damage, err = b.Begin(b.t.Context())
	b.ok(err)
}

// sum is keyed, as that of the engine is.
func sum(data string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte("secret" + data))
	return fmt.Sprintf("%x", h.Sum64())
}

func (b *book) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// add adds n entries, one a minute.
func (b *book) add(n int) {
	b.t.Helper()
	for range n {
		b.now = b.now.Add(time.Minute)
		b.ok(b.Add(b.t.Context(), Entry{What: "a", By: "test", Keys: []Key{{Key: "db", To: 1}}}))
	}
}

// keep adds an entry that retention leaves.
func (b *book) keep() {
	b.t.Helper()
	b.ok(b.Add(b.t.Context(), Entry{What: "kept", By: "auditor", Keep: &Link{}}))
}

// retain takes away all but the newest entries.
func (b *book) retain(most uint64) error {
	return b.Retain(b.t.Context(), b.now, 0, func(newer uint64, _ time.Duration) bool { return newer >= most })
}

func (b *book) verify() Verified {
	b.t.Helper()
	v, err := b.Verify(b.t.Context())
	b.ok(err)
	return v
}

// faults returns what verify finds.
func (b *book) faults() string {
	b.t.Helper()
	return strings.Join(b.verify().Faults, "; ")
}

// at is the path of an entry.
func at(seq uint64) string { return pathEntries + ID(seq) }

// resealed is an entry that somebody has changed who has the secret of the mount.
func (b *book) resealed(data []byte) []byte {
	b.t.Helper()
	var r entryRecord
	b.ok(json.Unmarshal(data, &r))
	r.By = "eve"
	var err error
	r.Hash, err = b.seal(r.Entry)
	b.ok(err)
	data, err = r.encode()
	b.ok(err)
	return data
}
