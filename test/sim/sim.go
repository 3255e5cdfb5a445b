// SPDX-License-Identifier: Apache-2.0

// Package sim runs the rotation engine in a world that is made of one seed: clock, storage, servers, database, instances,
// operators, and everything that can go wrong between them. The engine is the real one, and so is the machine of most
// sidecars; nothing in them knows that time is not. The same seed makes the same world, so that what one run in a million
// shows can be looked at again:
//
//	make sim SEED=n          one seed, told step by step
//	make sim SEEDS=n         the first n seeds
//
// What must always hold is in check.go.
package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

const (
	chaos    = 6 * time.Minute // for so long things go wrong
	patience = 3 * time.Hour   // within so long after it everything must have ended
	leaseTTL = 60 * time.Second
)

// Run runs the world of a seed, and returns its figures and the violations. It writes what happens to log, if there is one.
func Run(seed uint64, log io.Writer) (Stats, error) { return run(newWorld(seed, log)) }

// RunWithLiars is Run where one instance of each workload lies. In Run it does in some worlds only.
func RunWithLiars(seed uint64, log io.Writer) (Stats, error) {
	w := newWorld(seed, log)
	w.lying = true
	return run(w)
}

func run(w *world) (Stats, error) {
	w.setUp()
	for w.uptime < chaos && len(w.violations) == 0 {
		w.step()
	}
	w.logf("calm")
	w.calm = true
	w.silence()
	for begun := w.uptime; len(w.violations) == 0; {
		w.requireNothing()
		w.step()
		if w.settled() {
			break
		}
		if w.uptime-begun > patience {
			w.violate("it does not end: %s", w.unfinished())
		}
	}
	if len(w.violations) == 0 {
		w.checkEnd()
	}
	w.stats.Writes = w.writes()
	if len(w.violations) > 0 {
		return w.stats, fmt.Errorf("seed %d, at %s: %w", w.seed, w.uptime, errors.Join(w.violations...))
	}
	return w.stats, nil
}

// Stats tell what a world has seen, so that a simulation that simulates nothing is noticed.
type Stats struct {
	Rotations, Done, Reverted, Crashes, Writes int
	WentBack                                   int // for rows that were left
	Undeleted                                  int // versions that were retained
	Beside                                     int // undeleted logins that were ended beside a rotation
	Lost                                       int // values that a server has made and nobody knew, and that were revoked
	Leaked                                     int // undeleted logins that a rotation of a compromised key ended
	Restored                                   int // rows under such a version, from a backup
	Erased                                     int // values whose retention was over
	Escalated, Tuned                           int // running rotations
	All                                        int // requests for all keys
	Followed                                   int // rotations that another followed by itself
	Lies                                       int // reports of liars that were taken
	Killed                                     int // sidecars whose processes lived on
	Stopped                                    int // sidecars that said so and whose processes lived on
	Edited, Dropped                            int // keys given to workloads, and taken away again
	Cut                                        int // rotations that have cut something
	Proved                                     int // instances that were waited for until they had proved what is required
	LockedOut                                  int // moments at which an instance was locked out
}

// Add sums.
func (s *Stats) Add(o Stats) {
	s.Rotations += o.Rotations
	s.Done += o.Done
	s.Reverted += o.Reverted
	s.Crashes += o.Crashes
	s.Writes += o.Writes
	s.WentBack += o.WentBack
	s.Undeleted += o.Undeleted
	s.Beside += o.Beside
	s.Leaked += o.Leaked
	s.Lost += o.Lost
	s.Restored += o.Restored
	s.Erased += o.Erased
	s.Lies += o.Lies
	s.Escalated += o.Escalated
	s.Tuned += o.Tuned
	s.All += o.All
	s.Followed += o.Followed
	s.Killed += o.Killed
	s.Stopped += o.Stopped
	s.Edited += o.Edited
	s.Dropped += o.Dropped
	s.Cut += o.Cut
	s.LockedOut += o.LockedOut
	s.Proved += o.Proved
}

// world is all there is.
type world struct {
	seed uint64
	rng  *rand.Rand
	log  io.Writer

	uptime time.Duration // since the beginning; never jumps
	skew   time.Duration // of the clock on the node's wall, which may

	disk      *disk
	node      *node
	past      int // writes of earlier nodes
	engine    *engine.Engine
	back      time.Duration // when Vault comes back, while engine is nil
	restarted bool
	tick      time.Duration // when the engine looks next
	calls     []call        // to servers, under way

	server     *server
	issuer     *issuer
	db         *database
	keys       []string        // names
	edited     map[string]bool // by workload/key: roles that an operator has added
	serverKind map[string]bool
	workloads  []string
	procs      []*process
	born       int
	tokens     int // logins

	leases     map[leaseID]time.Time // by the clock on the wall
	leasesAt   map[leaseID]time.Duration
	leaseOrder []leaseID

	people time.Duration // when operators act next
	mishap time.Duration // when the next thing happens to instances or clocks
	writer time.Duration // when the application writes rows next
	kills  int           // how often Vault is still killed soon after it has come back
	storm  bool          // the next mishap is such a kill

	looks      bool          // the engine looks at rows itself
	lying      bool          // one instance of each workload reports anything at any time
	looked     time.Duration // when settled has looked
	calm       bool
	lenient    bool                         // operators have begun to require no proofs
	backups    int                          // undeletions since it is calm
	changed    bool                         // something that check looks at
	groups     map[string][]rotation.Change // of rotations of several keys, by id
	cut        map[string]bool              // keys that were rotated as compromised
	loses      string                       // a path below which nothing is stored, of a machine that is broken; empty: none is
	stats      Stats
	violations []error
}

// call is a call to a server under way.
type call struct {
	at   time.Duration
	node *node
	do   func()
}

var epoch = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)

func (w *world) now() time.Time { return epoch.Add(w.uptime + w.skew) }

func (w *world) logf(format string, args ...any) {
	if w.log != nil {
		fmt.Fprintf(w.log, "%9.3fs  %s\n", w.uptime.Seconds(), fmt.Sprintf(format, args...))
	}
}

func (w *world) violate(format string, args ...any) {
	w.violations = append(w.violations, fmt.Errorf(format, args...))
	w.logf("VIOLATION: %v", w.violations[len(w.violations)-1])
}

func (w *world) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.rng.Int64N(int64(high-low)))
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) writes() int { return w.past + w.node.writes }

// step goes to whatever is next, and does it.
func (w *world) step() {
	next, do := w.tick, w.engineTick
	sooner := func(at time.Duration, f func()) {
		if at < next {
			next, do = at, f
		}
	}
	if w.engine == nil {
		next, do = w.back, w.open
	}
	for n, c := range w.calls {
		sooner(c.at, func() { w.serverCall(n) })
	}
	for _, p := range w.procs {
		if p.alive {
			sooner(p.next, p.act)
		}
	}
	sooner(w.writer, w.write)
	if !w.calm {
		sooner(w.mishap, w.misfortune)
	}
	sooner(w.people, w.operate)
	w.uptime = max(w.uptime, next)
	do()
	w.expire()
	w.bury()
	if w.changed {
		w.changed = false
		w.check()
	}
}

// engineTick lets the engine look.
func (w *world) engineTick() {
	wait := w.engine.Tick(ctx)
	w.tick = w.uptime + min(wait, time.Second)
	w.changed = true
}

// background takes what the engine does beside its lock: calls to servers, which take their time.
func (w *world) background(do func()) {
	w.calls = append(w.calls, call{w.uptime + w.between(10*time.Millisecond, 2*time.Second), w.node, do})
}

func (w *world) serverCall(n int) {
	c := w.calls[n]
	w.calls = append(w.calls[:n:n], w.calls[n+1:]...)
	if c.node == w.node && !c.node.dead {
		c.do()
		w.tick = w.uptime
	}
	w.changed = true
}

// bury notes that the engine's process has died, and for how long Vault is away.
func (w *world) bury() {
	if w.engine == nil {
		return
	}
	if !w.node.dead && w.engine.Stale() { // the plugin opens another one at the next request
		w.logf("the engine is stale")
		w.engine, w.calls = nil, nil
		w.node.dead = true
		w.back = w.uptime + time.Millisecond
		return
	}
	if !w.node.dead {
		return
	}
	w.stats.Crashes++
	w.engine, w.calls, w.restarted = nil, nil, true
	away := w.between(time.Second, 10*time.Second)
	if !w.calm && w.chance(20) {
		away = w.between(10*time.Second, 5*time.Minute)
	}
	w.back = w.uptime + away
	w.logf("Vault is away for %s", away)
	w.straggle()
}

// open starts an engine on what storage holds: after a crash, or on another node, whose clock is not quite the same.
func (w *world) open() {
	if !w.calm && w.chance(30) {
		w.skew += w.between(-2*time.Second, 2*time.Second)
	}
	if w.restarted { // a restarted Vault goes by the clock on the wall
		for id, at := range w.leases {
			w.leasesAt[id] = w.uptime + at.Sub(w.now())
		}
		w.restarted = false
	}
	if w.node != nil {
		w.past += w.node.writes
	}
	w.node = &node{w: w}
	e, err := engine.Open(ctx, w.options())
	if err == nil {
		err = e.Begin(ctx)
	}
	if err != nil {
		w.expect(err, "open")
		w.back = w.uptime + time.Second
		return
	}
	w.engine, w.tick = e, w.uptime
	w.logf("Vault is back")
	w.again()
}

var (
	errCrashed = errors.New("simulated: the process is gone")
	errStore   = errors.New("simulated: storage failed")
)

// disk is what storage holds. It survives every crash.
type disk struct {
	data  map[string][]byte
	paths []string // of data, sorted
}

func (d *disk) put(path string, data []byte) {
	if _, ok := d.data[path]; !ok {
		at, _ := slices.BinarySearch(d.paths, path)
		d.paths = slices.Insert(d.paths, at, path)
	}
	d.data[path] = slices.Clone(data)
}

func (d *disk) remove(path string) {
	if _, ok := d.data[path]; ok {
		at, _ := slices.BinarySearch(d.paths, path)
		d.paths = slices.Delete(d.paths, at, at+1)
		delete(d.data, path)
	}
}

// node is one life of the engine's process: its handle on storage. A dead node reaches nothing any more.
type node struct {
	w      *world
	dead   bool
	writes int
}

var _ engine.Store = (*node)(nil)

// write makes one write, or crashes before or after it, or fails with or without its taking effect.
func (n *node) write(what string, do func()) error {
	if n.dead {
		return errCrashed
	}
	n.writes++
	switch f := n.w.fault(); f {
	case crashBefore, crashAfter:
		if f == crashAfter {
			do()
		}
		n.w.logf("crash %s write of %s", f, what)
		n.dead = true
		return errCrashed
	case failBefore, failAfter:
		if f == failAfter {
			do()
		}
		n.w.logf("failure %s write of %s", f, what)
		return errStore
	case noFault:
	}
	do()
	return nil
}

// Get implements rotation.Store.
func (n *node) Get(_ context.Context, path string) ([]byte, error) {
	if n.dead {
		return nil, errCrashed
	}
	return n.w.disk.data[path], nil
}

// Put implements rotation.Store.
func (n *node) Put(_ context.Context, path string, data []byte) error {
	return n.write(path, func() {
		if n.w.loses == "" || !strings.HasPrefix(path, n.w.loses) {
			n.w.disk.put(path, data)
		}
	})
}

// Delete implements rotation.Store.
func (n *node) Delete(_ context.Context, path string) error {
	return n.write(path, func() { n.w.disk.remove(path) })
}

// List implements rotation.Store.
func (n *node) List(_ context.Context, prefix string) ([]string, error) {
	if n.dead {
		return nil, errCrashed
	}
	var names []string
	paths := n.w.disk.paths
	at, _ := slices.BinarySearch(paths, prefix)
	for ; at < len(paths) && strings.HasPrefix(paths[at], prefix); at++ {
		rest := paths[at][len(prefix):]
		if dir, _, nested := strings.Cut(rest, "/"); nested {
			rest = dir + "/"
		}
		if len(names) == 0 || names[len(names)-1] != rest {
			names = append(names, rest)
		}
	}
	return names, nil
}

// fault is what goes wrong with a write or with a call.
type fault string

const (
	noFault     fault = ""
	crashBefore fault = "before" // the process dies, and nothing happened
	crashAfter  fault = "after"  // the process dies, and it happened
	failBefore  fault = "without effect"
	failAfter   fault = "with effect" // a lost reply
)

// fault draws what goes wrong with a write or call of the engine.
func (w *world) fault() fault {
	if w.calm {
		return noFault
	}
	switch n := w.rng.IntN(400); {
	case n < 2:
		return crashBefore
	case n < 4:
		return crashAfter
	case n < 6:
		return failBefore
	case n < 8:
		return failAfter
	}
	return noFault
}
