// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// written returns the records of a journal: its entries, and the head behind them.
func written(t *testing.T) map[string][]byte {
	b := newBook(t)
	b.add(4)
	b.keep()
	b.ok(b.Add(t.Context(), Entry{What: "key changed", By: "test", Changes: []rotation.EntryChange{{Field: "soak", From: "0s", To: "1s"}}}))
	b.add(3)
	b.keep()
	b.add(2)
	return b.store.data
}

// FuzzJournal has somebody who does not have the mount's secret change a record of the journal in any way, or replace it. It is
// found, at once and after a restart.
func FuzzJournal(f *testing.F) {
	f.Add(3, `"by":"test"`, `"by":"eve"`)
	f.Add(5, `"to":"1s"`, `"to":"2s"`)
	f.Add(5, `"schema":4`, `"schema":1`)
	f.Add(7, "", "{}")
	f.Add(9, `"keep":`, `"kept":`)
	f.Add(8, "", `{"schema":4,"seq":9,"keep":{"seq":1,"hash":"x"}}`)
	f.Add(1000, `"seq":`, `"seq":1`)
	f.Add(1000, "", "null")
	f.Add(1000, `"seq":`, `"":`)
	var once sync.Once
	var records map[string][]byte
	f.Fuzz(func(t *testing.T, n int, was, is string) {
		once.Do(func() { records = written(t) })
		paths := slices.DeleteFunc(slices.Sorted(maps.Keys(records)), func(path string) bool { return !strings.HasPrefix(path, pathEntries) })
		path := pathHead
		if n >= 0 && n < len(paths) {
			path = paths[n]
		}
		old, changed := records[path], []byte(is)
		if was != "" {
			changed = []byte(strings.Replace(string(old), was, is, 1))
		}
		if sameRecord(old, changed) {
			return
		}
		if again := (tip{}); path == pathHead && json.Unmarshal(changed, &again) == nil && again == (tip{}) {
			return // that of an empty journal was there once, and putting back is not found (docs/security.md)
		}
		b := newBook(t)
		b.store.data = maps.Clone(records)
		b.open()
		b.store.data[path] = changed
		if v, err := b.Verify(t.Context()); err == nil && len(v.Faults) == 0 {
			t.Errorf("%s is %q, and nothing is found", path, changed)
		}
		b.Journal = New(b.store, sum, b.Journal.now, b.lock)
		if b.Load(t.Context()) != nil {
			return // it says so itself
		}
		damage, err := b.Begin(t.Context())
		b.ok(err)
		if v, err := b.Verify(t.Context()); err == nil && len(v.Faults) == 0 && len(damage) == 0 {
			t.Errorf("%s is %q, and nothing is found after a restart", path, changed)
		}
	})
}

// sameRecord reports whether a record says the same, maybe in another form. The number of its schema is not part of an entry.
func sameRecord(a, b []byte) bool {
	var x, y struct {
		Entry
		Kept Link `json:"kept"`
	}
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
