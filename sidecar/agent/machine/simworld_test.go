// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// world is all that the agent meets, made of one seed.
type world struct {
	rng  *rand.Rand
	log  io.Writer
	now  Moment
	next nextFunc

	s        State
	effects  []Effect
	settings Settings
	killed   bool // by the effect that was under way
	calmed   bool
	another  bool // the configuration that comes is of another instance
	former   bool // the instance of the configuration before is held
	beside   bool // the workload may have run when the process was to end

	request   *sent    // nil: none is under way
	reported  reported // by this process
	engine    engine
	disk      disk
	workload  instance
	held      bundleOf     // what this process has read last
	applied   bundleOf     // what it knows the files to hold
	secret    int          // that this process would save
	copied    bundleOf     // what it has tried to keep a copy of
	knows     bool         // the reloader knows by itself whether the workload has read the files
	prepared  *preparation // nil: nothing stands beside the files
	since     Moment       // when this process has written files; Never: it has found a note
	mishap    Moment       // when something happens next
	watch     Moment       // when the watch that is open ends; Never: none is
	signaled  int          // the write for which the workload was signaled last
	acked     int          // the same, as the disk knows
	stats     coverage
	violation error
}

// bundleOf is a bundle.
type bundleOf struct {
	etag    string
	content int // 0: there is none
}

// preparation is what stands beside the files.
type preparation struct {
	bundleOf
	changes bool
}

// engine is Vault with the engine.
type engine struct {
	down    bool // it is not reached
	denies  bool // it takes no token
	old     bool // its policy lets nobody write to creds
	changes int
	before  int // another content
	bundleOf
	contents     map[string]int // by etag
	secret       int            // of the newest read
	retryAfter   time.Duration
	heard        string // etag that was reported last
	heardHealthy bool
}

// disk outlives the sidecar.
type disk struct {
	full    bool
	content int         // -1: of several bundles
	writes  int         // how often content has changed
	written map[int]int // the last write of a content
	note    bool
	copy    bundleOf
	secret  int
}

// unknown is what a workload has read that was started from elsewhere; the next look at it finds out.
const unknown = -1

// instance is the workload.
type instance struct {
	running bool
	started Moment
	read    int // the write that it has read
	ill     bool
	deaf    bool // a reload fails
}

func newWorld(seed uint64, next nextFunc, log io.Writer) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), log: log, next: next, watch: Never}
	w.engine.contents, w.disk.written = map[string]int{}, map[int]int{}
	w.workload.running, w.knows = w.one(2), w.one(3)
	w.change()
	w.mishap = w.between(time.Second, 20*time.Second)
	w.configure()
	w.restart()
	return w
}

func (w *world) logf(format string, args ...any) {
	if w.log != nil {
		fmt.Fprintf(w.log, "%12s  %s\n", w.now, fmt.Sprintf(format, args...))
	}
}

func (w *world) violate(format string, args ...any) {
	if w.violation == nil {
		w.violation = fmt.Errorf(format, args...)
		w.logf("VIOLATION: %v", w.violation)
	}
}

func (w *world) one(in int) bool { return w.rng.IntN(in) == 0 }

// mishaps reports whether something goes wrong once in so many times. When it is calm nothing does.
func (w *world) mishaps(in int) bool { return w.one(in) && !w.calmed }

func (w *world) between(least, limit time.Duration) time.Duration {
	return least + time.Duration(w.rng.Int64N(int64(limit-least)))
}

// configure draws a configuration.
func (w *world) configure() {
	w.settings = Settings{
		Reloads: WithReload, Checks: WithChecks, Copies: WithCopy, Patience: 2 * time.Second, Interval: w.between(100*time.Millisecond, 5*time.Second),
		Deadline: w.between(time.Second, 30*time.Second), Successes: 1 + w.rng.IntN(2), Failures: 1 + w.rng.IntN(3), OnStop: HoldOnStop,
	}
	if w.one(4) {
		w.settings.OnStop = LeaveOnStop
	}
	if w.one(6) {
		w.settings.Reloads = WithoutReload
	}
	if w.one(4) {
		w.settings.Checks = WithoutChecks
	}
	if w.one(3) {
		w.settings.Copies = WithoutCopy
	}
	if w.knows || w.one(3) {
		w.settings.LookEvery = w.between(300*time.Millisecond, 20*time.Second)
	}
}

// restart starts a process, perhaps after another one.
func (w *world) restart() {
	w.logf("a process starts")
	w.advance(w.between(0, 3*time.Second))
	w.cancel()
	w.reported = reported{}
	w.killed, w.prepared, w.held, w.applied, w.watch, w.since, w.secret, w.former = false, nil, bundleOf{}, bundleOf{}, Never, Never, w.disk.secret, false
	w.s, w.effects = Begin(Start(w.settings, w.noted(), w.now), w.now)
}

// noted is the reload that the note on the disk says.
func (w *world) noted() Reload {
	if w.disk.note && w.settings.Reloads == WithReload && !w.knows {
		return ReloadPending
	}
	return NoReload
}

// change lets the engine want another bundle, of the same content now and then, or of one that was there before.
func (w *world) change() {
	e := &w.engine
	e.changes++
	e.etag = fmt.Sprintf("e%d", e.changes)
	switch {
	case e.content == 0 || w.one(3):
		e.before, e.content = e.content, e.changes
	case e.before > 0 && w.one(2):
		e.before, e.content = e.content, e.before
	case w.one(3):
		e.content = 1 + w.rng.IntN(e.changes)
	}
	e.contents[e.etag] = e.content
	if w.watch != Never {
		w.watch = min(w.watch, w.now+w.between(0, 50*time.Millisecond))
	}
}

// advance lets time pass, and happen what is to happen.
func (w *world) advance(d time.Duration) {
	for end := w.now + d; ; {
		if w.mishap > end {
			w.now = end
			return
		}
		w.now = w.mishap
		w.mishap = w.now + w.between(time.Second, 30*time.Second)
		if w.calmed {
			w.mishap = Never
		} else {
			w.happen()
		}
	}
}

// happen is one thing that happens to the world.
func (w *world) happen() {
	switch w.rng.IntN(11) {
	case 0, 1, 2:
		w.change()
		w.logf("the engine wants %s, of content %d", w.engine.etag, w.engine.content)
	case 3:
		w.engine.down = !w.engine.down
	case 4:
		w.engine.denies = w.one(2)
	case 5:
		w.engine.old = w.one(2)
	case 6:
		w.disk.full = !w.disk.full
	case 7:
		w.workload.deaf = !w.workload.deaf
	case 8:
		w.workload.ill = !w.workload.ill
	case 9:
		w.workload.running = w.one(2)
		w.start()
	case 10:
		w.start()
		if w.knows { // from elsewhere, so that nobody knows what it has read
			w.workload.read, w.signaled, w.acked = unknown, 0, 0
		}
	}
	if w.one(6) && w.disk.content > 0 && w.s.Settings.LookEvery > 0 { // somebody changes what was written
		w.disk.content = -1
	}
	if w.one(40) { // the machine slept
		w.now += w.between(time.Minute, time.Hour)
	}
}

// start starts the workload, if it is to run. It reads its files.
func (w *world) start() {
	if w.workload.running {
		w.logf("the workload starts on its own")
		w.workload.started, w.workload.read = w.now, w.disk.writes
	}
}

// calm ends all that goes wrong.
func (w *world) calm() {
	w.logf("calm")
	w.calmed, w.engine.down, w.engine.denies, w.engine.retryAfter, w.disk.full = true, false, false, 0, false
	w.workload.deaf, w.workload.ill = false, false
	if !w.workload.running {
		w.workload.running = true
		w.start()
	}
}

// settled reports whether all is as it should be.
func (w *world) settled() bool {
	loaded := w.s.Settings.Reloads == WithoutReload || w.workload.read == w.disk.writes
	return !w.former && w.disk.content == w.engine.content && loaded && w.engine.heard == w.engine.etag && w.engine.heardHealthy
}

// wait waits for the request or the watch, for a timer, or for news.
func (w *world) wait() Event {
	at, kind := w.s.Timers.First()
	news, ends := w.now+w.between(0, 2*time.Minute), Never
	if w.calmed {
		news = Never
	}
	if w.request != nil {
		if ends = w.request.ends; w.mishaps(20) {
			news = w.now + w.between(0, max(ends-w.now, 1))
		}
	}
	first := min(at, w.watch, news, ends)
	if first > w.now+time.Hour {
		w.violate("it waits for nothing: %+v", w.s)
		return Event{Kind: Stop}
	}
	for w.now < first { // the watch may end sooner than it was to
		w.advance(min(first-w.now, time.Second))
		first = min(at, w.watch, news, ends)
	}
	switch first {
	case ends:
		return w.ended()
	case w.watch:
		w.watch = Never
		return w.watched()
	case at:
		return Event{Kind: kind}
	default:
		return w.news()
	}
}

func (w *world) watched() Event {
	switch {
	case w.engine.down:
		return Event{Kind: Unavailable, Of: StartWatch}
	case w.engine.denies:
		return Event{Kind: Denied, Of: StartWatch}
	case w.mishaps(20):
		return Event{Kind: Superseded}
	case w.mishaps(20):
		return Event{Kind: Quiet, RetryAfter: w.between(0, time.Minute)}
	case w.engine.etag != w.held.etag:
		return Event{Kind: Changed}
	}
	return Event{Kind: Quiet}
}

// ends lets the process end, with its workload or beside it.
func (w *world) ends() Event {
	switch w.beside = true; {
	case w.one(3):
		w.workload.running, w.beside = false, false
		return Event{Kind: WorkloadGone, Reason: "it failed"}
	case !w.workload.running && w.one(2):
		w.beside = false
		return Event{Kind: StopAfter}
	}
	return Event{Kind: Stop}
}

// news comes from elsewhere.
func (w *world) news() Event {
	switch w.rng.IntN(6) {
	case 0:
		return Event{Kind: WorkNews}
	case 1:
		return Event{Kind: Sighted}
	case 2:
		w.configure()
		w.another = w.one(3)
		if w.another {
			return Event{Kind: Renamed}
		}
		return Event{Kind: Reconfigured}
	case 3:
		return w.ends()
	}
	return Event{Kind: WorkNews}
}
