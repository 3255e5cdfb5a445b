// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// tripsKept is the time in which counts of retired values are stored and logged once, if they are not reported earlier. A sidecar that
// is killed loses no more.
const tripsKept = 10 * time.Second

// noVersion stands for values that are none of a retired version: they are counted in the same way, so that the time a request takes
// tells nothing.
const noVersion = 0

// tripwires are the retired versions of a key that are looked for, and what was seen of them.
type tripwires struct {
	run     string // of counts that begin now; each version has that of its own
	seen    map[int]workload.Trip
	total   int // since the process has started
	unsaved bool
	unsaid  bool        // in the log
	saving  *time.Timer // nil: nothing waits to be stored or logged
}

func newTripwires() tripwires {
	return tripwires{run: newRun(), seen: map[int]workload.Trip{}}
}

func newRun() string { return rand.Text()[:16] }

// storedTrips is what is stored of them.
type storedTrips struct {
	Run  string          `json:"run"` // of those of Seen that have none, as an earlier release has stored them
	Seen []workload.Trip `json:"seen,omitempty"`
}

// stored returns what is stored; nil: nothing was seen.
func (t *tripwires) stored() *storedTrips {
	s := &storedTrips{}
	for _, version := range t.versions() {
		s.Seen = append(s.Seen, t.seen[version])
	}
	if len(s.Seen) == 0 {
		return nil
	}
	s.Run = s.Seen[0].Run
	return s
}

// load continues the count of an earlier process.
func (t *tripwires) load(s *storedTrips) {
	if s == nil || s.Run == "" {
		return
	}
	for _, trip := range s.Seen {
		trip.Run = cmp.Or(trip.Run, s.Run)
		t.seen[trip.Version] = trip
	}
}

// versions are those that were seen.
func (t *tripwires) versions() (all []int) {
	for version := range t.seen {
		if version != noVersion {
			all = append(all, version)
		}
	}
	slices.Sort(all)
	return all
}

// keep forgets what was seen of versions that are not looked for any more. Looked for again, they are counted from 0, and so as another
// run: the engine knows the count of this one.
func (t *tripwires) keep(wires []workload.Tripwire) {
	for _, version := range t.versions() {
		if !slices.ContainsFunc(wires, func(w workload.Tripwire) bool { return w.Version == version }) {
			delete(t.seen, version)
			t.run = newRun()
		}
	}
}

// tripped returns the version whose tripwire a value hits; noVersion: none. It always compares with all.
func (s *snapshot) tripped(token string, now time.Time) int {
	sum, version := sha256.Sum256([]byte(token)), noVersion
	for _, w := range s.wires {
		hit := subtle.ConstantTimeCompare([]byte(workload.TripDigest(w.Salt, sum)), []byte(w.Digest))
		if now.After(w.Until) {
			hit = 0
		}
		version = subtle.ConstantTimeSelect(hit, w.Version, version)
	}
	return version
}

// look looks in a request for retired values of keys other than the one that was found. Whatever the request presents, it does the
// same, and the application gets the same.
func (p *Proxy) look(in http.Header, found match, ok bool, from string) {
	for _, k := range p.keys {
		values, s := in[k.header], k.now.Load()
		if s == nil || len(values) != 1 || ok && k.header == found.key.header {
			continue
		}
		if _, token, is := split(k.header, values[0]); is {
			now := time.Now()
			k.trip(s.tripped(token, now), from, now)
		}
	}
}

// trip counts a request with a value that is not accepted.
func (k *held) trip(version int, from string, now time.Time) {
	if address, err := netip.ParseAddr(from); err == nil {
		from = address.WithZone("").String()
	} else {
		from = "" // not known
	}
	b, unlock := k.books.Lock()
	defer unlock()
	t := &b.trips
	seen := t.seen[version]
	seen.Env, seen.Version, seen.Run = k.env, version, cmp.Or(seen.Run, t.run)
	t.seen[version] = seen.Tripped(from, now)
	hit := subtle.ConstantTimeEq(int32(version), noVersion) ^ 1 //nolint:gosec // numbers of versions are small
	t.total += hit
	b.news += uint64(hit) //nolint:gosec // 0 or 1
	t.unsaved, t.unsaid = t.unsaved || hit == 1, t.unsaid || hit == 1
	if t.saving == nil {
		t.saving = time.AfterFunc(tripsKept, k.saveTrips)
	}
}

// saveTrips is called a while after a value that is not accepted was presented.
func (k *held) saveTrips() { k.books.Do((*books).settleTrips) }

// settleTrips stores what was counted, and logs it: no request waits for that.
func (b *books) settleTrips() {
	b.trips.saving = nil
	if b.trips.unsaid {
		b.trips.unsaid = false
		for _, version := range b.trips.versions() {
			b.of.presented(b.trips.seen[version])
		}
	}
	b.saveCounts()
}

// saveCounts stores what was counted.
func (b *books) saveCounts() {
	if !b.trips.unsaved {
		return
	}
	b.trips.unsaved = false
	if err := b.store(b.state); err != nil {
		b.trips.unsaved = true
		b.of.failed(err)
	}
}

// Trips returns what was seen of retired versions, ordered by key and version. The counts are of all runs that the state file knows.
func (p *Proxy) Trips() []workload.Trip { return p.trips(false) }

// StoredTrips is Trips for the engine, which takes a run's count that is not higher than one before for a repetition. So the counts
// are stored first: the next process continues at them, also after this one was killed.
func (p *Proxy) StoredTrips() []workload.Trip { return p.trips(true) }

func (p *Proxy) trips(store bool) (all []workload.Trip) {
	for _, k := range p.keys {
		k.books.Do(func(b *books) {
			if store {
				b.saveCounts()
			}
			for _, version := range b.trips.versions() {
				all = append(all, b.trips.seen[version])
			}
		})
	}
	slices.SortStableFunc(all, func(a, b workload.Trip) int {
		return cmp.Or(cmp.Compare(a.Env, b.Env), cmp.Compare(a.Version, b.Version))
	})
	return all
}

// Tripped adds to counts how many requests have presented a retired version since the process has started, by key: 0 of those that
// nobody has.
func (p *Proxy) Tripped(counts map[string]int) {
	for _, k := range p.keys {
		k.books.Do(func(b *books) { counts[k.env] += b.trips.total })
	}
}
