// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

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
	for _, id := range j.litter {
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
	j.litter = nil
	return nil
}
