// SPDX-License-Identifier: Apache-2.0

package journal

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
	mostEntries = 1000 // in a page
	mostScanned = 5000 // entries read for a page
)

// Query asks for entries of the journal.
type Query struct {
	After    string // id or number of the entry before the first; empty: from the beginning
	Limit    int    // entries in a page, 1 to 1000
	Newest   bool   // newest first: After is then the entry behind the first
	Key      string // name; empty: any
	Rotation string // id; empty: any
	Actor    string // display name or entity id; empty: anyone
}

// Page is a part of the journal.
type Page struct {
	Entries []PagedEntry
	Next    string // After of the next page; empty: there are no more
}

// PagedEntry is an entry with the id that it is stored under.
type PagedEntry struct {
	Stored string
	Entry
}

// matches reports whether an entry is asked for.
func (q Query) matches(n Entry) bool {
	key := q.Key == "" || slices.ContainsFunc(n.Keys, func(k Key) bool { return k.Key == q.Key })
	return key && (q.Rotation == "" || n.Rotation == q.Rotation) && (q.Actor == "" || n.By == q.Actor || n.Entity == q.Actor)
}

// Page returns entries in their order. A page may have fewer than asked for, and even none, while there are more: a
// page reads a limited number of entries. An entry that cannot be read is left out; verify tells of it.
func (j *Journal) Page(ctx context.Context, q Query) (Page, error) {
	if q.Limit < 1 || q.Limit > mostEntries {
		return Page{}, rotation.Refusef("limit %d is not between 1 and %d; read further pages with after=", q.Limit, mostEntries)
	}
	ids, err := j.IDs(ctx)
	if err != nil {
		return Page{}, err
	}
	ids = q.rest(ids)
	var page Page
	for n, id := range ids {
		if n == mostScanned || len(page.Entries) == q.Limit {
			page.Next = ids[n-1]
			return page, nil
		}
		entry, ok, err := j.Entry(ctx, id)
		if err != nil && !errors.Is(err, errDamaged) {
			return Page{}, err
		}
		if ok && q.matches(entry) {
			page.Entries = append(page.Entries, PagedEntry{id, entry})
		}
	}
	return page, nil
}

// FullID returns the id of the entry of that number; another text as it is.
func FullID(id string) string {
	if id != "" && len(id) < digits && strings.Trim(id, "0123456789") == "" {
		return strings.Repeat("0", digits-len(id)) + id
	}
	return id
}

// rest returns the ids that follow on After, in the order asked for.
func (q Query) rest(ids []string) []string {
	after := FullID(q.After)
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
