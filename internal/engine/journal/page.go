// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Bounds of one page of the journal.
const (
	maxEntries = 1000 // in a page
	maxScanned = 5000 // entries read for a page
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
	if q.Limit < 1 || q.Limit > maxEntries {
		return Page{}, rotation.Refusef("limit %d is not between 1 and %d; read further pages with after=", q.Limit, maxEntries)
	}
	if q.After != "" && (q.After[0] < '0' || q.After[0] > '9') { // an id begins with a digit; behind another text is nothing, as behind the newest
		return Page{}, rotation.Refusef("after %.100q is no id or number of an entry; give that of the last one read, such as 57, or leave it out to begin with the oldest", q.After)
	}
	ids, err := j.IDs(ctx)
	if err != nil {
		return Page{}, err
	}
	ids = q.rest(ids)
	var page Page
	for n, id := range ids {
		if n == maxScanned || len(page.Entries) == q.Limit {
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

// Retain takes away the oldest entries that have expired: expired is asked with how many entries are newer, and the age. The
// newest entries, as many as floor, stay.
func (j *Journal) Retain(ctx context.Context, now time.Time, floor uint64, expired func(newer uint64, age time.Duration) bool) error {
	if err := j.removeOrphans(ctx); err != nil {
		return err
	}
	return j.retainChain(ctx, now, floor, expired)
}

// retainChain moves the anchor first: killed after it, what is left below is no part of the chain, and goes after the next
// start.
func (j *Journal) retainChain(ctx context.Context, now time.Time, floor uint64, expired func(newer uint64, age time.Duration) bool) error {
	if j.first == 0 {
		return nil
	}
	var last Entry
	kept := map[uint64]bool{}
	for seq := j.first; seq < j.head.Seq; seq++ {
		newer := j.head.Seq - seq
		if newer < floor {
			break
		}
		entry, ok, err := j.Entry(ctx, ID(seq))
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		if ok && !expired(newer, now.Sub(entry.At)) {
			break
		}
		if err != nil { // it may be one that stays
			kept[seq] = true
		}
		if ok {
			last, kept[seq] = entry, entry.Keep != nil
		}
	}
	if last.Seq == 0 {
		return nil
	}
	data, err := json.Marshal(Link{last.Seq, last.Hash})
	if err != nil {
		return err
	}
	if err := j.store.Put(ctx, pathAnchor, data); err != nil {
		return err
	}
	first := j.first
	j.first = last.Seq + 1
	for ; first <= last.Seq; first++ {
		if kept[first] {
			continue
		}
		if err := j.store.Delete(ctx, pathEntries+ID(first)); err != nil {
			return err
		}
	}
	return nil
}

// removeOrphans removes entries below the chain that a crash has left. One that retention leaves stays, and so does one that
// cannot be read: it may be such a one.
func (j *Journal) removeOrphans(ctx context.Context) error {
	for _, id := range j.orphaned {
		entry, ok, err := j.Entry(ctx, id)
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		if !ok || entry.Keep != nil {
			continue
		}
		if err := j.store.Delete(ctx, pathEntries+id); err != nil {
			return err
		}
	}
	j.orphaned = nil
	return nil
}
