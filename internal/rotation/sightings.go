// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

const (
	// sightingAge is how long a version counts as used after a request presented it. Sidecars report sightings every two
	// seconds while there are new ones, of which one in sightingStep is stored: a version must not have been seen for 10 s
	// at least.
	sightingAge  = 15 * time.Second
	sightingStep = 5 * time.Second
)

// CheckSightings refuses what a report says of sightings, if it is more than an instance can have seen.
func CheckSightings(all []workload.Sighting) error {
	if len(all) > maxSightings {
		return Refusef("sightings: %d are too many; report those of versions that are still accepted, %d at most", len(all), maxSightings)
	}
	for _, s := range all {
		if s.Env == "" || s.Version <= 0 || s.Count < 0 || visible(s.Env+s.From) != s.Env+s.From || len(s.Env) > maxSightingText || len(s.From) > maxSightingText {
			return Refusef("sightings: each entry must be an object with env, version, count, last_seen (in seconds ago) and from, an address")
		}
	}
	return nil
}

// seenAnew tells whether a report has sightings worth storing: a version that is known to have been seen just now is none.
func seenAnew(before, now []workload.Sighting) bool {
	last := map[string]time.Time{}
	name := func(s workload.Sighting) string { return fmt.Sprintf("%s %d", s.Env, s.Version) }
	for _, s := range before {
		last[name(s)] = s.Last
	}
	for _, s := range now {
		if s.Last.Sub(last[name(s)]) >= sightingStep {
			return true
		}
	}
	return false
}

// Sighted says in words where the old version of a change was seen lately; empty: nowhere.
func Sighted(w WorkloadFact, c Change, now time.Time) string {
	var all few
	for _, i := range w.Instances {
		for _, s := range i.Sightings {
			if ago := now.Sub(s.Last); s.Env == c.Env && (s.Version == c.From || slices.Contains(c.Also, s.Version)) && ago < sightingAge {
				all.add(func() string {
					return fmt.Sprintf("%s has seen version %d of %s %s ago, from %s", i.ID, s.Version, s.Env, max(ago, 0).Round(time.Second), s.From)
				})
			}
		}
	}
	return all.String()
}
