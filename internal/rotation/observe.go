// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
)

const (
	// DenseTime is for how long servers are sampled densely, without a break, before an old version is retired.
	DenseTime = 10 * time.Second
	// denseBreak is the longest break between two dense samples that count as one.
	denseBreak = 200 * time.Millisecond
	// observeGap is the longest time without a sample within a window.
	observeGap = 5 * time.Second
	// revertTime is for how long servers are sampled for use of the new version before a revert takes it back.
	revertTime = 2 * time.Second
	// shortFactor is how many times as long the window is where logins were too short to see whose they were, and shortTime
	// how long it becomes by that at most.
	shortFactor = 6
	shortTime   = time.Minute
)

// Observation is what samples of the servers have shown of a rotation's old versions. It is not stored: after a restart
// of the engine nobody knows who used an old version meanwhile, so the window starts again.
type Observation struct {
	Since time.Time // when the first of the samples without use was taken
	Dense time.Time // when the first of the dense ones at the end of these began; zero: the last sample was not dense
	Until time.Time // when the last sample ended; zero: there was none
	Seen  time.Time // when an old version was seen in use last; zero: never
	Use   string    // by whom
	Short string    // logins since then that were too short to see whose they were; empty: none
	Fault string    // why the last attempt to take a sample failed; empty: it did not
}

// used returns the observation with a sample that saw use.
func (o Observation) used(end time.Time, use string) Observation {
	return Observation{Since: end, Until: end, Seen: end, Use: use}
}

// unused returns the observation with a sample that saw no use. A dense one has a length; 0: it was a single look. A dense
// sample counts for its length only, at the end of the call: before, the call may have waited for others.
func (o Observation) unused(begin, end time.Time, dense time.Duration) Observation {
	o.Fault = ""
	if o.Until.IsZero() || begin.Sub(o.Until) > observeGap || end.Before(o.Until) {
		o.Since, o.Short = begin, ""
	}
	switch {
	case dense == 0:
		o.Dense = time.Time{}
	case o.Dense.IsZero() || begin.Sub(o.Until) > denseBreak || end.Sub(begin) > dense+2*denseBreak || o.Dense.Before(o.Since):
		o.Dense = end.Add(-dense)
	}
	o.Until = end
	return o
}

// needs returns for how long nobody may be seen, and how much of that, at its end, is sampled densely. Where logins were too
// short to see whose they were, it is longer: a client that comes back is seen sooner or later.
func (r Rotation) needs(o Observation) (window, dense time.Duration) {
	if o.Short == "" {
		return r.window(), r.denseTime()
	}
	longer := max(r.window(), min(shortFactor*r.window(), shortTime))
	return longer, longer
}

// window is for how long nobody may be seen using an old version before it is retired.
func (r Rotation) window() time.Duration { return max(r.Soak, r.Observe) }

// denseTime is how much of the window, at its end, is sampled densely.
func (r Rotation) denseTime() time.Duration { return min(r.window(), DenseTime) }

// checkObserved looks at samples of the servers: each session of an old version starts the window again.
func checkObserved(r Rotation, f Facts) []string {
	o := f.Observed
	switch {
	case !f.Sampled:
		return nil
	case o.Fault != "":
		return []string{"cannot see whether the old version is in use: " + o.Fault}
	case o.Until.IsZero():
		return []string{"looking at the servers for use of the old version"}
	case f.Now.Sub(o.Until) > observeGap:
		text := fmt.Sprintf("the last look at the servers was %s ago", f.Now.Sub(o.Until).Round(time.Second))
		if o.Use != "" {
			text += ": " + o.Use
		}
		return []string{text}
	}
	window, denseTime := r.needs(o)
	quiet, dense := o.Until.Sub(o.Since), time.Duration(0)
	if !o.Dense.IsZero() {
		dense = o.Until.Sub(o.Dense)
	}
	switch {
	case o.Until.Equal(o.Seen):
		return []string{fmt.Sprintf("%s; waiting until nobody has used it for %s", o.Use, r.window())}
	case quiet >= window && (dense >= denseTime || !f.Dense):
		return nil
	}
	left := max(window-quiet, 0)
	if f.Dense {
		left = max(left, denseTime-dense)
	}
	left = left.Round(time.Second)
	text := fmt.Sprintf("nobody was seen using the old version for %s; %s left of %s", quiet.Round(time.Second), left, window)
	if o.Short != "" {
		text += ", which is longer since " + o.Short
	}
	if o.Use != "" {
		text += fmt.Sprintf(" (%s ago: %s)", f.Now.Sub(o.Seen).Round(time.Second), o.Use)
	}
	return []string{text}
}

// samples reports whether servers are sampled at the rotation's step.
func (r Rotation) samples() bool {
	return r.Paused == nil && r.at().samples && (r.Step != StepSoak || r.Acted && r.window() > 0)
}

// wantsDense reports whether the rotation could retire the old version once dense samples have seen nobody. It is not so
// while something else holds it back: a rotation may wait for days for its confirmation.
func (r Rotation) wantsDense(f Facts) bool {
	o := f.Observed
	if !f.Dense || r.denseTime() == 0 || o.Fault != "" || o.Until.IsZero() || o.Until.Equal(o.Seen) {
		return false // after a look that failed or saw somebody, the next one waits for its time
	}
	window, dense := r.needs(o)
	if window-o.Until.Sub(o.Since) > dense {
		return false
	}
	if r.Step == StepSoak {
		return !r.SoakFrom.IsZero() && r.SoakFrom.Add(r.Soak).Sub(f.Now) <= dense
	}
	results, _ := gates(r, f)
	for _, g := range results {
		if !g.Holds && g.Name != string(gateObserved) {
			return false
		}
	}
	return true
}

const (
	// lookEvery is how often servers are looked at for use of an old version while the end of its window is not near.
	lookEvery = time.Second
	// denseSlice is the length of one dense sample. A longer one would hold an administrator's session for longer.
	denseSlice = time.Second
)

// sample takes the next sample of a rotation's servers in the background, if one is due. The writer lock is held.
func (e *Engine) sample(r Rotation) {
	if !r.samples() || e.busy[r.ID] {
		return
	}
	f := e.facts(r)
	if !f.Sampled {
		return
	}
	dense := r.wantsDense(f)
	if o := f.Observed; !dense && !o.Until.IsZero() && f.Now.Sub(o.Until) < lookEvery && !f.Now.Before(o.Until) {
		return
	}
	calls, err := e.serverCalls(r, actSample)
	if err != nil || len(calls) == 0 {
		e.observe(r.ID, func(o Observation) Observation {
			return Observation{Until: f.Now, Since: f.Now, Fault: fmt.Sprint(err)}
		})
		return
	}
	e.busy[r.ID] = true
	e.Background(func() {
		e.observeWith(r, calls, dense)
		defer e.takeTurn()()
		defer e.nudge()
		delete(e.busy, r.ID)
		if e.failing() {
			return
		}
		if err := e.advance(e.ctx, r.ID); err != nil {
			e.Observer.Fault("rotation "+r.ID+" could not be moved on", err)
		}
	})
}

// observeWith takes one sample, or dense ones until they are enough, or one has seen somebody.
func (e *Engine) observeWith(r Rotation, calls []serverCall, dense bool) {
	for {
		slice := time.Duration(0)
		if dense {
			slice = denseSlice
		}
		begin := e.Now()
		err := e.sampleAll(calls, slice)
		end := e.Now()
		var use inUse
		var short kind.Unattributed
		o := e.observe(r.ID, func(o Observation) Observation {
			switch {
			case errors.As(err, &use):
				return o.used(end, use.text)
			case errors.As(err, &short):
				o = o.unused(begin, end, slice)
				o.Short = short.Error()
				return o
			case err != nil:
				return Observation{Since: end, Until: end, Seen: o.Seen, Use: o.Use, Fault: err.Error()}
			}
			return o.unused(begin, end, slice)
		})
		_, enough := r.needs(o)
		if !dense || o.Fault != "" || o.Until.Equal(o.Seen) || e.ctx.Err() != nil || o.Dense.IsZero() || o.Until.Sub(o.Dense) >= enough || end.Sub(begin) < slice/2 || !e.still(r) {
			return
		}
	}
}

// still reports whether a rotation is where it was, and not paused.
func (e *Engine) still(r Rotation) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	now, ok := e.active[r.ID]
	return ok && now.State == r.State && now.Paused == nil
}

// observe replaces what is known of the use of a rotation's old versions, and returns it.
func (e *Engine) observe(id string, change func(Observation) Observation) (o Observation) {
	e.lock(func() {
		o = change(e.observed[id])
		e.observed[id] = o
	})
	return o
}

// sampleAll samples the servers of several keys at the same time. Its error is of all of them.
func (e *Engine) sampleAll(calls []serverCall, long time.Duration) error {
	ctx, cancel := context.WithTimeout(e.ctx, actionDeadline)
	defer cancel()
	errs := make([]error, len(calls))
	var busy sync.WaitGroup
	for n, call := range calls {
		if long == 0 { // it takes a moment only
			errs[n] = call(ctx, 0)
			continue
		}
		busy.Go(func() { errs[n] = call(ctx, long) })
	}
	busy.Wait()
	var seen []string
	var short error
	for _, err := range errs {
		if use := (inUse{}); errors.As(err, &use) {
			seen = append(seen, use.text)
		} else if errors.As(err, new(kind.Unattributed)) {
			short = err
		} else if err != nil {
			return err
		}
	}
	if len(seen) > 0 {
		return inUse{strings.Join(seen, "; ")}
	}
	return short
}

// sampled reports whether a server can be asked who uses a rotation's old versions, and whether all such servers can be
// sampled densely. mu is held.
func (e *Engine) sampled(r Rotation) (sampled, dense bool) {
	dense = true
	for _, c := range r.Changes {
		server, ok := e.kindOf(e.keys[c.Key]).(kind.Server)
		_, sampler := server.(kind.Sampler)
		sampled, dense = sampled || ok, dense && (!ok || sampler)
	}
	return sampled, sampled && dense
}

// unused returns an error while the server says that From is in use, at once or at any moment for that long.
func unused(ctx context.Context, server kind.Server, c kind.Change, long time.Duration) error {
	look := server.InUse
	if sampler, ok := server.(kind.Sampler); ok && long > 0 {
		look = func(ctx context.Context, c kind.Change) (int, string, error) { return sampler.Sample(ctx, c, long) }
	}
	count, use, err := look(ctx, c)
	if count > 0 && errors.As(err, new(kind.Unattributed)) {
		err = nil
	}
	if err == nil && count > 0 {
		err = inUse{fmt.Sprintf("%s: version %d is in use: %s", c.Key.Env, c.From.Number, use)}
	}
	return err
}

// unusedStill is unused once more, right before a version is taken away. Logins that are too short to see whose they were do
// not hold that up: the samples that opened the way have taken them into account.
func unusedStill(ctx context.Context, server kind.Server, c kind.Change, long time.Duration) error {
	err := unused(ctx, server, c, long)
	if errors.As(err, new(kind.Unattributed)) {
		return nil
	}
	return err
}
