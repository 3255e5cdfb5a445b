// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"slices"
	"time"
)

// Parts reports whether keys that fail at what the step asks of servers are taken out of a rotation, so that they do not hold up the
// others. Before the new versions are presented that is so for those of a request for all keys, which rotate together for haste, and
// not since they belong together; at the end, where all instances have the same of each already, for all.
func (r Rotation) Parts() bool {
	if len(r.Changes) < 2 || r.Paused != nil {
		return false
	}
	switch r.Action() {
	case ActStage:
		return r.All
	case ActRetire, ActUnstage:
		return true
	case NoAction, ActPromote, ActErase, ActSample:
	}
	return false
}

// Part takes keys out of a rotation. It returns what is left of it, which does its step's action again, and the rotation of the keys, which
// continues from the same step under the id. follow is the id of the rotation that follows that one, where one follows r. why says
// what holds the keys up.
func Part(r Rotation, names []string, id, follow, why string, now time.Time) (left, parted Rotation) {
	left, parted = r.Clone(), r.Clone()
	left.Changes, parted.Changes = nil, nil
	for _, c := range r.Changes {
		if slices.Contains(names, c.Key) {
			parted.Changes = append(parted.Changes, c)
		} else {
			left.Changes = append(left.Changes, c)
		}
	}
	parted.ID, parted.PartOf, parted.Whole, parted.Follows = id, r.ID, nil, ""
	parted.Timeline, parted.Omitted, parted.Journaled, parted.JournalSeq, parted.JournalFrom = nil, 0, 0, 0, 0
	if r.Follow != nil {
		next := *r.Follow
		next.ID, parted.Follow = follow, &next
	}
	if r.Whole != nil {
		whole := *r.Whole
		whole.With = slices.Clone(whole.With)
		whole.Join(id, fmt.Sprintf("of %s, does not hold up the others any longer: %s", parted.EnvNames(), why))
		left.Whole = &whole
	}
	parted = parted.told(now, Event{Text: fmt.Sprintf("was part of rotation %s, and continues alone so that it does not hold up %s: %s", r.ID, left.EnvNames(), why)})
	left = left.told(now, Event{Text: fmt.Sprintf("%s continues alone, in rotation %s, so that it does not hold up the others: %s", parted.EnvNames(), id, why)})
	left.Acted, left.Attempts, left.Fault, left.StillUsed, left.RetryAt = false, 0, "", false, time.Time{}
	return left, parted
}
