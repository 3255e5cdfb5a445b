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

// Lapse notes that the lease of an instance has ended, in place of the one that has lapsed first where there are too many. It notes
// nothing of one whose sidecar had not said that it stops, or that is back.
func (f *Fleet) Lapse(i workload.Instance, at time.Time) {
	if _, back := f.by[i.ID]; back || i.Leaving.IsZero() {
		return
	}
	f.lapsed[i.ID] = Lapsed{i, at.UTC()}
	if len(f.lapsed) > mostLapsed {
		first := slices.MinFunc(slices.Collect(maps.Values(f.lapsed)), func(a, b Lapsed) int {
			return cmp.Or(a.At.Compare(b.At), strings.Compare(a.ID, b.ID))
		})
		delete(f.lapsed, first.ID)
	}
}

// Settle forgets that an instance has lapsed, since its process is known to have ended.
func (f *Fleet) Settle(id string) {
	if f != nil {
		delete(f.lapsed, id)
	}
}

// Lapsed returns the instances that have lapsed in the last day and did not come back, sorted.
func (f *Fleet) Lapsed(now time.Time) (all []Lapsed) {
	if f == nil {
		return nil
	}
	for id, l := range f.lapsed {
		if now.Sub(l.At) > lapsedAge {
			delete(f.lapsed, id)
			continue
		}
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b Lapsed) int { return strings.Compare(a.ID, b.ID) })
	return all
}
