// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Verified is what Verify found.
type Verified struct {
	Head                 // at the start of the walk
	Entries     int      // in the chain
	First, Last uint64   // sequence numbers of the chain
	Kept        int      // entries before First that retention has left
	Older       int      // entries of schema 1, which have no chain
	Faults      []string // in plain words; none: the chain is whole
}

// mostFaults is how many Verify lists.
const mostFaults = 20

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

// begin notes where the walk ends, and from where the chain goes on.
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
	if len(w.Faults) < mostFaults {
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
