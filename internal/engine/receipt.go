// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
)

// Document is all that is known of a rotation, for those who look at it later.
type Document struct {
	View
	Fingerprints map[string]Fingerprints // by key
	Entries      []journal.PagedEntry    // of the rotation, oldest first
	Missing      int                     // events of it that the journal does not have any more
	Head         journal.Head
	Digest       string            // of Stored; the journal's entry on the rotation's end has it, too
	Stored       []byte            // what the rotation has recorded, in JSON
	Trips        map[string][]Trip // what was seen since of the versions that it has ended, by key
}

// Fingerprints are those of the two versions of a change; empty: not known any more.
type Fingerprints struct{ From, To string }

// maxReceiptPages is how many pages of the journal are looked through for a document.
const maxReceiptPages = 40

// Document returns what is known of a rotation. Of one that runs it is unfinished.
func (s *state) Document(ctx context.Context, id string) (Document, error) {
	view, err := s.View(ctx, id)
	if err != nil {
		return Document{}, err
	}
	d := Document{View: view, Fingerprints: map[string]Fingerprints{}, Trips: map[string][]Trip{}, Head: s.journal.Head()}
	sum, stored := view.Receipt.Digest()
	d.Digest, d.Stored = sum, stored
	d.Entries, d.Missing, err = s.journalOf(ctx, view)
	if err != nil {
		return Document{}, err
	}
	for _, c := range view.Changes {
		k, _ := s.Key(c.Key)
		from, _ := k.Version(c.From)
		to, _ := k.Version(c.To)
		d.Fingerprints[c.Key] = Fingerprints{from.Fingerprint, to.Fingerprint}
		for _, t := range s.Trips(c.Key) {
			if view.Finished() && (t.Version == view.Leaving(c) || slices.Contains(c.Also, t.Version)) {
				d.Trips[c.Key] = append(d.Trips[c.Key], t)
			}
		}
	}
	return d, nil
}

// journalOf returns the entries on a rotation, and how many of its events the journal does not have any more.
func (s *state) journalOf(ctx context.Context, v View) (all []journal.PagedEntry, missing int, err error) {
	query := journal.Query{Limit: 1000, Rotation: v.ID}
	if v.JournalFrom > 0 {
		query.After = journal.ID(v.JournalFrom)
	}
	missing = v.EventCount()
	for range maxReceiptPages {
		page, err := s.journal.Page(ctx, query)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, page.Entries...)
		for _, n := range page.Entries {
			if n.Event > 0 {
				missing--
			}
		}
		if query.After = page.Next; page.Next == "" || missing <= 0 {
			break
		}
	}
	return all, max(missing, 0), nil
}

// CutWarning says what a rotation has cut, who is locked out of it now, and what to do; empty: it has cut nothing.
func (v View) CutWarning() string {
	if !v.WasCut() {
		return ""
	}
	text, all := v.CutText(), fmt.Sprintf(". All of it: vault read hyvve/rotations/%s/receipt", v.ID)
	if v.live == nil { // a glance
		return text + all
	}
	switch more := len(v.LockedOut) - 1; {
	case more >= 0:
		first := v.LockedOut[0]
		text += fmt.Sprintf(". Locked out now: %s/%s, which %s", first.Workload, first.Instance, first.Text)
		if more > 0 {
			text += fmt.Sprintf(", and %d more", more)
		}
		text += ". What to do: " + first.Remedy()
	case v.Finished():
		text += ". No instance with a lease is locked out now"
	}
	if gone := v.leftWithoutLease(); len(gone) > 0 {
		text += fmt.Sprintf(". Without a lease now, and locked out if its process still runs: %s", strings.Join(gone, ", "))
	}
	return text + all
}

// leftWithoutLease returns the first of those that were cut and have no lease any more.
func (v View) leftWithoutLease() (names []string) {
	for _, h := range v.LeftBehind() {
		for _, n := range h.Names.List {
			if name := h.Workload + "/" + n.ID; !v.live[name] && len(names) < 3 {
				names = append(names, name)
			}
		}
	}
	return names
}
