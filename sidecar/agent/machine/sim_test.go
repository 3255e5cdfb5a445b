// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	seedFlag = flag.Uint64("seed", 0, "run this seed alone and print what happens")
	seeds    = flag.Int("seeds", 200, "how many seeds to run")
	from1    = flag.Uint64("from", 1, "the first of them")
)

// nextFunc is Next, or a broken one.
type nextFunc func(State, Event) (State, []Effect)

const (
	chaosTime = 10 * time.Minute // for so long things go wrong
	calmTime  = 30 * time.Minute // within so long after it everything must be as it should be
)

// simulate runs the machine in the world of a seed and returns what did not hold.
func simulate(seed uint64, next nextFunc, log io.Writer) (*world, error) {
	w := newWorld(seed, next, log)
	for w.now < chaosTime && w.violation == nil {
		w.step()
	}
	w.calm()
	for end := w.now + calmTime; w.violation == nil && !w.settled(); w.step() {
		if w.now > end {
			w.violate("after %s of calm: files hold %d, the workload read write %d of %d, the engine heard %q (healthy: %v) and wants %q; state %+v",
				calmTime, w.disk.content, w.workload.read, w.disk.writes, w.engine.heard, w.engine.heardHealthy, w.engine.etag, w.s)
		}
	}
	if w.violation != nil {
		return w, fmt.Errorf("seed %d, at %s: %w", seed, w.now, w.violation)
	}
	return w, nil
}

// step performs effects and takes one event, or starts the next process.
func (w *world) step() {
	e, ok := Perform(w.effects, w.perform)
	w.effects = nil
	switch {
	case w.killed, w.s.Life == Ended:
		w.restart()
		return
	case !ok:
		w.checkWaiting()
		if e = w.wait(); w.request != nil && w.kills() {
			return
		}
	}
	e.At, e.Draw = w.now, w.rng.Float64()
	w.logf("%s %s%s", e.Kind, e.Held.Etag, e.Etag)
	w.stats.count(w.s, e)
	w.s, w.effects = w.next(w.s, e)
	w.checkState()
}

// coverage counts what worlds have seen.
type coverage struct {
	rows                            [32][32]int // how often each row of each region was the one that counted
	kills, reports, signals, writes int
}

func (c *coverage) count(s State, e Event) {
	for r, region := range regions {
		if n := region.(finder).find(&s, e); n >= 0 {
			c.rows[r][n]++
		}
	}
}

func (c *coverage) add(o *coverage) {
	for r := range c.rows {
		for n := range c.rows[r] {
			c.rows[r][n] += o.rows[r][n]
		}
	}
	c.kills, c.reports, c.signals, c.writes = c.kills+o.kills, c.reports+o.reports, c.signals+o.signals, c.writes+o.writes
}

type finder interface {
	find(s *State, e Event) int
}

type describer interface {
	describe() description
}

// TestSimulation runs many worlds: lost answers, kills between any two effects, jumps of the clock, Vault away, reloads and
// writes that fail, workloads that restart on their own. A seed that fails is named, with the command that tells its story.
func TestSimulation(t *testing.T) {
	if *seedFlag != 0 {
		if _, err := simulate(*seedFlag, Next, os.Stdout); err != nil {
			t.Fatal(err)
		}
		return
	}
	begun, total := time.Now(), &coverage{}
	var (
		mu      sync.Mutex
		started int
		failed  int
		group   sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for {
				mu.Lock()
				seed := *from1 + uint64(started)
				started++
				stop := started > *seeds || failed >= 5
				mu.Unlock()
				if stop {
					return
				}
				w, err := simulate(seed, Next, nil)
				mu.Lock()
				total.add(&w.stats)
				if err != nil {
					failed++
					t.Errorf("%v\nlook at it with: make sim-agent SEED=%d", err, seed)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("%d seeds in %s: %d kills, %d reports, %d reloads, %d writes", *seeds, time.Since(begun).Round(time.Millisecond), total.kills, total.reports, total.signals, total.writes)
	if *seeds >= 10_000 && failed == 0 {
		for _, missing := range unused(total) {
			t.Errorf("these worlds never use: %s", missing)
		}
		if total.kills < *seeds || total.reports < 10**seeds || total.signals < *seeds {
			t.Errorf("these worlds are too quiet to prove anything")
		}
	}
}

// unused are the rows that change something, and that no world has used.
func unused(total *coverage) (missing []string) {
	for r, region := range regions {
		d := region.(describer).describe()
		for n, row := range d.rows {
			if total.rows[r][n] == 0 && (row.to != "" || len(row.do) > 0) {
				missing = append(missing, fmt.Sprintf("%s: from %v on %v where %q", d.name, row.from, row.on, row.when))
			}
		}
	}
	return missing
}

// The same seed makes the same world, word for word.
func TestSeedsRepeat(t *testing.T) {
	for seed := range uint64(5) {
		var once, again strings.Builder
		_, _ = simulate(seed+1, Next, &once)
		_, _ = simulate(seed+1, Next, &again)
		if once.Len() < 1000 || once.String() != again.String() {
			t.Errorf("seed %d: %d bytes, then %d others", seed+1, once.Len(), again.Len())
		}
	}
}

// Each invariant of the simulation finds a machine that breaks it.
func TestSimulationFindsBrokenMachines(t *testing.T) {
	without := func(effects []Effect, gone Do) (kept []Effect) {
		for _, e := range effects {
			if e.Do != gone {
				kept = append(kept, e)
			}
		}
		return kept
	}
	omits := func(gone Do) nextFunc {
		return func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			return next, without(effects, gone)
		}
	}
	for name, c := range map[string]struct {
		next nextFunc
		says string
	}{
		"reports what is written": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if e.Kind == Wrote {
				next.Load, next.Loaded = Loaded, next.Held.Etag
			}
			return next, effects
		}, "reported as loaded"},
		"reports a bundle that is only held": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if next.Load == Loaded {
				next.Loaded = next.Held.Etag
			}
			return next, effects
		}, "reported as loaded"},
		"keeps the proof of what was loaded before": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if e.Kind == Wrote {
				next.Proof = s.Proof
			}
			return next, effects
		}, "with the proof"},
		"forgets a reload that failed": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if e.Kind == ReloadFailed {
				next.Reload = NoReload
			}
			return next, effects
		}, "reload is lost"},
		"forgets a reload when nothing runs": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if e.Kind == NotRunning {
				next.Reload = NoReload
			}
			return next, effects
		}, "reload is lost"},
		"never looks again when nothing runs after a fault": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if e.Kind == NotRunning && next.Faults > 0 {
				next.Check, next.Timers[TimerCheck] = CheckOff, Never
			}
			return next, effects
		}, "no check is to come"},
		"notes no reload": {omits(NoteReload), "reload is lost"},
		"clears the note too early": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if e.Kind == Wrote {
				effects = append([]Effect{{Do: ClearNotes}}, effects...)
			}
			return next, effects
		}, "reload is lost"},
		"prepares nothing": {omits(PrepareFiles), "without a bundle"},
		"keeps no copy":    {omits(KeepCopy), "older than the files"},
		"writes before there is a bundle": {func(s State, e Event) (State, []Effect) {
			if e.Kind == Unavailable && s.Files == FilesBlank {
				s.Files = FilesDue
			}
			return Next(s, e)
		}, "without a bundle"},
		"writes before the secret is saved": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if e.Kind == BundleRead && next.Files == FilesDue {
				next.Secret = SecretSaved
				return due(next, e.At, without(effects, SaveSecret))
			}
			return next, effects
		}, "before its secret is saved"},
		"reloads for the same content": {func(s State, e Event) (State, []Effect) {
			if e.Kind == Wrote {
				e.Reload = ReloadPending
			}
			return Next(s, e)
		}, "made to reload again"},
		"reloads for another etag": {func(s State, e Event) (State, []Effect) {
			if e.Kind == BundleRead && s.Files == FilesWritten && e.Held.Etag != s.Held.Etag {
				s.Reload, s.Check = ReloadPending, CheckDue
			}
			return Next(s, e)
		}, "made to reload again"},
		"never asks again": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if e.Kind == Unavailable {
				next.Timers[TimerPause] = Never
			}
			return next, effects
		}, "pause"},
		"leaves the former instance too early": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if e.Kind == Adopted && next.Former == FormerHeld {
				next.Former, effects = NoFormer, append([]Effect{{Do: LeaveFormer}}, effects...)
			}
			return next, effects
		}, "before the workload has loaded"},
		"gives the lease back beside the workload": {func(s State, e Event) (State, []Effect) {
			if e.Kind == Stop {
				e.Kind = StopAfter
			}
			return Next(s, e)
		}, "beside a workload that runs"},
		"never leaves the former instance": {omits(LeaveFormer), "calm"},
		"loses a report that fails": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if s.Request == Reporting && e.Kind == Unavailable {
				next.Report = NoReport
			}
			return next, effects
		}, "a report is lost"},
		"loses a report that is canceled": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if s.Request == Reporting && e.Kind == Renamed {
				next.Report = NoReport
			}
			return next, effects
		}, "a report is lost"},
		"takes a report for one of what happened meanwhile": {func(s State, e Event) (State, []Effect) {
			if s.Request == Reporting && e.Kind == Reported {
				s.Report = NoReport
			}
			return Next(s, e)
		}, "a report is lost"},
		"starts two requests": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if next.Request == Reading && e.Kind != LoggedIn {
				next.Request = NoRequest
			}
			return next, effects
		}, "there are two requests"},
		"takes the result of a request that is canceled": {omits(CancelRequest), "beside a request"},
		"starts a request while another one is canceled": {omits(CancelRequest), "there are two requests"},
		"forgets a request when the token ends": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if e.Kind == TokenTime && next.Token == NoToken {
				next.Request = NoRequest
			}
			return next, effects
		}, "that nobody waits for"},
		"cancels nothing at the end": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if e.Kind == Stop {
				effects = without(effects, CancelRequest)
			}
			return next, effects
		}, "beside a request"},
		"settles for ever": {func(s State, e Event) (State, []Effect) {
			next, effects := Next(s, e)
			if s.Load == Settling && e.Kind == WriteFailed {
				next.Load = Settling
			}
			return next, effects
		}, "settles"},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed <= 2000; seed++ {
				if _, err := simulate(seed, c.next, nil); err != nil {
					if !strings.Contains(err.Error(), c.says) {
						continue
					}
					return
				}
			}
			t.Errorf("no world finds that %q", c.says)
		})
	}
}
