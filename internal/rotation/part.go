// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"slices"
	"time"
)

// Parts reports whether keys whose servers fail at something are taken out of a rotation, so that they do not hold up the others.
// Before the new versions are presented that is so for those of a request for all keys, which rotate together for haste, and not since
// they belong together. Later all instances have the same of each. Keys that have not leaked wait for each other's samples.
func (r Rotation) Parts(what Action) bool {
	if len(r.Changes) < 2 || r.Paused != nil {
		return false
	}
	switch what {
	case ActStage:
		return r.All
	case ActSample:
		return r.All || r.Compromised
	case ActRetire, ActUnstage:
		return true
	case NoAction, ActPromote, ActErase:
	}
	return false
}

// Part takes keys out of a rotation. It returns what is left of it, which tries its step's action again at once, and the rotation of the
// keys, which continues from the same step under the id. follow is the id of the rotation that follows that one, where one follows r. why says
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
	parted.Work, parted.Witnesses, parted.OneWitness = nil, nil, "" // they protect no rows
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
	if !left.Acted {
		left.Attempts, left.Fault, left.StillUsed, left.RetryAt = 0, "", false, time.Time{}
	}
	return left, parted
}
