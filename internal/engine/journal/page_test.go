// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"slices"
	"strings"
	"testing"
)

// numbers are the entries of a page.
func (p Page) numbers() (all []uint64) {
	for _, entry := range p.Entries {
		all = append(all, entry.Seq)
	}
	return all
}

// Pages follow on each other in either direction, with what was asked for.
func TestPages(t *testing.T) {
	b := newBook(t)
	for n := range 10 {
		entry := Entry{What: "a", By: []string{"ann", "bob"}[n%2], Entity: "e-1", Rotation: []string{"", "r1"}[n/5]}
		if n%3 == 0 {
			entry.Keys = []Key{{Key: "other"}, {Key: "db"}}
		}
		b.ok(b.Add(t.Context(), entry))
	}
	b.store.data[at(4)] = []byte("{") // verify finds it; a page leaves it out
	for _, c := range []struct {
		query Query
		want  []uint64
		next  string
	}{
		{Query{Limit: 3}, []uint64{1, 2, 3}, ID(3)},
		{Query{Limit: 3, After: ID(3)}, []uint64{5, 6, 7}, ID(7)},
		{Query{Limit: 3, After: "7"}, []uint64{8, 9, 10}, ""},
		{Query{Limit: 3, After: "10"}, nil, ""},
		{Query{Limit: 4, Newest: true}, []uint64{10, 9, 8, 7}, ID(7)},
		{Query{Limit: 9, Newest: true, After: "7"}, []uint64{6, 5, 3, 2, 1}, ""},
		{Query{Limit: 9, Key: "db"}, []uint64{1, 7, 10}, ""},
		{Query{Limit: 9, Rotation: "r1"}, []uint64{6, 7, 8, 9, 10}, ""},
		{Query{Limit: 9, Actor: "bob"}, []uint64{2, 6, 8, 10}, ""},
		{Query{Limit: 9, Actor: "e-1", Key: "other"}, []uint64{1, 7, 10}, ""},
		{Query{Limit: 9, Actor: "eve"}, nil, ""},
	} {
		page, err := b.Page(t.Context(), c.query)
		b.ok(err)
		if got := page.numbers(); !slices.Equal(got, c.want) || page.Next != c.next {
			t.Errorf("%+v: %v, next %q; want %v, next %q", c.query, got, page.Next, c.want, c.next)
		}
	}
	for _, limit := range []int{-1, 0, maxEntries + 1} {
		if _, err := b.Page(t.Context(), Query{Limit: limit}); err == nil || !strings.Contains(err.Error(), "is not between 1 and 1000; read further pages with after=") {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

// A page reads a bounded number of entries, and the next one continues there.
func TestPageIsBounded(t *testing.T) {
	b := newBook(t)
	for range maxScanned + 2 {
		b.ok(b.Append(t.Context(), Entry{What: "a"}))
	}
	b.ok(b.Append(t.Context(), Entry{What: "b", By: "ann"}))
	page, err := b.Page(t.Context(), Query{Limit: 10, Actor: "ann"})
	b.ok(err)
	if len(page.Entries) > 0 || page.Next != ID(maxScanned) {
		t.Errorf("%v, next %q", page.numbers(), page.Next)
	}
	page, err = b.Page(t.Context(), Query{Limit: 10, Actor: "ann", After: page.Next})
	b.ok(err)
	if got := page.numbers(); !slices.Equal(got, []uint64{maxScanned + 3}) || page.Next != "" {
		t.Errorf("%v, next %q", got, page.Next)
	}
}

// An entry is named by its number, or by its id.
func TestFullID(t *testing.T) {
	for id, want := range map[string]string{"7": ID(7), ID(7): ID(7), "": "", "20261123t030002.000-a6ba0c": "20261123t030002.000-a6ba0c", "x": "x"} {
		if got := FullID(id); got != want {
			t.Errorf("%q is %q, want %q", id, got, want)
		}
	}
}
