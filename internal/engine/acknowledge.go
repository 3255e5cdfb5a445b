// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"maps"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/tripwire"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Acknowledge clears from the status what was seen of retired versions of a key until now; of one version, unless number is 0. It
// returns how many versions that concerns. The counts stay.
func (e *Engine) Acknowledge(ctx context.Context, name string, number int, reason string, by rotation.Actor) (versions []int, err error) {
	if err := CheckReason(reason); err != nil {
		return nil, err
	}
	l, release := e.acquire()
	defer release()
	k, ok := l.Keys[name]
	if !ok {
		return nil, catalog.UnknownKey(name)
	}
	r := get(l.state, func(m *memory) tripwire.Record { return m.tripwires[name] })
	seen := map[int]int{}
	for _, w := range r.Wires {
		if w.Open() && (number == 0 || number == w.Version) {
			seen[w.Version] = w.Count
		}
	}
	if _, known := r.Version(number); number != 0 && !known {
		return nil, rotation.Refusef("version %d of key %s is not known, or no retired version that was presented; leave version out for all", number, name)
	}
	if len(seen) == 0 {
		return nil, nil
	}
	acknowledged := func(r tripwire.Record) tripwire.Record {
		for version, count := range seen {
			if w, ok := r.Version(version); ok {
				w.Acknowledged = count
				r = r.With(w)
			}
		}
		return r
	}
	versions = slices.Sorted(maps.Keys(seen))
	for _, version := range versions {
		w, _ := r.Version(version)
		err := l.journal.Add(ctx, journal.Entry{
			What: "acknowledged: " + tripText(k, w), By: by.Name, Entity: by.Entity, Reason: reason,
			Keys: []journal.Key{{Key: name, To: version, Fingerprint: w.Fingerprint}},
		})
		if err != nil {
			return nil, err
		}
	}
	return versions, l.putTripwires(ctx, acknowledged(r), acknowledged)
}
