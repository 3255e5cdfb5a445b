// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Head is the end of the journal: how many entries were ever written, and the hash of the newest. A reader who notes
// both elsewhere can tell later whether the journal still has that entry.
type Head struct {
	Count uint64
	Hash  string
}

// tip is the stored end of the journal.
type tip struct {
	Link
	Kept Link `json:"kept,omitzero"` // the newest entry that retention leaves
}

// follow moves the head on to an entry.
func (h *tip) follow(n Entry) {
	h.Link = Link{n.Seq, n.Hash}
	if n.Keep != nil {
		h.Kept = h.Link
	}
}

// SaveHead stores the head.
func (j *Journal) SaveHead(ctx context.Context) error {
	data, err := json.Marshal(j.head)
	if err != nil {
		return err
	}
	return j.store.Put(ctx, pathHead, data)
}

// storedHead reads the head; false where there is none, or none that can be read.
func (j *Journal) storedHead(ctx context.Context) (tip, bool, error) {
	data, err := j.store.Get(ctx, pathHead)
	if err != nil || data == nil {
		return tip{}, false, err
	}
	var h tip
	if json.Unmarshal(data, &h) != nil || h.Seq == 0 && h.Hash != "" {
		return tip{}, false, nil //nolint:nilerr // a head that cannot be read is as good as none, and told as that
	}
	return h, true, nil
}

// Head returns the end of the journal.
func (j *Journal) Head() Head {
	defer j.lock()()
	return j.End()
}

// End is Head for a caller who has the writer's lock.
func (j *Journal) End() Head { return Head{j.head.Seq, j.head.Hash} }

// Load finds both ends of the chain. What does not fit is journaled when the engine begins: from then on, the chain
// itself has the gap.
func (j *Journal) Load(ctx context.Context) error {
	anchor, err := j.anchor(ctx)
	if err != nil {
		return err
	}
	ids, err := j.IDs(ctx)
	if err != nil {
		return err
	}
	var seqs []uint64 // of the chain, ascending
	for _, id := range ids {
		seq, ok := entrySeq(id)
		switch {
		case !ok:
		case seq <= anchor.Seq:
			j.litter = append(j.litter, id)
		default:
			seqs = append(seqs, seq)
		}
	}
	j.first = 0
	if len(seqs) > 0 {
		j.first = seqs[0]
	}
	stored, ok, err := j.storedHead(ctx)
	if err != nil {
		return err
	}
	if !ok {
		return j.findHead(ctx, anchor, ids, seqs)
	}
	j.head = stored
	if stored.Seq < anchor.Seq {
		j.damage = append(j.damage, fmt.Sprintf("the stored head is entry %d, and retention has been at entry %d", stored.Seq, anchor.Seq))
		j.head.Link = anchor
	}
	if err := j.checkHead(ctx, anchor); err != nil {
		return err
	}
	return j.adopt(ctx, seqs)
}

// checkHead looks whether the entry that was written last is still there.
func (j *Journal) checkHead(ctx context.Context, anchor Link) error {
	if j.head.Seq == anchor.Seq {
		return nil
	}
	last, ok, err := j.Entry(ctx, ID(j.head.Seq))
	switch {
	case err != nil && !errors.Is(err, errDamaged):
		return err
	case err != nil:
		j.damage = append(j.damage, fmt.Sprintf("entry %d, the newest, cannot be read", j.head.Seq))
	case !ok:
		j.damage = append(j.damage, fmt.Sprintf("entry %d, the newest, is missing, and maybe others before it", j.head.Seq))
	case last.Hash != j.head.Hash:
		j.damage = append(j.damage, fmt.Sprintf("entry %d is not the one that was written last", j.head.Seq))
	}
	return nil
}

// adopt moves the head on to entries that follow it without a gap: a crash came between an entry and the head. An entry that
// does not fit is not overwritten: verify tells of it.
func (j *Journal) adopt(ctx context.Context, seqs []uint64) error {
	at, _ := slices.BinarySearch(seqs, j.head.Seq+1)
	for _, seq := range seqs[at:] {
		if seq != j.head.Seq+1 {
			break
		}
		entry, _, err := j.Entry(ctx, ID(seq))
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		entry.Seq = seq
		j.head.follow(entry)
		j.unsaved = true
	}
	return nil
}

// findHead takes the newest entry for the head. That is so on a mount of an older release, and where the head was taken out.
func (j *Journal) findHead(ctx context.Context, anchor Link, ids []string, seqs []uint64) error {
	j.head, j.unsaved = tip{Link: anchor}, true
	if len(seqs) > 0 {
		j.head.Seq = seqs[len(seqs)-1]
	}
	last, ok, err := j.record(ctx, ID(j.head.Seq))
	if err != nil && !errors.Is(err, errDamaged) {
		return err
	}
	if ok && j.head.Seq > anchor.Seq {
		j.head.Hash = last.Hash
	}
	if last.Schema < schemaWithHead {
		return nil
	}
	j.damage = append(j.damage, fmt.Sprintf("the stored head is gone, so that entries after %d may have been taken out unseen", j.head.Seq))
	for _, id := range ids { // all of them: it happens never, or once
		entry, ok, err := j.Entry(ctx, id)
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		if ok && entry.Keep != nil {
			j.head.Kept = Link{entry.Seq, entry.Hash}
		}
	}
	return nil
}

// Begin makes this journal the one that is written. It stores the head where that is another than the one that was read,
// and returns what was found wrong.
func (j *Journal) Begin(ctx context.Context) (damage []string, err error) {
	j.begun = true
	if j.unsaved {
		if err := j.SaveHead(ctx); err != nil {
			return nil, err
		}
		j.unsaved = false
	}
	damage, j.damage = j.damage, nil
	return damage, nil
}

// anchor is the last entry that retention has taken away; the chain goes on from it.
func (j *Journal) anchor(ctx context.Context) (Link, error) {
	data, err := j.store.Get(ctx, pathAnchor)
	if err != nil || data == nil {
		return Link{}, err
	}
	var anchor Link
	if err := json.Unmarshal(data, &anchor); err != nil {
		return Link{}, fmt.Errorf("stored journal anchor: %w", err)
	}
	return anchor, nil
}
