// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/tripwire"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// tripsEvery is the time between two writes of what was seen of a key's retired versions. The first of a version is stored at
// once. After a crash, the next report of the same proxy repeats what was not stored.
const tripsEvery = 5 * time.Second

// loadTripwires reads the tripwires of all keys. A damaged record is made again when its key is stored: it is no reason to refuse the
// mount.
func (l *locked) loadTripwires(ctx context.Context) error {
	return l.each(ctx, pathTripwires, func(data []byte) error {
		r, err := tripwire.Decode(data)
		if errors.Is(err, tripwire.ErrNewer) {
			return err
		}
		if err != nil {
			l.Observer.Fault("tripwires could not be read, and are made again", err)
			return nil
		}
		l.lock(func(m *memory) { m.tripwires[r.Key] = r })
		return nil
	})
}

// armTripwires stores the tripwires of a key that is about to be stored: those of values that are about to be erased are there then.
func (l *locked) armTripwires(ctx context.Context, k key.Key) error {
	r := get(l.state, func(m *memory) tripwire.Record { return m.tripwires[k.Name] })
	armed, changed := r.Armed(l.Fingerprints, k, l.Now().UTC())
	if !changed {
		return nil
	}
	return l.putTripwires(ctx, armed, func(now tripwire.Record) tripwire.Record { // with what was reported meanwhile
		now, _ = now.Armed(l.Fingerprints, k, l.Now().UTC())
		return now
	})
}

// putTripwires stores a record, and swaps in what swap makes of that of now.
func (l *locked) putTripwires(ctx context.Context, r tripwire.Record, swap func(now tripwire.Record) tripwire.Record) error {
	if err := l.put(ctx, pathTripwires+r.Key, r); err != nil {
		return err
	}
	l.lock(func(m *memory) { m.tripwires[r.Key] = swap(m.tripwires[r.Key]) })
	return nil
}

// leaving are the versions of a key that its rotation takes away now, whatever their states are.
func (m *memory) leaving(name string) []int {
	r, ok := m.active[m.rotating[name]]
	c, has := r.Change(name)
	switch {
	case !ok || !has:
		return nil
	case r.State == rotation.Retiring:
		return append([]int{c.From}, c.Also...)
	case r.State == rotation.Reverting:
		return []int{c.To}
	}
	return nil
}

// handedOf returns the tripwires of a key that an instance gets.
func (m *memory) handedOf(name string, i workload.Instance) []workload.Tripwire {
	return m.tripwires[name].Handed(m.Fingerprints, m.Keys[name], i.Issued.Keys[name].Accepts, m.leaving(name), m.Now().UTC(), m.Defaults.Tripwires)
}

// handedTripwires returns the tripwires that an instance gets with its bundle: of keys that it verifies, and holds something of.
func (m *memory) handedTripwires(w workload.Workload, i workload.Instance) map[string][]workload.Tripwire {
	all := map[string][]workload.Tripwire{}
	for name, held := range i.Issued.Keys {
		if wires := m.handedOf(name, i); w.Keys[name].Verifies && len(held.Accepts) > 0 && len(wires) > 0 {
			all[m.Keys[name].Env] = wires
		}
	}
	return all
}

// takeTrips counts what an instance's proxy has seen of retired versions: of those alone that the instance may look for. Others are
// late, or made up.
func (s *state) takeTrips(w workload.Workload, i workload.Instance, trips []workload.Trip) {
	if len(trips) == 0 {
		return
	}
	first := false
	s.lock(func(m *memory) {
		now := m.Now().UTC()
		for name, role := range w.Keys {
			if !role.Verifies {
				continue
			}
			for _, wire := range m.handedOf(name, i) {
				for _, t := range trips {
					if t.Env == m.Keys[name].Env && t.Version == wire.Version {
						first = m.noteTrip(name, i.Name(), t, now) || first
					}
				}
			}
		}
	})
	if first {
		s.nudge()
	}
}

// noteTrip counts a trip, and reports whether it is the first of its version.
func (m *memory) noteTrip(name, by string, t workload.Trip, now time.Time) (first bool) {
	r, news := m.tripwires[name].Seen(by, t, now)
	if !news {
		return false
	}
	before, _ := m.tripwires[name].Version(t.Version)
	m.tripwires[name] = r
	if first = before.Count == 0; first {
		m.tripped[name] = m.Uptime()
	} else if _, due := m.tripped[name]; !due {
		m.tripped[name] = m.Uptime() + tripsEvery
	}
	return first
}

// storeTrips stores what was seen of retired versions, and journals it: see [tripwire.Wire.Journals].
func (l *locked) storeTrips(ctx context.Context, now time.Time) error {
	due := map[string]tripwire.Record{}
	l.lock(func(m *memory) {
		for name, at := range m.tripped {
			if at <= m.Uptime() {
				due[name] = m.tripwires[name]
				delete(m.tripped, name)
			}
		}
	})
	for _, name := range slices.Sorted(maps.Keys(due)) {
		r, journaled := due[name], []tripwire.Wire{}
		for _, w := range r.Wires {
			if !w.Journals(now) {
				continue
			}
			if err := l.journalTrip(ctx, l.Keys[name], w); err != nil {
				return err
			}
			w.Journaled, w.JournaledAt = w.Count, now.UTC()
			r, journaled = r.With(w), append(journaled, w)
		}
		err := l.putTripwires(ctx, r, func(now tripwire.Record) tripwire.Record { // with what was reported meanwhile
			for _, w := range journaled {
				if newer, ok := now.Version(w.Version); ok {
					newer.Journaled, newer.JournaledAt = w.Journaled, w.JournaledAt
					now = now.With(newer)
				}
			}
			return now
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// journalTrip adds an entry on what was seen of a version. Killed before that is stored with the version, it is added once more.
func (l *locked) journalTrip(ctx context.Context, k key.Key, w tripwire.Wire) error {
	text := tripText(k, w)
	l.Observer.Fault("tripwire of key "+k.Name, errors.New(text))
	return l.journal.Add(ctx, journal.Entry{
		What: text, By: rotation.Itself.Name, Keys: []journal.Key{{Key: k.Name, To: w.Version, Fingerprint: w.Fingerprint}},
	})
}

// tripText says what was seen of a retired version.
func tripText(k key.Key, w tripwire.Wire) string {
	text := fmt.Sprintf("retired version %d of %s was presented %s, last at %s", w.Version, k.Env, times(w.Count), rotation.Stamp(w.Last))
	if len(w.Clients) > 0 {
		text += fmt.Sprintf(" from %s (seen by %s)", w.Clients[0].From, w.Clients[0].By)
	}
	return text + ": a forgotten job or an intruder"
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// Trip is what was seen of a retired version of a key.
type Trip struct {
	tripwire.Wire
	Text string
}

// Trips returns what was seen of retired versions of a key, the newest version first.
func (s *state) Trips(name string) []Trip {
	return get(s, func(m *memory) []Trip { return m.trips(name) })
}

func (m *memory) trips(name string) (all []Trip) {
	for _, w := range m.tripwires[name].Shown(m.Now(), m.Defaults.Tripwires) {
		all = append(all, Trip{w, tripText(m.Keys[name], w)})
	}
	return all
}

// Tripped is how many requests have presented retired versions of a key.
type Tripped struct {
	All  int // of versions that are still shown
	Open int // of them, not acknowledged
}

func (m *memory) trippedTimes(name string) (t Tripped) {
	for _, w := range m.tripwires[name].Shown(m.Now(), m.Defaults.Tripwires) {
		t.All, t.Open = t.All+w.Count, t.Open+w.Count-w.Acknowledged
	}
	return t
}

// openTrips says what was seen of retired versions of a key since somebody has acknowledged it, with what to do; empty: nothing.
func (m *memory) openTrips(name string) string {
	var texts []string
	for _, t := range m.trips(name) {
		if t.Open() {
			texts = append(texts, t.Text)
		}
	}
	if len(texts) == 0 {
		return ""
	}
	return fmt.Sprintf("%s; give the job at that address the current version, or find out who has the value; then clear this: vault write -f hyvve/keys/%s/acknowledge", strings.Join(texts, "; "), name)
}
