// SPDX-License-Identifier: Apache-2.0

// Package tripwire keeps what is needed to recognize retired versions of a key without their values, and counts who
// presents one: a forgotten job, or an intruder. It takes time as an argument and stores nothing.
package tripwire

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

const (
	// LeastValue is the length of the shortest value, in bytes, that proxies get a digest of: a shorter one could be guessed by it.
	LeastValue = 16
	// MaxHanded is how many retired versions of a key proxies look for.
	MaxHanded = 4

	maxEnded   = 8             // retired versions that a record remembers
	maxClients = 8             // of one version
	maxSources = 32            // of one version
	maxCount   = 1_000_000_000 // where counting ends
)

// Client is who presented a retired version.
type Client struct {
	From string    `json:"from"` // address
	By   string    `json:"by"`   // who has seen it: an instance, as Workload/ID, or a server
	Last time.Time `json:"last"`
}

// source is one who counts.
type source struct {
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
}

// Wire is the tripwire of one version.
type Wire struct {
	Version     int       `json:"version"`
	Fingerprint string    `json:"fingerprint"`
	Digest      string    `json:"digest,omitempty"`  // empty: proxies cannot look for it
	Retired     time.Time `json:"retired,omitzero"`  // zero: it is not
	Count       int       `json:"count,omitempty"`   // how often it was presented since
	First       time.Time `json:"first,omitzero"`    // when that was first
	Last        time.Time `json:"last,omitzero"`     // and last
	Clients     []Client  `json:"clients,omitempty"` // the latest first

	Sources      map[string]source `json:"sources,omitempty"`
	Forgotten    time.Time         `json:"forgotten,omitzero"`  // the newest Last of sources that there was no room for; from then on, Count is what it is at least
	Journaled    int               `json:"journaled,omitempty"` // Count in the newest entry of the journal
	JournaledAt  time.Time         `json:"journaled_at,omitzero"`
	Acknowledged int               `json:"acknowledged,omitempty"` // Count that somebody has seen
}

// Open reports whether it was presented since somebody has acknowledged that.
func (w Wire) Open() bool { return w.Count > w.Acknowledged }

// Record is the tripwires of a key.
type Record struct {
	Key   string
	Wires []Wire // ascending by version
}

const schema = 1

type stored struct {
	Schema int    `json:"schema"`
	Key    string `json:"key"`
	Wires  []Wire `json:"wires"`
}

// Encode returns the stored form.
func (r Record) Encode() ([]byte, error) { return json.Marshal(stored{schema, r.Key, r.Wires}) }

// ErrNewer is the error of [Decode] where a newer release has written the record.
var ErrNewer = errors.New("stored tripwires are of a newer release")

// Decode reads the stored form.
func Decode(data []byte) (Record, error) {
	var s stored
	err := json.Unmarshal(data, &s)
	switch {
	case err == nil && s.Schema > schema:
		return Record{}, fmt.Errorf("%w: schema %d, this release reads %d", ErrNewer, s.Schema, schema)
	case err != nil || s.Key == "":
		return Record{}, errors.New("stored tripwires are damaged")
	}
	return Record{s.Key, s.Wires}, nil
}

// Summer makes keyed hashes over parts; key.Fingerprinter is one.
type Summer interface{ Sum(parts ...string) string }

// salt is the key of a version's digest. It follows from the mount's secret, and tells nothing of it or of other salts.
func salt(sum Summer, keyName string, w Wire) string {
	return sum.Sum("tripwire", keyName, strconv.Itoa(w.Version), w.Fingerprint)
}

// Version returns the wire of a version; false: there is none.
func (r Record) Version(number int) (Wire, bool) {
	n := slices.IndexFunc(r.Wires, func(w Wire) bool { return w.Version == number })
	if n < 0 {
		return Wire{}, false
	}
	return r.Wires[n], true
}

func ended(s key.State) bool { return s == key.Retained || s == key.Destroyed || s == key.Aborted }

// Armed returns the record with wires of all versions of a key that have a value, and with the time at which the others were
// retired. It reports whether that changes anything.
func (r Record) Armed(sum Summer, k key.Key, now time.Time) (Record, bool) {
	next := Record{Key: k.Name}
	old := 0
	for _, v := range slices.Backward(k.Versions) {
		w, known := r.Version(v.Number)
		if !known || w.Fingerprint != v.Fingerprint {
			w, known = Wire{Version: v.Number, Fingerprint: v.Fingerprint}, false
		}
		value := v.Value
		if v.State == key.Retained {
			value = v.Sealed
		}
		switch gone := ended(v.State); {
		case gone && (!known && value.Empty() || old == maxEnded):
			continue
		case gone:
			old++
			if w.Retired.IsZero() && v.State == key.Retained {
				w.Retired = v.Retired
			}
			if w.Retired.IsZero() {
				w.Retired = now
			}
		default:
			w.Retired = time.Time{}
		}
		if w.Digest == "" && value.Len() >= LeastValue && !value.MultiLine() {
			w.Digest = workload.TripDigest(salt(sum, k.Name, w), sha256.Sum256([]byte(value.Reveal())))
		}
		next.Wires = append(next.Wires, w)
	}
	slices.Reverse(next.Wires)
	same := func(a, b Wire) bool {
		return a.Version == b.Version && a.Fingerprint == b.Fingerprint && a.Digest == b.Digest && a.Retired.Equal(b.Retired)
	}
	return next, !slices.EqualFunc(r.Wires, next.Wires, same)
}

// Handed returns the wires that an instance gets whose accept-list is given: those of versions that are retired, or leave just
// now, and that it does not accept. They are the newest, at most MaxHanded.
func (r Record) Handed(sum Summer, k key.Key, accepts, leaving []int, now time.Time, retention time.Duration) (all []workload.Tripwire) {
	for _, w := range slices.Backward(r.Wires) {
		v, ok := k.Version(w.Version)
		if !ok || v.Fingerprint != w.Fingerprint || slices.Contains(accepts, w.Version) || !ended(v.State) && !slices.Contains(leaving, w.Version) {
			continue
		}
		until := now.Add(retention)
		if !w.Retired.IsZero() {
			until = w.Retired.Add(retention)
		}
		if w.Digest == "" || !until.After(now) || len(all) == MaxHanded {
			continue
		}
		all = append(all, workload.Tripwire{Version: w.Version, Salt: salt(sum, k.Name, w), Digest: w.Digest, Until: until})
	}
	return all
}

// Seen returns the record after a report on a version by somebody, and reports whether there was news in it. A report repeats the
// count of its run, so that none is counted twice.
func (r Record) Seen(by string, t workload.Trip, now time.Time) (Record, bool) {
	n := slices.IndexFunc(r.Wires, func(w Wire) bool { return w.Version == t.Version })
	if n < 0 {
		return r, false
	}
	w := r.Wires[n].upTo(now)
	name := by + " " + t.Run
	first, last := t.First, t.Last
	if last.After(now) {
		last = now
	}
	if first.IsZero() || first.After(last) {
		first = last
	}
	more := w.more(name, t.Count, first, last)
	if more <= 0 {
		return r, false
	}
	w.Count += more
	if over := w.Count - maxCount; over > 0 { // what is not acknowledged stays so
		w.Count, w.Acknowledged = maxCount, max(0, w.Acknowledged-over)
	}
	if w.First.IsZero() || first.Before(w.First) {
		w.First = first
	}
	if last.After(w.Last) {
		w.Last = last
	}
	w.remember(name, source{t.Count, last})
	w.Clients = withClients(w.Clients, by, t.From, first, last)
	r.Wires = slices.Clone(r.Wires)
	r.Wires[n] = w
	return r, true
}

// upTo returns the wire with nothing later than now, as it may be after the clock was set back: it would hide what is seen until then.
func (w Wire) upTo(now time.Time) Wire {
	bound := func(t time.Time) time.Time {
		if t.After(now) {
			return now
		}
		return t
	}
	if !w.Forgotten.After(now) && !w.Last.After(now) && !w.JournaledAt.After(now) {
		return w // and so is the rest
	}
	if w.Forgotten.After(now) { // what was forgotten was so before now: sources that are not known are new ones, or are counted twice
		w.Forgotten = time.Time{}
	}
	w.First, w.Last, w.JournaledAt = bound(w.First), bound(w.Last), bound(w.JournaledAt)
	w.Clients, w.Sources = slices.Clone(w.Clients), maps.Clone(w.Sources)
	for n := range w.Clients {
		w.Clients[n].Last = bound(w.Clients[n].Last)
	}
	for name, s := range w.Sources {
		w.Sources[name] = source{s.Count, bound(s.Last)}
	}
	return w
}

// late is how much later a request may seem to have been when its report is repeated: reports say how long ago it was.
const late = 10 * time.Second

// more is how many requests of a source's count are new. A source that is not known may be one that was forgotten, and repeats itself.
func (w Wire) more(name string, count int, first, last time.Time) int {
	known, ok := w.Sources[name]
	switch more := min(count-known.Count, maxCount); {
	case ok || w.Forgotten.IsZero() || first.After(w.Forgotten.Add(late)):
		return more
	case last.After(w.Forgotten.Add(late)):
		return min(more, 1)
	}
	return 0
}

// remember puts a source into the place of the one that has seen the version longest ago, if there are too many.
func (w *Wire) remember(name string, s source) {
	all := maps.Clone(w.Sources)
	if all == nil {
		all = map[string]source{}
	}
	all[name] = s
	for len(all) > maxSources {
		oldest := ""
		for _, other := range slices.Sorted(maps.Keys(all)) {
			if other != name && (oldest == "" || all[other].Last.Before(all[oldest].Last)) {
				oldest = other
			}
		}
		if all[oldest].Last.After(w.Forgotten) {
			w.Forgotten = all[oldest].Last
		}
		delete(all, oldest)
	}
	w.Sources = all
}

// withClients puts the addresses of a report first: the first one is that of the last request.
func withClients(before []Client, by string, from []string, first, last time.Time) []Client {
	all := slices.Clone(before)
	for n, address := range from {
		at := last
		if n > 0 {
			at = first
		}
		c := Client{address, by, at}
		if known := slices.IndexFunc(all, func(o Client) bool { return o.From == address && o.By == by }); known >= 0 {
			if all[known].Last.After(at) {
				c.Last = all[known].Last
			}
			all = slices.Delete(all, known, known+1)
		}
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b Client) int { return b.Last.Compare(a.Last) })
	return all[:min(len(all), maxClients)]
}

// journalEvery is the shortest time between two entries of the journal on one version.
const journalEvery = time.Minute

// Journals reports whether what was seen of the version is worth another entry of the journal: the first time, the first time after
// somebody has acknowledged what was seen, and then when the count has doubled, at most once a minute.
func (w Wire) Journals(now time.Time) bool {
	if w.Journaled == 0 {
		return w.Count > 0
	}
	rested := now.Sub(w.JournaledAt).Abs() >= journalEvery // the clock may have been set back
	return rested && (w.Count >= 2*w.Journaled || w.Journaled <= w.Acknowledged && w.Open())
}

// With returns the record with another state of a wire that it has.
func (r Record) With(w Wire) Record {
	r.Wires = slices.Clone(r.Wires)
	for n := range r.Wires {
		if r.Wires[n].Version == w.Version {
			r.Wires[n] = w
		}
	}
	return r
}

// Shown returns the wires of retired versions that were presented within the retention, the newest version first.
func (r Record) Shown(now time.Time, retention time.Duration) (all []Wire) {
	for _, w := range slices.Backward(r.Wires) {
		if w.Count > 0 && now.Sub(w.Last) < retention {
			all = append(all, w)
		}
	}
	return all
}
