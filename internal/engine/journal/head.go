// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
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
			j.orphaned = append(j.orphaned, id)
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

// anchor is the last entry that retention has taken away; the chain continues from it.
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

// Verified is what Verify found.
type Verified struct {
	Head                 // at the start of the walk
	Entries     int      // in the chain
	First, Last uint64   // sequence numbers of the chain
	Kept        int      // entries before First that retention has left
	Older       int      // entries of schema 1, which have no chain
	Faults      []string // in plain words; none: the chain is whole
}

// maxFaults is how many Verify lists.
const maxFaults = 20

// walk verifies the journal entry by entry, oldest first.
type walk struct {
	j *Journal
	Verified
	head   tip  // the walk ends there
	before Link // the entry before, in the chain
	kept   Link // the newest entry, up to here, that retention leaves
}

// Verify walks the chain from the oldest entry that retention has left to the newest. Entries may be added and taken
// away meanwhile: it takes no lock. One walk is made at a time.
func (j *Journal) Verify(ctx context.Context) (Verified, error) {
	if !j.verifying.TryLock() {
		return Verified{}, rotation.Refusef("the journal is being verified for somebody else at this moment; try again when that has ended")
	}
	defer j.verifying.Unlock()
	w := &walk{j: j}
	err := w.begin(ctx)
	if err != nil {
		return Verified{}, err
	}
	ids, err := j.IDs(ctx)
	if err != nil {
		return Verified{}, err
	}
	newest := j.Head().Count // of all that may be listed
	for _, id := range ids {
		seq, ok := entrySeq(id)
		switch {
		case !ok:
			w.Older++
		case seq > newest:
			w.fault("entry %d is beyond entry %d, the newest that was written", seq, newest)
		case seq <= w.head.Seq:
			if err := w.visit(ctx, id, seq); err != nil {
				return Verified{}, err
			}
		}
	}
	w.end()
	return w.Verified, nil
}

// begin notes where the walk ends, and from where the chain continues.
func (w *walk) begin(ctx context.Context) error {
	defer w.j.lock()()
	w.head, w.Head = w.j.head, Head{w.j.head.Seq, w.j.head.Hash}
	stored, ok, err := w.j.storedHead(ctx)
	if err != nil {
		return err
	}
	if w.j.begun && (!ok || stored != w.head) {
		w.fault("the stored head is not entry %d, which was written last", w.head.Seq)
	}
	w.before, err = w.j.anchor(ctx)
	return err
}

func (w *walk) fault(format string, args ...any) {
	if len(w.Faults) < maxFaults {
		w.Faults = append(w.Faults, fmt.Sprintf(format, args...))
	}
}

// visit compares an entry with the one before.
func (w *walk) visit(ctx context.Context, id string, seq uint64) error {
	entry, ok, err := w.j.Entry(ctx, id)
	damaged := errors.Is(err, errDamaged)
	if err != nil && !damaged {
		return err
	}
	if !ok && !damaged { // retention may have taken it since it was listed
		anchor, err := w.j.anchor(ctx)
		if err != nil {
			return err
		}
		if anchor.Seq >= seq {
			w.before, w.Entries, w.First = anchor, 0, 0
			return nil
		}
	}
	inChain := seq > w.before.Seq
	if damaged || !ok {
		w.fault("entry %d cannot be read", seq)
		if inChain {
			w.count(Link{Seq: seq})
		}
		return nil
	}
	if !inChain && entry.Keep == nil {
		return nil // retention was about to take it away
	}
	if err := w.compare(seq, entry, inChain); err != nil {
		return err
	}
	if entry.Keep != nil {
		if *entry.Keep != w.kept {
			w.fault("entry %d does not follow on the entry that was kept before it: one of them was changed or taken out", seq)
		}
		w.kept = Link{seq, entry.Hash}
	}
	if inChain {
		w.count(Link{seq, entry.Hash})
	} else {
		w.Kept++
	}
	return nil
}

// compare looks whether an entry is what was written, and follows on the one before.
func (w *walk) compare(seq uint64, entry Entry, inChain bool) error {
	hash, err := w.j.seal(entry)
	switch {
	case err != nil:
		return err
	case !inChain:
	case seq != w.before.Seq+1:
		w.fault("entries %d to %d are missing", w.before.Seq+1, seq-1)
	case entry.Prev != w.before.Hash:
		w.fault("entry %d does not follow on entry %d as it stands: one of them was changed", seq, w.before.Seq)
	}
	if entry.Seq != seq || hash != entry.Hash {
		w.fault("entry %d was changed: its hash is another", seq)
	}
	return nil
}

func (w *walk) count(at Link) {
	if w.First == 0 {
		w.First = at.Seq
	}
	w.before, w.Last = at, at.Seq
	w.Entries++
}

// end compares the newest entries with the head.
func (w *walk) end() {
	switch {
	case w.before.Seq < w.head.Seq:
		w.fault("the newest entries, %d to %d, are missing", w.before.Seq+1, w.head.Seq)
	case w.before.Seq == w.head.Seq && w.before.Hash != w.head.Hash:
		w.fault("entry %d is not the one that was written last: its hash is another", w.head.Seq)
	}
	if w.kept != w.head.Kept {
		w.fault("entry %d, which retention leaves, is missing or was changed", w.head.Kept.Seq)
	}
}
