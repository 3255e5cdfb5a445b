// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// journalRecords are those of a mount with one rotation: the entries, and the head behind them.
func journalRecords(t *testing.T) func() map[string][]byte {
	return sync.OnceValue(func() map[string][]byte {
		h := newHarness(t)
		h.hyvve()
		h.until(h.rotate("service-token"), rotation.Done)
		return maps.Clone(h.store.data)
	})
}

// FuzzJournal has somebody who does not have the mount's secret change a record of the journal in any way, or replace it. It is
// found, at once and after a restart.
func FuzzJournal(f *testing.F) {
	f.Add(5, `"by":"test"`, `"by":"eve"`)
	f.Add(5, `"schema":4`, `"schema":1`)
	f.Add(7, "", "{}")
	f.Add(8, "", `{"schema":4,"seq":9,"keep":{"seq":1,"hash":"x"}}`)
	f.Add(1000, `"seq":`, `"seq":1`)
	f.Add(1000, "", "null")
	f.Add(1000, `"seq":`, `"":`)
	var once sync.Once
	var records func() map[string][]byte
	f.Fuzz(func(t *testing.T, n int, was, is string) {
		once.Do(func() { records = journalRecords(t) })
		written := maps.Clone(records())
		paths := slices.DeleteFunc(slices.Sorted(maps.Keys(written)), func(path string) bool { return !strings.HasPrefix(path, journal.PathJournal) })
		path := journal.PathHead
		if n >= 0 && n < len(paths) {
			path = paths[n]
		}
		old, changed := written[path], []byte(is)
		if was != "" {
			changed = []byte(strings.Replace(string(old), was, is, 1))
		}
		if sameRecord(old, changed) {
			return
		}
		if again := (journal.Tip{}); path == journal.PathHead && json.Unmarshal(changed, &again) == nil && again == (journal.Tip{}) {
			return // that of an empty journal was there once, and putting back is not found (docs/security.md)
		}
		h := newHarness(t)
		h.store.data = written
		h.open()
		h.store.data[path] = changed
		if v, err := h.engine.journal.Verify(t.Context()); err == nil && len(v.Faults) == 0 {
			t.Errorf("%s is %q, and nothing is found", path, changed)
		}
		e, err := Open(t.Context(), h.engine.Options)
		if err != nil {
			return // it says so itself
		}
		defer e.Close()
		damaged := len(e.journal.Damage()) > 0
		h.ok(e.Begin(t.Context()))
		if v, err := e.journal.Verify(t.Context()); err == nil && len(v.Faults) == 0 && !damaged {
			t.Errorf("%s is %q, and nothing is found after a restart", path, changed)
		}
	})
}

// sameRecord reports whether a record says the same, maybe in another form. The number of its schema is not part of an entry.
func sameRecord(a, b []byte) bool {
	var x, y struct {
		journal.Entry
		Kept journal.Link `json:"kept"`
	}
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// FuzzReport has an instance report anything. What is taken of it is bounded, and shows nothing that a terminal obeys.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"work":[{"id":"r/k/retiring-erase","done":true,"columns":[{"column":"t.c","total":3,"left":-1}],"unseen":["x\u001b[2J"],"finds":[{"column":"a\nb","opened":1}]}]}`))
	f.Add([]byte(`{"sightings":[{"env":"A","version":1,"count":2,"last":"2026-11-23T03:00:00Z","from":"10.0.0.1"},{"env":"A\n","version":-1}]}`))
	f.Add([]byte(`{"work":[{"finds":[{"column":"` + strings.Repeat("é", 200) + `"}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var report struct {
			Work      []workload.WorkReport `json:"work"`
			Sightings []workload.Sighting   `json:"sightings"`
		}
		if json.Unmarshal(data, &report) != nil {
			return
		}
		plain := func(text string, most int) {
			if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }) || len(text) > most {
				t.Errorf("%q is taken", text)
			}
		}
		if work, err := CheckWork(report.Work); err == nil {
			if len(work) > mostWork {
				t.Errorf("%d pieces of work are taken", len(work))
			}
			for _, w := range work {
				if len(w.Finds) > mostFinds || len(w.Unseen) > mostUnseen+1 || len(w.Columns) > mostColumns {
					t.Errorf("%d finds, %d unseen and %d columns are taken", len(w.Finds), len(w.Unseen), len(w.Columns))
				}
				for _, found := range w.Finds {
					plain(found.Column, maxWorkText+len("…"))
				}
				for _, text := range w.Unseen {
					plain(text, maxWorkText+len("…"))
				}
				plain(cutOff(w.Error), maxReason+len("…"))
			}
		}
		if CheckSightings(report.Sightings) == nil {
			for _, s := range report.Sightings {
				plain(s.Env+s.From, 2*maxSightingText)
			}
		}
	})
}
