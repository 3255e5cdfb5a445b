// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"time"
)

// A plugin is not told that Vault's leader steps down, that Vault is sealed or that the plugin is reloaded: Vault first
// waits for the requests that it has (on step-down and seal for up to 90 s, core's stateLock; on a reload without bounds,
// the route entry's lock), and lets no other in meanwhile. What the plugin can see is that nobody comes. So the oldest
// watch is answered now and then when it is quiet. Sidecars ask again at once. If none of several does, nobody is let in,
// and all that wait are ended.
const (
	leastQuiet    = 100 * time.Millisecond // until the first is asked
	askedEnough   = 3
	leastPatience = 100 * time.Millisecond // with those who were asked; grows with false alarms
	maxPatience   = 5 * time.Second
	fewPatience   = time.Second // with fewer than askedEnough
	calmAfter     = time.Minute // without a false alarm
)

type paceAction int

const (
	paceWait paceAction = iota
	paceAsk             // answer the oldest watch
	paceEnd             // end all that wait
)

// pace finds out from the events it gets whether Vault lets requests in.
type pace struct {
	arrived  uint64        // requests that have come
	answered uint64        // at since
	since    time.Duration // the last one came, or later
	asked    uint64        // watches answered since then, as last seen
	askedAt  time.Duration // the last of them, or the one that made them enough
	patience time.Duration
	ended    bool          // all were ended, and nobody has come since
	alarm    time.Duration // the last false one
}

// begin starts again: somebody waits.
func (p *pace) begin(now time.Duration, arrived, answered uint64) {
	p.arrived, p.answered, p.since, p.asked, p.ended = arrived, answered, now, 0, false
}

func (p *pace) step(now time.Duration, arrived, answered uint64, watching int) paceAction {
	if arrived != p.arrived {
		p.come(now)
		p.begin(now, arrived, answered)
		return paceWait
	}
	if asked := answered - p.answered; asked != p.asked {
		if p.asked < askedEnough {
			p.askedAt = now
		}
		p.asked = asked
	}
	patience := p.patience
	if p.asked < askedEnough {
		patience = max(fewPatience, patience)
	}
	switch {
	case p.asked > 0 && (p.asked >= askedEnough || watching == 0) && now-p.askedAt >= patience && now-p.since >= leastQuiet+patience:
		p.begin(now, arrived, answered)
		p.ended = true
		return paceEnd
	case watching == 0 || p.asked >= askedEnough:
		return paceWait
	case p.asked > 0 || now-p.since >= max(leastQuiet, LongestWatch/time.Duration(watching)):
		return paceAsk
	}
	return paceWait
}

// come notes that a request has come. If all were ended before, that was for nothing: patience grows.
func (p *pace) come(now time.Duration) {
	switch {
	case p.ended:
		p.patience, p.alarm = min(2*p.patience, maxPatience), now
	case p.patience > leastPatience && now-p.alarm >= calmAfter:
		p.patience, p.alarm = max(p.patience/2, leastPatience), now
	}
}

// paceEvery is how often somebody looks whether Vault still lets requests in.
const paceEvery = 25 * time.Millisecond

// KeepPace ends all that wait once Vault has ceased to let requests in, until ctx ends.
func (w *Waiters) KeepPace(ctx context.Context, uptime func() time.Duration) {
	p := pace{patience: leastPatience}
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	for {
		watching, total := w.Counts()
		if total == 0 {
			select {
			case <-ctx.Done():
				return
			case <-w.busy:
			}
			continue // a request has come, as step finds: it counts before it waits
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch p.step(uptime(), w.arrived.Load(), w.answered.Load(), watching) {
		case paceAsk:
			w.endOldest()
		case paceWait:
		case paceEnd:
			w.EndAll()
		}
	}
}
