// SPDX-License-Identifier: Apache-2.0

package untrusted

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Bounds of what a report says of work. What is found is cut off, since one find is enough to hold a rotation; anything else
// that is more than was asked is refused.
const (
	MaxSightings    = 64
	MaxSightingText = 128
	MaxWork         = 64
	MaxColumns      = 256
	MaxFinds        = 256
	MaxWorkText     = 256 // bytes
	maxSystem       = 20  // digits of 64 bits
	MaxUnseen       = 256
)

// CheckWork bounds what a report says of work, and refuses what an instance cannot have counted.
func CheckWork(all []workload.WorkReport) ([]workload.WorkReport, error) {
	if len(all) > MaxWork {
		return nil, rotation.Refusef("work: %d entries are too many; report the work that was asked, %d at most", len(all), MaxWork)
	}
	all = slices.Clone(all)
	for n, r := range all {
		if len(r.ID) > 2*MaxWorkText || len(r.Columns) > MaxColumns {
			return nil, rotation.Refusef("work: an entry has an id of %d bytes and %d columns; report the columns that were asked, %d at most", len(r.ID), len(r.Columns), MaxColumns)
		}
		for _, c := range r.Columns {
			if min(c.Total, c.Staged, c.Rotated, c.Left, c.Other, c.Bad) < 0 || len(c.Column) > MaxWorkText {
				return nil, rotation.Refusef("work: a column has a name of more than %d bytes, or counts fewer than no rows", MaxWorkText)
			}
		}
		if r.Place != nil {
			place, err := checkPlace(*r.Place)
			if err != nil {
				return nil, err
			}
			r.Place = &place
		}
		var err error
		if r, err = checkFinds(r); err != nil {
			return nil, err
		}
		if len(r.Unseen) > MaxUnseen {
			r.Unseen = append(slices.Clone(r.Unseen[:MaxUnseen]), rotation.UnseenBeyond)
		}
		r.Unseen = slices.Clone(r.Unseen)
		for m, text := range r.Unseen {
			r.Unseen[m] = kind.Line(text, MaxWorkText)
		}
		all[n] = r
	}
	return all, nil
}

// checkFinds bounds what a report says of columns that nobody has configured. Those that hold a rotation stay longest.
func checkFinds(r workload.WorkReport) (workload.WorkReport, error) {
	r.Finds = slices.Clone(r.Finds)
	slices.SortStableFunc(r.Finds, func(a, b workload.Find) int { return min(b.Opened, 1) - min(a.Opened, 1) })
	for n, f := range r.Finds {
		if min(f.Shaped, f.Tried, f.Opened, r.MoreFinds) < 0 {
			return r, rotation.Refusef("work: a find counts fewer than no rows")
		}
		if n >= MaxFinds && f.Opened > 0 {
			r.MoreFinds++
		}
		r.Finds[n].Column = kind.Line(f.Column, MaxWorkText)
	}
	r.Finds = r.Finds[:min(len(r.Finds), MaxFinds)]
	return r, nil
}

// checkPlace bounds what a report says of where it has looked.
func checkPlace(p workload.Place) (workload.Place, error) {
	if len(p.System) > maxSystem || strings.Trim(p.System, "0123456789") != "" || len(p.Database) > MaxWorkText || len(p.Tables) > MaxColumns {
		return p, rotation.Refusef("work: place: system is no system identifier, database is longer than %d bytes, or there are more than %d tables; report what the server says of the columns that were asked", MaxWorkText, MaxColumns)
	}
	p.Database = kind.Line(p.Database, MaxWorkText)
	p.Tables = slices.Clone(p.Tables)
	for _, t := range p.Tables {
		if len(t.Column) > MaxWorkText {
			return p, rotation.Refusef("work: place: a column has a name of more than %d bytes", MaxWorkText)
		}
	}
	return p, nil
}

// AskedTables leaves of a place what the work was about.
func AskedTables(p *workload.Place, asked []key.Column) *workload.Place {
	if p == nil {
		return nil
	}
	of := map[string]bool{}
	for _, c := range asked {
		of[c.String()] = true
	}
	left := *p
	left.Tables = slices.DeleteFunc(slices.Clone(p.Tables), func(t workload.PlaceTable) bool {
		wanted := of[t.Column]
		of[t.Column] = false
		return !wanted
	})
	return &left
}

// AskedColumns are those of a report's columns that the work was about, each as often as it was asked.
func AskedColumns(all []workload.ColumnReport, asked []key.Column) []workload.ColumnReport {
	left := map[string]int{}
	for _, c := range asked {
		left[c.String()]++
	}
	return slices.DeleteFunc(slices.Clone(all), func(r workload.ColumnReport) bool {
		left[r.Column]--
		return left[r.Column] < 0
	})
}

// CheckSightings refuses what a report says of sightings, if it is more than an instance can have seen.
func CheckSightings(all []workload.Sighting) error {
	if len(all) > MaxSightings {
		return rotation.Refusef("sightings: %d are too many; report those of versions that are still accepted, %d at most", len(all), MaxSightings)
	}
	for _, s := range all {
		if s.Env == "" || s.Version <= 0 || s.Count < 0 || kind.Line(s.Env+s.From, 2*MaxSightingText) != s.Env+s.From || len(s.Env) > MaxSightingText || len(s.From) > MaxSightingText {
			return rotation.Refusef("sightings: each entry must be an object with env, version, count, last_seen (in seconds ago) and from, an address")
		}
	}
	return nil
}

// Bounds of what a report says of retired versions.
const (
	MaxTrips   = workload.MaxTrips
	maxTripRun = 32 // bytes
)

// ErrTrip is the error of a report on retired versions in another form than is asked.
var ErrTrip error = rotation.Refusef("tripped: each entry must be an object with env, version, run, count, first_seen and last_seen (in seconds ago), and from, a list of at most %d IP addresses", workload.MaxTripFrom)

// CheckTrips refuses what a report says of retired versions, if it is more than a proxy can have seen. Operators are shown the
// addresses: they must be some, and no other text.
func CheckTrips(all []workload.Trip) error {
	if len(all) > MaxTrips {
		return rotation.Refusef("tripped: %d entries are too many; report those of versions that the bundle has tripwires of, %d at most", len(all), MaxTrips)
	}
	for _, t := range all {
		run := strings.ContainsFunc(t.Run, func(r rune) bool { return r < '0' || r > '9' && r < 'A' || r > 'Z' && r < 'a' || r > 'z' })
		if t.Env == "" || len(t.Env) > MaxSightingText || t.Version <= 0 || t.Count < 0 || run || len(t.Run) > maxTripRun || len(t.From) > workload.MaxTripFrom {
			return ErrTrip
		}
		for _, from := range t.From {
			if address, err := netip.ParseAddr(from); err != nil || address.Zone() != "" || len(from) > MaxSightingText {
				return ErrTrip
			}
		}
	}
	return nil
}

// News reports whether a report has sightings worth storing: a version that is known to have been seen just now is none. One that is
// known to be seen in the future is: the clock was set back since, and the version would count as used until then.
func News(before, now []workload.Sighting) bool {
	known := lastSeen(before)
	for name, last := range lastSeen(now) {
		if last.Sub(known[name]).Abs() >= rotation.SightingStep {
			return true
		}
	}
	return false
}

// lastSeen returns when each version of sightings was seen last, by environment name and number.
func lastSeen(all []workload.Sighting) map[string]time.Time {
	last := map[string]time.Time{}
	for _, s := range all {
		if name := fmt.Sprintf("%s %d", s.Env, s.Version); s.Last.After(last[name]) {
			last[name] = s.Last
		}
	}
	return last
}
