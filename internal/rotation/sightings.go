// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"slices"
	"time"
)

const (
	// SightingAge is how long a version counts as used after a request presented it. Sidecars report sightings every two
	// seconds while there are new ones, of which one in SightingStep is stored: a version must not have been seen for 10 s
	// at least.
	SightingAge = 15 * time.Second
	// SightingStep is the time in which one sighting is stored.
	SightingStep = 5 * time.Second
)

// Sighted says in words where the old version of a change was seen lately; empty: nowhere.
func Sighted(w WorkloadFact, c Change, now time.Time) string {
	var all firstThree
	for _, i := range w.Instances {
		for _, s := range i.Sightings {
			if ago := now.Sub(s.Last); s.Env == c.Env && (s.Version == c.From || slices.Contains(c.Also, s.Version)) && ago < SightingAge {
				all.add(func() string {
					return fmt.Sprintf("%s has seen version %d of %s %s ago, from %s", i.ID, s.Version, s.Env, max(ago, 0).Round(time.Second), s.From)
				})
			}
		}
	}
	return all.String()
}
