// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

const (
	lapsedAge  = 24 * time.Hour // for which a lapsed instance is shown
	mostLapsed = 100            // of a workload
)

// Lapse notes that the lease of an instance has ended. It notes nothing of one whose sidecar had not said that it stops, or that is back.
// It returns the ids of those that are no longer kept: after their time, and the first to have lapsed where there are too many.
func (f *Fleet) Lapse(i workload.Instance, at time.Time) (over []string) {
	if _, back := f.by[i.ID]; back || i.Leaving.IsZero() {
		return nil
	}
	f.lapsed[i.ID] = Lapsed{i, at.UTC()}
	for _, l := range f.AllLapsed() {
		if at.Sub(l.At) > lapsedAge {
			over = append(over, l.ID)
			delete(f.lapsed, l.ID)
		}
	}
	if len(f.lapsed) > mostLapsed {
		first := slices.MinFunc(f.AllLapsed(), func(a, b Lapsed) int { return cmp.Or(a.At.Compare(b.At), strings.Compare(a.ID, b.ID)) })
		over = append(over, first.ID)
		delete(f.lapsed, first.ID)
	}
	return over
}

// Settle forgets that an instance has lapsed, since its process is known to have ended.
func (f *Fleet) Settle(id string) {
	if f != nil {
		delete(f.lapsed, id)
	}
}

// HasLapsed reports whether an instance is kept as lapsed.
func (f *Fleet) HasLapsed(id string) bool {
	if f == nil {
		return false
	}
	_, ok := f.lapsed[id]
	return ok
}

// AllLapsed returns all instances that are kept as lapsed, sorted.
func (f *Fleet) AllLapsed() []Lapsed {
	if f == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(f.lapsed), func(a, b Lapsed) int { return strings.Compare(a.ID, b.ID) })
}

// Lapsed returns the instances that have lapsed in the last day and did not come back, sorted.
func (f *Fleet) Lapsed(now time.Time) []Lapsed {
	return slices.DeleteFunc(f.AllLapsed(), func(l Lapsed) bool { return now.Sub(l.At) > lapsedAge })
}
