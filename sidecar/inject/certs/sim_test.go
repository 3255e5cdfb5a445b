// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"
)

// world is a cluster made of a seed: API servers and replicas that learn of everything late, leaders that come and go after
// any write, clocks that differ, and people who delete, spoil and reset what is ours. Policy and choose in it are the real ones.
type world struct {
	t        *testing.T
	rand     *rand.Rand
	now      time.Time
	secret   object // the Secret: a record, and words
	bundle   object // the configuration's caBundle
	servers  []view
	replicas []*replica
	leader   int
	story    []string

	rotations, resets, losses int

	read  map[int]known // by version of the Secret
	taken map[string]bool
}

type object struct {
	version  int
	record   []byte // nil: there is none, as after it was deleted
	replicas map[string]Presents
	text     []byte // caBundle
	strange  bool   // caBundle, as somebody else has set it
}

// view is what somebody sees of an object: what it was some time ago.
type view struct {
	seen    object
	pending object
	at      time.Time // when pending is seen; zero: nothing is
}

func (v *view) learn(o object, now time.Time, delay time.Duration) {
	if !v.at.IsZero() && !now.Before(v.at) {
		v.seen, v.at = v.pending, time.Time{}
	}
	if v.at.IsZero() && o.version != v.seen.version {
		v.pending, v.at = o, now.Add(delay)
	}
}

type replica struct {
	name           string
	skew           time.Duration
	secret, bundle view
	held           *Pair
	last           known
}

const (
	simStep = 10 * time.Second
	maxLate = 40 * time.Second // less than Propagation
)

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 1)), now: start, bundle: object{version: 1}, servers: make([]view, 3), read: map[int]known{}, taken: map[string]bool{}}
	for n := range 3 {
		w.replicas = append(w.replicas, w.replica(n))
	}
	return w
}

func (w *world) replica(n int) *replica {
	return &replica{name: fmt.Sprintf("replica-%d-%d", n, w.now.Unix()), skew: time.Duration(w.rand.IntN(5)-2) * time.Second}
}

func (w *world) late() time.Duration { return time.Duration(w.rand.Int64N(int64(maxLate))) }

func (w *world) tell(format string, args ...any) {
	w.story = append(w.story, w.now.Format("15:04:05 ")+fmt.Sprintf(format, args...))
	if len(w.story) > 40 {
		w.story = w.story[1:]
	}
}

func (w *world) step() {
	w.now = w.now.Add(simStep)
	for n := range w.servers {
		w.servers[n].learn(w.bundle, w.now, w.late())
	}
	for _, r := range w.replicas {
		r.secret.learn(w.secret, w.now, w.late()/8)
		r.bundle.learn(w.bundle, w.now, w.late()/8)
		w.follow(r)
	}
	if w.rand.IntN(20) == 0 { // it is killed after its last write, or has lost its lease
		w.leader = w.rand.IntN(len(w.replicas))
	}
	w.lead(w.replicas[w.leader])
	if w.rand.IntN(50) == 0 { // two that lead, one of which does not know yet
		w.lead(w.replicas[w.rand.IntN(len(w.replicas))])
	}
	w.mishap()
	w.check()
}

func (w *world) mishap() {
	switch w.rand.IntN(2000) {
	case 0:
		w.bundle = object{version: w.bundle.version + 1, text: []byte("reset"), strange: true}
		w.resets++
		w.tell("caBundle is reset")
	case 1:
		w.secret = object{version: w.secret.version + 1}
		w.losses++
		w.tell("the Secret is deleted")
	case 2:
		w.secret = object{version: w.secret.version + 1, record: []byte("spoiled")}
		w.losses++
		w.tell("the Secret is spoiled")
	case 3, 4, 5:
		n := w.rand.IntN(len(w.replicas))
		w.replicas[n] = w.replica(n)
		w.tell("replica %d is another one", n)
	}
}

// follow is what Managed.follow does, in a world.
func (w *world) follow(r *replica) {
	now, o := w.now.Add(r.skew), r.secret.seen
	if k, ok := w.parse(o); ok {
		r.last = k
	}
	p := choose(r.held, r.last.pair, Seen{Bundles: [][]byte{r.bundle.seen.text}}, now)
	if p == nil {
		return
	}
	word := Presents{Authority: fingerprint(p.authority), Until: p.Leaf.NotAfter}
	if r.held == nil && o.replicas[r.name] != word {
		w.say(r, o, word)
		return
	}
	r.held = p
	if o.replicas[r.name] != word {
		w.say(r, o, word)
	}
}

// parse reads a Secret, once.
func (w *world) parse(o object) (known, bool) {
	k, done := w.read[o.version]
	if !done {
		record, err := parseRecord(o.record)
		if err == nil {
			k = known{version: "good", record: record, replicas: o.replicas}
			if k.pair, err = record.pair(); err != nil {
				w.t.Fatal(err)
			}
		}
		w.read[o.version] = k
	}
	return k, k.version != ""
}

func (w *world) say(r *replica, o object, word Presents) {
	if o.version != w.secret.version || o.record == nil {
		return
	}
	w.secret.version++
	w.secret.replicas = maps.Clone(w.secret.replicas)
	if w.secret.replicas == nil {
		w.secret.replicas = make(map[string]Presents)
	}
	w.secret.replicas[r.name] = word
	delete(w.read, w.secret.version)
}

// lead is what Managed.lead does: one write, of what was decided on something that may be old.
func (w *world) lead(r *replica) {
	o, b := r.secret.seen, r.bundle.seen
	_, whole := w.parse(o)
	m, wrong := policy.Next(r.last.record, Seen{Bundles: [][]byte{b.text}, Replicas: r.last.replicas}, w.now.Add(r.skew))
	if wrong != nil {
		w.t.Fatal(wrong)
	}
	if len(m.Why)+len(m.Forget) > 0 || !whole {
		if o.version != w.secret.version {
			return
		}
		data, err := m.Record.encode()
		if err != nil {
			w.t.Fatal(err)
		}
		said := maps.Clone(r.last.replicas)
		for _, name := range m.Forget {
			delete(said, name)
		}
		w.secret = object{version: o.version + 1, record: data, replicas: said}
		if s, before := m.Record.Serving, r.last.record.Serving; s != nil && before != nil && s.Generation > before.Generation {
			w.rotations++
		}
		w.tell("%s leads: %q, %s", r.name, m.Why, generations(m.Record))
		return
	}
	if m.Rebundle && o.version == w.secret.version && b.version == w.bundle.version {
		w.bundle = object{version: b.version + 1, text: m.Bundle}
		w.tell("%s sets caBundle: %s", r.name, generations(m.Record))
	}
}

// check that each API server takes the certificate of each replica, but while somebody else's caBundle is what it knows.
func (w *world) check() {
	for n, s := range w.servers {
		if s.seen.strange || s.seen.text == nil {
			continue
		}
		for _, r := range w.replicas {
			if r.held == nil || w.takes(s.seen, r.held) {
				continue
			}
			for _, line := range w.story {
				w.t.Log(line)
			}
			w.t.Fatalf("at %s API server %d does not take what %s presents: %s until %s", w.now, n, r.name, fingerprint(r.held.authority), r.held.Leaf.NotAfter)
		}
	}
}

func (w *world) takes(bundle object, p *Pair) bool {
	id := fmt.Sprint(bundle.version, p.Leaf.SerialNumber)
	if _, known := w.taken[id]; !known {
		w.taken[id] = accepts(bundle.text, p.Leaf, w.now)
	}
	return w.taken[id] && p.valid(w.now)
}

func TestSimulation(t *testing.T) {
	rotations, resets, losses := 0, 0, 0
	seeds := uint64(5)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		w := newWorld(t, seed)
		for w.now.Before(start.Add(24 * time.Hour)) {
			w.step()
		}
		w.rest()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		rotations, resets, losses = rotations+w.rotations, resets+w.resets, losses+w.losses
	}
	t.Logf("%d seeds: %d authorities took over, caBundle was reset %d times, the Secret lost or spoiled %d times", seeds, rotations, resets, losses)
	if rotations < 3*int(seeds) || resets == 0 || losses == 0 {
		t.Error("too little has happened")
	}
}

// rest lets a world alone for a whole life of certificates: nothing old may be left.
func (w *world) rest() {
	for end := w.now.Add(policy.CALifetime); w.now.Before(end); {
		w.now = w.now.Add(simStep)
		for n := range w.servers {
			w.servers[n].learn(w.bundle, w.now, 0)
		}
		for _, r := range w.replicas {
			r.skew = 0
			r.secret.learn(w.secret, w.now, 0)
			r.bundle.learn(w.bundle, w.now, 0)
			w.follow(r)
		}
		w.lead(w.replicas[w.leader])
		w.check()
	}
	r, err := parseRecord(w.secret.record)
	if err != nil || len(r.Authorities) > 2 || !bytes.Equal(w.bundle.text, r.bundle()) {
		w.t.Errorf("in the end: %v, %s", err, generations(r))
	}
	if n := len(w.secret.replicas); n > len(w.replicas) {
		w.t.Errorf("%d words are kept of %d replicas", n, len(w.replicas))
	}
}
