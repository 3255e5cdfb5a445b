// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// JournalHead is the end of the journal: how many entries were ever written, and the hash of the newest. A reader who notes
// both elsewhere can tell later whether the journal still has that entry.
type JournalHead struct {
	Count uint64
	Hash  string
}

// head is the stored end of the journal.
type head struct {
	link
	Kept link `json:"kept,omitzero"` // the newest entry that retention leaves
}

// follow moves the head on to an entry.
func (h *head) follow(n Entry) {
	h.link = link{n.Seq, n.Hash}
	if n.Keep != nil {
		h.Kept = h.link
	}
}

func (e *Engine) writeHead(ctx context.Context) error {
	data, err := json.Marshal(e.head)
	if err != nil {
		return err
	}
	return e.write(ctx, pathHead, data)
}

// storedHead reads the head; false where there is none, or none that can be read.
func (e *Engine) storedHead(ctx context.Context) (head, bool, error) {
	data, err := e.Store.Get(ctx, pathHead)
	if err != nil || data == nil {
		return head{}, false, err
	}
	var h head
	if json.Unmarshal(data, &h) != nil || h.Seq == 0 && h.Hash != "" {
		return head{}, false, nil //nolint:nilerr // a head that cannot be read is as good as none, and told as that
	}
	return h, true, nil
}

// Head returns the end of the journal.
func (e *Engine) Head() JournalHead {
	defer e.takeTurn()()
	return JournalHead{e.head.Seq, e.head.Hash}
}

// tellEvery is how often the head of a journal that has grown is told, beside the end of each rotation.
const tellEvery = 10 * time.Minute

// tellHead tells the observer where the journal ends. The writer lock is held.
func (e *Engine) tellHead() {
	if e.told != e.head.Seq {
		e.told, e.tellAt = e.head.Seq, e.Uptime()+tellEvery
		e.Observer.Journal(JournalHead{e.head.Seq, e.head.Hash})
	}
}

// loadJournal finds both ends of the chain. What does not fit is journaled when the engine begins: from then on, the chain
// itself has the gap.
func (e *Engine) loadJournal(ctx context.Context) error {
	anchor, err := e.anchor(ctx)
	if err != nil {
		return err
	}
	ids, err := e.JournalIDs(ctx)
	if err != nil {
		return err
	}
	var seqs []uint64 // of the chain, ascending
	for _, id := range ids {
		seq, ok := entrySeq(id)
		switch {
		case !ok:
		case seq <= anchor.Seq:
			e.litter = append(e.litter, id)
		default:
			seqs = append(seqs, seq)
		}
	}
	e.first = 0
	if len(seqs) > 0 {
		e.first = seqs[0]
	}
	stored, ok, err := e.storedHead(ctx)
	if err != nil {
		return err
	}
	if !ok {
		return e.findHead(ctx, anchor, ids, seqs)
	}
	e.head = stored
	if stored.Seq < anchor.Seq {
		e.damage = append(e.damage, fmt.Sprintf("the stored head is entry %d, and retention has been at entry %d", stored.Seq, anchor.Seq))
		e.head.link = anchor
	}
	if err := e.checkHead(ctx, anchor); err != nil {
		return err
	}
	return e.adopt(ctx, seqs)
}

// checkHead looks whether the entry that was written last is still there.
func (e *Engine) checkHead(ctx context.Context, anchor link) error {
	if e.head.Seq == anchor.Seq {
		return nil
	}
	last, ok, err := e.JournalEntry(ctx, entryID(e.head.Seq))
	switch {
	case err != nil && !errors.Is(err, errDamaged):
		return err
	case err != nil:
		e.damage = append(e.damage, fmt.Sprintf("entry %d, the newest, cannot be read", e.head.Seq))
	case !ok:
		e.damage = append(e.damage, fmt.Sprintf("entry %d, the newest, is missing, and maybe others before it", e.head.Seq))
	case last.Hash != e.head.Hash:
		e.damage = append(e.damage, fmt.Sprintf("entry %d is not the one that was written last", e.head.Seq))
	}
	return nil
}

// adopt moves the head on to entries that follow it without a gap: a crash came between an entry and the head. An entry that
// does not fit is not overwritten: verify tells of it.
func (e *Engine) adopt(ctx context.Context, seqs []uint64) error {
	at, _ := slices.BinarySearch(seqs, e.head.Seq+1)
	for _, seq := range seqs[at:] {
		if seq != e.head.Seq+1 {
			break
		}
		entry, _, err := e.JournalEntry(ctx, entryID(seq))
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		entry.Seq = seq
		e.head.follow(entry)
		e.unsaved = true
	}
	return nil
}

// findHead takes the newest entry for the head. That is so on a mount of an older release, and where the head was taken out.
func (e *Engine) findHead(ctx context.Context, anchor link, ids []string, seqs []uint64) error {
	e.head, e.unsaved = head{link: anchor}, true
	if len(seqs) > 0 {
		e.head.Seq = seqs[len(seqs)-1]
	}
	last, ok, err := e.entryRecord(ctx, entryID(e.head.Seq))
	if err != nil && !errors.Is(err, errDamaged) {
		return err
	}
	if ok && e.head.Seq > anchor.Seq {
		e.head.Hash = last.Hash
	}
	if last.Schema < schemaWithHead {
		return nil
	}
	e.damage = append(e.damage, fmt.Sprintf("the stored head is gone, so that entries after %d may have been taken out unseen", e.head.Seq))
	for _, id := range ids { // all of them: it happens never, or once
		entry, ok, err := e.JournalEntry(ctx, id)
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		if ok && entry.Keep != nil {
			e.head.Kept = link{entry.Seq, entry.Hash}
		}
	}
	return nil
}

// journalDamage stores the head where that is another than the one that was read, and says what was found wrong. The writer
// lock is held.
func (e *Engine) journalDamage(ctx context.Context) error {
	if e.unsaved {
		if err := e.writeHead(ctx); err != nil {
			return err
		}
		e.unsaved = false
	}
	for _, text := range e.damage {
		e.Observer.Fault("the journal was changed behind the engine's back", errors.New(text))
		if err := e.journal(ctx, Entry{What: "the journal was found damaged: " + text, By: rotation.Itself.Name}); err != nil {
			return err
		}
	}
	e.damage = nil
	return nil
}

// anchor is the last entry that retention has taken away; the chain goes on from it.
func (e *Engine) anchor(ctx context.Context) (link, error) {
	data, err := e.Store.Get(ctx, pathAnchor)
	if err != nil || data == nil {
		return link{}, err
	}
	var anchor link
	if err := json.Unmarshal(data, &anchor); err != nil {
		return link{}, fmt.Errorf("stored journal anchor: %w", err)
	}
	return anchor, nil
}
