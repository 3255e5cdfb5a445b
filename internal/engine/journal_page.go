// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"slices"
	"sort"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Bounds of one page of the journal.
const (
	MostEntries = 1000 // in a page
	mostScanned = 5000 // entries read for a page
)

// JournalQuery asks for entries of the journal.
type JournalQuery struct {
	After    string // id or number of the entry before the first; empty: from the beginning
	Limit    int    // entries in a page, at most MostEntries
	Newest   bool   // newest first: After is then the entry behind the first
	Key      string // name; empty: any
	Rotation string // id; empty: any
	Actor    string // display name or entity id; empty: anyone
}

// JournalPage is a part of the journal.
type JournalPage struct {
	Entries []PagedEntry
	Next    string // After of the next page; empty: there are no more
}

// PagedEntry is an entry with the id that it is stored under.
type PagedEntry struct {
	Stored string
	Entry
}

// matches reports whether an entry is asked for.
func (q JournalQuery) matches(n Entry) bool {
	key := q.Key == "" || slices.ContainsFunc(n.Keys, func(k EntryKey) bool { return k.Key == q.Key })
	return key && (q.Rotation == "" || n.Rotation == q.Rotation) && (q.Actor == "" || n.By == q.Actor || n.Entity == q.Actor)
}

// JournalPage returns entries in their order. A page may have fewer than asked for, and even none, while there are more: a
// page reads a limited number of entries. An entry that cannot be read is left out; verify tells of it.
func (e *Engine) JournalPage(ctx context.Context, q JournalQuery) (JournalPage, error) {
	if q.Limit < 1 || q.Limit > MostEntries {
		return JournalPage{}, rotation.Refusef("limit %d is not between 1 and %d; read further pages with after=", q.Limit, MostEntries)
	}
	ids, err := e.JournalIDs(ctx)
	if err != nil {
		return JournalPage{}, err
	}
	ids = q.rest(ids)
	var page JournalPage
	for n, id := range ids {
		if n == mostScanned || len(page.Entries) == q.Limit {
			page.Next = ids[n-1]
			return page, nil
		}
		entry, ok, err := e.JournalEntry(ctx, id)
		if err != nil && !errors.Is(err, errDamaged) {
			return JournalPage{}, err
		}
		if ok && q.matches(entry) {
			page.Entries = append(page.Entries, PagedEntry{id, entry})
		}
	}
	return page, nil
}

// JournalID returns the id of the entry of that number; another text as it is.
func JournalID(id string) string {
	if id != "" && len(id) < entryDigits && strings.Trim(id, "0123456789") == "" {
		return strings.Repeat("0", entryDigits-len(id)) + id
	}
	return id
}

// rest returns the ids that follow on After, in the order asked for.
func (q JournalQuery) rest(ids []string) []string {
	after := JournalID(q.After)
	if !q.Newest {
		return ids[sort.Search(len(ids), func(n int) bool { return ids[n] > after }):]
	}
	if after != "" {
		ids = ids[:sort.SearchStrings(ids, after)]
	}
	ids = slices.Clone(ids)
	slices.Reverse(ids)
	return ids
}
