// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

// Bounds of a rotation's timeline. The journal has all events.
const (
	MostEvents   = 128
	firstEvents  = 32   // that stay
	maxEventText = 1024 // bytes of a text, and of a reason
)

// told returns the rotation with an event in its step.
func (r Rotation) told(now time.Time, e Event) Rotation {
	r = r.Clone()
	e.At, e.State, e.Step = now, r.State, r.Step
	e.Text, e.Reason = kind.CutText(e.Text, maxEventText), kind.CutText(e.Reason, maxEventText)
	r.Timeline = append(r.Timeline, e)
	for len(r.Timeline) > MostEvents {
		r.Timeline = slices.Delete(r.Timeline, r.spare(), r.spare()+1)
		r.Omitted++
	}
	return r
}

// spare is the oldest event that the timeline can do without: not one of the first, nor the first of its state.
func (r Rotation) spare() int {
	seen := map[State]bool{}
	for n, e := range r.Timeline {
		if n >= firstEvents && seen[e.State] {
			return n
		}
		seen[e.State] = true
	}
	return firstEvents
}

// EventCount is how many events there were. One that the journal may lack is among the newest, so that number n of it is at
// n-r.Omitted of Timeline.
func (r Rotation) EventCount() int { return len(r.Timeline) + r.Omitted }
