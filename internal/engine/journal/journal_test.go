// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// Whatever is done to an entry of the journal is found.
func TestJournalShowsTampering(t *testing.T) {
	b := newBook(t)
	b.add(9)
	if v := b.verify(); len(v.Faults) > 0 || v.Entries != 9 || v.First != 1 || v.Last != 9 || v.Head != b.Head() {
		t.Fatalf("untouched: %+v", v)
	}
	was, data := maps.Clone(b.store.data), b.store.data
	for want, change := range map[string]func(){
		"entry 5 was changed":          func() { data[at(5)] = bytes.Replace(was[at(5)], []byte(`"by":"test"`), []byte(`"by":"eve"`), 1) },
		"entries 5 to 5 are missing":   func() { delete(data, at(5)) },
		"entry 5 cannot be read":       func() { data[at(5)] = []byte("{") },
		"the newest entries, 9 to 9":   func() { delete(data, at(9)) },
		"does not follow on entry 5":   func() { data[at(5)] = b.resealed(was[at(5)]) },
		"entry 6 was changed: its has": func() { data[at(6)] = was[at(5)] },
		"entry 9 is not the one":       func() { data[at(9)] = b.resealed(was[at(9)]) },
		"is beyond entry 9":            func() { data[at(11)] = was[at(9)] },
		"the stored head is not":       func() { delete(data, pathHead) },
	} {
		change()
		if faults := b.faults(); !strings.Contains(faults, want) {
			t.Errorf("%q does not say %q", faults, want)
		}
		clear(data)
		maps.Copy(data, was)
	}
	if faults := b.faults(); faults != "" {
		t.Errorf("untouched again: %q", faults)
	}
}

// What is taken from the end of the journal is missed when it is read again.
func TestCutTail(t *testing.T) {
	for want, change := range map[string]func(b *book){
		"entry 9, the newest, is missing":     func(b *book) { delete(b.store.data, at(9)); delete(b.store.data, at(8)) },
		"entry 9, the newest, cannot be read": func(b *book) { b.store.data[at(9)] = []byte("{") },
		"entry 9 is not the one":              func(b *book) { b.store.data[at(9)] = b.resealed(b.store.data[at(9)]) },
		"the stored head is gone":             func(b *book) { b.store.data[pathHead] = []byte("{") },
		"the stored head is gone, so that":    func(b *book) { delete(b.store.data, at(9)); delete(b.store.data, pathHead) },
		"retention has been at entry 20":      func(b *book) { b.store.data[pathAnchor] = []byte(`{"seq":20,"hash":"x"}`) },
	} {
		b := newBook(t)
		b.add(9)
		change(b)
		b.open()
		if text := strings.Join(b.damage, "; "); !strings.Contains(text, want) {
			t.Errorf("%q does not say %q", text, want)
		}
		if again, err := b.Begin(t.Context()); err != nil || len(again) > 0 {
			t.Errorf("%s: said again: %q, %v", want, again, err)
		}
	}
}

// A head that is put back to an older one does no harm: the entries that follow it are found again.
func TestOlderHead(t *testing.T) {
	b := newBook(t)
	b.add(3)
	was := b.store.data[pathHead]
	b.add(2)
	b.keep()
	b.add(1)
	want := b.head
	b.store.data[pathHead] = was
	if faults := b.faults(); !strings.Contains(faults, "the stored head is not entry 7") {
		t.Errorf("while it runs: %q", faults)
	}
	b.open()
	if faults := b.faults(); b.head != want || faults != "" || len(b.damage) > 0 {
		t.Errorf("%+v, want %+v: %q, %q", b.head, want, faults, b.damage)
	}
}

// An entry beyond the newest is no entry of ours, and the next ones do not follow on it.
func TestEntryBeyondTheHead(t *testing.T) {
	b := newBook(t)
	b.add(3)
	path := pathEntries + strings.Repeat("9", digits)
	b.store.data[path] = b.store.data[at(1)]
	if faults := b.faults(); !strings.Contains(faults, "is beyond entry 3") {
		t.Errorf("%q", faults)
	}
	b.open()
	b.add(1)
	if n := b.Head().Count; n != 4 {
		t.Errorf("the newest is entry %d", n)
	}
	delete(b.store.data, path)
	if faults := b.faults(); faults != "" {
		t.Errorf("%q", faults)
	}
}

// A mount of a release that stored no head gets one. Entries of schema 1 have no chain.
func TestMountWithoutAHead(t *testing.T) {
	b := newBook(t)
	b.add(4)
	delete(b.store.data, pathHead)
	for path, data := range b.store.data {
		b.store.data[path] = bytes.Replace(data, []byte(`"schema":4`), []byte(`"schema":3`), 1)
	}
	b.store.data[pathEntries+"20261123t030002.000-a6ba0c-0001"] = []byte(`{"schema":1,"what":"old"}`)
	b.open()
	v := b.verify()
	if len(v.Faults) > 0 || len(b.damage) > 0 || b.store.data[pathHead] == nil || v.Older != 1 || v.Entries != 4 {
		t.Errorf("%+v, %q, head %s", v, b.damage, b.store.data[pathHead])
	}
}

// An entry of a later release is refused, and not misread.
func TestEntryOfALaterRelease(t *testing.T) {
	b := newBook(t)
	b.add(1)
	b.store.data[at(1)] = []byte(`{"schema":5}`)
	_, _, err := b.Entry(t.Context(), ID(1))
	if err == nil || !strings.Contains(err.Error(), "has schema 5, this release reads 1 to 4; use the release that wrote it") {
		t.Errorf("%v", err)
	}
	if _, ok, err := b.Entry(t.Context(), ID(2)); ok || err != nil {
		t.Errorf("one that is not there: %v, %v", ok, err)
	}
}

// Retention leaves a chain that is whole, and the entries that stay; killed at any of its writes, too.
func TestRetainAtEveryWrite(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			b := newBook(t)
			b.add(3)
			b.keep()
			b.add(8)
			b.store.failAt, b.store.after = b.store.writes+n, after
			crashed := b.retain(5) != nil
			b.open()
			if faults := b.faults(); faults != "" || len(b.damage) > 0 {
				t.Errorf("write %d (after %v): %q, %q", n, after, faults, b.damage)
			}
			b.add(2)
			b.ok(b.retain(5))
			ids, err := b.IDs(t.Context())
			b.ok(err)
			want := []string{ID(4), ID(10), ID(11), ID(12), ID(13), ID(14)}
			if v := b.verify(); !slices.Equal(ids, want) || v.Kept != 1 || v.First != 10 || v.Entries != 5 || len(v.Faults) > 0 {
				t.Errorf("write %d (after %v): %v are left: %+v", n, after, ids, v)
			}
			if !crashed {
				break
			}
		}
	}
}

// What retention leaves is missed when it is taken out, or changed.
func TestKeptEntryIsMissed(t *testing.T) {
	b := newBook(t)
	b.add(2)
	b.keep()
	b.keep()
	b.add(5)
	b.ok(b.retain(3))
	was := maps.Clone(b.store.data)
	for _, seq := range []uint64{3, 4} {
		for what, data := range map[string][]byte{"missing": nil, "changed": b.resealed(was[at(seq)])} {
			if b.store.data[at(seq)] = data; data == nil {
				delete(b.store.data, at(seq))
			}
			if faults := b.faults(); !strings.Contains(faults, "kept before it") && !strings.Contains(faults, "which retention leaves") {
				t.Errorf("entry %d is %s: %q", seq, what, faults)
			}
			b.store.data[at(seq)] = was[at(seq)]
		}
	}
	if faults := b.faults(); faults != "" {
		t.Errorf("%q", faults)
	}
}

// As many entries as the floor stay, however old they are.
func TestRetainKeepsTheFloor(t *testing.T) {
	b := newBook(t)
	b.add(20)
	var youngest time.Duration
	b.ok(b.Retain(t.Context(), b.now, 6, func(_ uint64, age time.Duration) bool { youngest = age; return true }))
	if v := b.verify(); v.Entries != 6 || v.First != 15 || len(v.Faults) > 0 || youngest != 6*time.Minute {
		t.Errorf("%+v; the youngest that was asked for is %s old", v, youngest)
	}
}

// Killed before or after any write, entries and head agree after the next start.
func TestAddAtEveryWrite(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; n <= 6; n++ {
			b := newBook(t)
			b.add(2)
			b.store.failAt, b.store.after = b.store.writes+n, after
			for range 3 {
				if b.Add(t.Context(), Entry{What: "b", By: "test"}) != nil {
					break
				}
			}
			b.open()
			stored, ok, err := b.storedHead(t.Context())
			b.ok(err)
			if faults := b.faults(); faults != "" || len(b.damage) > 0 || !ok || stored != b.head {
				t.Errorf("write %d (after %v): %q, %q, stored %+v, head %+v", n, after, faults, b.damage, stored, b.head)
			}
			b.add(1)
			if faults := b.faults(); faults != "" {
				t.Errorf("write %d (after %v), and one more: %q", n, after, faults)
			}
		}
	}
}
