// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
)

const (
	// DenseTime is for how long servers are sampled densely before an old version is retired.
	DenseTime = 10 * time.Second
	// observeGap is the longest time without a sample within a window.
	observeGap = 5 * time.Second
	// sparse is how many times as long as its dense samples a dense time may be. A busy machine takes breaks between them, which
	// do not count; one that takes longer breaks has seen too little.
	sparse = 2
	// revertTime is for how long servers are sampled for use of the new version before a revert takes it back.
	revertTime = 2 * time.Second
	// shortFactor is how many times as long the window is where logins were too short to see whose they were, or could not be
	// counted, and shortTime how long it and its dense time become by that at most.
	shortFactor = 6
	shortTime   = time.Minute
)

// Observation is what samples of the servers have shown of a rotation's old versions. It is not stored: after a restart
// of the engine nobody knows who used an old version meanwhile, so the window starts again.
type Observation struct {
	Since time.Time // when the first of the samples without use was taken
	Until time.Time // when the last sample ended; zero: there was none
	Seen  time.Time // when an old version was seen in use last; zero: never
	Use   string    // by whom
	Short string    // logins since then that were too short to see whose they were, or could not be counted; empty: none
	Fault string    // why the last attempt to take a sample failed; empty: it did not

	Gap       time.Duration // without a sample that has started the window again; 0: there was none
	DenseFrom time.Time     // when the first of the dense samples at the end of these began; zero: the last sample was not dense
	Dense     time.Duration // how long these have sampled, together
}

// Used returns the observation with a sample that saw use.
func (o Observation) Used(end time.Time, use string) Observation {
	return Observation{Since: end, Until: end, Seen: end, Use: use}
}

// Unused returns the observation with a sample that saw no use and whose call has ended at that time. A dense one has a length;
// 0: it was a single look. A sample counts for its length only, at the end of the call: before, the call may have waited for
// others. Dense samples add up as long as the breaks between them are not longer than they are.
func (o Observation) Unused(end time.Time, dense time.Duration) Observation {
	o.Fault = ""
	from := end.Add(-dense)
	if gap := from.Sub(o.Until); o.Until.IsZero() || end.Before(o.Until) || gap > observeGap {
		o.Since, o.Short, o.Gap = from, "", 0
		if !o.Until.IsZero() {
			o.Gap = max(gap, 0)
		}
	}
	switch {
	case dense == 0:
		o.DenseFrom, o.Dense = time.Time{}, 0
	case o.DenseFrom.IsZero() || o.DenseFrom.Before(o.Since) || end.Sub(o.DenseFrom) > sparse*(o.Dense+dense):
		o.DenseFrom, o.Dense = from, dense
	default:
		o.Dense += min(dense, end.Sub(o.Until))
	}
	o.Until = end
	return o
}

// Needs returns for how long nobody may be seen, and how much of that, at its end, is sampled densely. Where logins were too
// short to see whose they were, both are longer, up to a minute: a client that comes back is seen sooner or later. The bound also
// holds for the dense time of a window of days, since some servers never count logins.
func (r Rotation) Needs(o Observation) (window, dense time.Duration) {
	if o.Short == "" {
		return r.Window(), r.denseTime()
	}
	longer := max(r.Window(), min(shortFactor*r.Window(), shortTime))
	return longer, min(longer, shortTime)
}

// Window is for how long nobody may be seen using an old version before it is retired.
func (r Rotation) Window() time.Duration { return max(r.Soak, r.Observe) }

// denseTime is how much of the window, at its end, is sampled densely.
func (r Rotation) denseTime() time.Duration { return min(r.Window(), DenseTime) }

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
		text := fmt.Sprintf("the last look at the servers was %s ago", duration.Text(f.Now.Sub(o.Until).Round(time.Second)))
		if o.Use != "" {
			text += ": " + o.Use
		}
		return []string{text}
	}
	window, denseTime := r.Needs(o)
	quiet, dense := o.Until.Sub(o.Since), o.Dense
	switch {
	case o.Until.Equal(o.Seen):
		return []string{fmt.Sprintf("%s; waiting until nobody has used it for %s", o.Use, duration.Text(r.Window()))}
	case quiet >= window && (dense >= denseTime || !f.Dense):
		return nil
	}
	left, of := max(window-quiet, 0), duration.Text(window)
	if f.Dense && denseTime-dense > left {
		if left = denseTime - dense; denseTime < window {
			of = duration.Text(denseTime) + " of dense samples"
		}
	}
	text := fmt.Sprintf("nobody was seen using the old version for %s; %s left of %s", duration.Text(quiet.Round(time.Second)), duration.Text(left.Round(time.Second)), of)
	if o.Short != "" {
		text += ", which is longer since " + o.Short
	}
	if o.Gap > 0 && quiet < window {
		text += fmt.Sprintf("; it started again since the servers could not be looked at for %s (at most %s may be between two looks)", duration.Text(o.Gap.Round(time.Second)), duration.Text(observeGap))
	}
	if o.Use != "" {
		text += fmt.Sprintf(" (%s ago: %s)", duration.Text(f.Now.Sub(o.Seen).Round(time.Second)), o.Use)
	}
	return []string{text}
}

// Samples reports whether servers are sampled at the rotation's step.
func (r Rotation) Samples() bool {
	return r.Paused == nil && r.at().samples && (r.Step != StepSoak || r.Acted && r.Window() > 0)
}

// WantsDense reports whether the rotation could retire the old version once dense samples have seen nobody. It is not so
// while something else holds it back: a rotation may wait for days for its confirmation.
func (r Rotation) WantsDense(f Facts) bool {
	o := f.Observed
	if !f.Dense || r.denseTime() == 0 || o.Fault != "" || o.Until.IsZero() || o.Until.Equal(o.Seen) {
		return false // after a look that failed or saw somebody, the next one waits for its time
	}
	window, dense := r.Needs(o)
	if window-o.Until.Sub(o.Since) > dense {
		return false
	}
	if r.Step == StepSoak {
		return !r.SoakFrom.IsZero() && r.SoakFrom.Add(r.Soak).Sub(f.Now) <= dense
	}
	results, _ := Gates(r, f)
	for _, g := range results {
		if !g.Holds && g.Name != string(gateObserved) {
			return false
		}
	}
	return true
}

// LookAgain returns for how long servers are sampled once more before a value is taken away there. Where the samples
// that opened the way were taken just now, one look is enough.
func (r Rotation) LookAgain(now time.Time) time.Duration {
	if r.State == Reverting {
		return min(r.Observe, revertTime)
	}
	for _, event := range r.Timeline {
		if event.State == Retiring {
			if now.Sub(event.At) < observeGap {
				return 0
			}
			break
		}
	}
	return r.denseTime()
}
