// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"testing"
	"time"
)

// paced is a pace and the events that it gets, step by step.
type paced struct {
	pace
	now               time.Duration
	arrived, answered uint64
	watching          int
}

// until steps until something is to be done, and returns what and after how long.
func (p *paced) until(limit time.Duration) (paceAction, time.Duration) {
	begun := p.now
	for p.now-begun < limit {
		p.now += paceEvery
		if what := p.step(p.now, p.arrived, p.answered, p.watching); what != paceWait {
			return what, p.now - begun
		}
	}
	return paceWait, limit
}

func newPaced(watching int) *paced {
	return &paced{pace: pace{patience: leastPatience}, watching: watching}
}

// ask answers the oldest watch; back reports whether its sidecar asks again.
func (p *paced) ask(back bool) {
	p.answered++
	p.watching--
	if back {
		p.arrived++
		p.watching++
	}
}

// Nobody comes back of three who were asked: all are ended, within half a second.
func TestAllAreEndedWhenNobodyIsLetIn(t *testing.T) {
	p := newPaced(1000)
	begun := p.now
	for n := range askedEnough {
		if what, _ := p.until(time.Second); what != paceAsk {
			t.Fatalf("asked %d: %v", n, what)
		}
		p.ask(false)
	}
	if what, _ := p.until(time.Second); what != paceEnd || p.now-begun > 500*time.Millisecond {
		t.Errorf("%v after %s", what, p.now-begun)
	}
}

// Watches end by themselves all the time, so that the last of those who were asked was asked just now. That three were
// asked a while ago and did not come back is enough.
func TestWatchesThatEndByThemselvesDelayNothing(t *testing.T) {
	p := newPaced(1000)
	perStep := p.watching * int(paceEvery) / int(LongestWatch)
	for what := paceWait; what != paceEnd; what, _ = p.until(paceEvery) {
		if p.now > 500*time.Millisecond {
			t.Fatal("they wait on")
		}
		for range perStep {
			p.ask(false)
		}
	}
	if least := leastQuiet + leastPatience; p.now < least {
		t.Errorf("all are ended after %s, though it was quiet for less than %s", p.now, least)
	}
}

// While sidecars come back nobody is ended, and few are asked: about as many as come by themselves.
func TestWhoComesBackIsNotEnded(t *testing.T) {
	for _, watching := range []int{1, 2, 10, 1000} {
		p := newPaced(watching)
		asked := 0
		for p.now < time.Minute {
			what, _ := p.until(time.Minute - p.now)
			if what == paceEnd {
				t.Fatalf("%d watch: all are ended after %s", watching, p.now)
			}
			if what == paceAsk {
				asked++
				p.ask(true)
			}
		}
		if most := min(watching*int(time.Minute/LongestWatch), int(time.Minute/leastQuiet)); asked > most {
			t.Errorf("%d watch: %d asked in a minute, more than %d", watching, asked, most)
		}
	}
}

// One who does not come back has died; the others prove it, before they are ended.
func TestOneThatDiesEndsNobody(t *testing.T) {
	p := newPaced(100)
	if what, _ := p.until(time.Second); what != paceAsk {
		t.Fatal(what)
	}
	p.ask(false)
	if what, _ := p.until(time.Second); what != paceAsk {
		t.Fatal(what)
	}
	p.ask(true)
	if what, _ := p.until(leastQuiet - paceEvery); what != paceWait {
		t.Error("a request that came is not taken for one")
	}
}

// The last to watch comes back late at times: a request that waits for a rotation's end is ended only after a second.
func TestFewAreWaitedForLonger(t *testing.T) {
	p := newPaced(1)
	p.until(time.Second)
	p.ask(false) // its watch has ended by itself
	if what, took := p.until(5 * time.Second); what != paceEnd || took < fewPatience {
		t.Errorf("%v after %s", what, took)
	}
	if what, _ := newPaced(0).until(time.Hour); what != paceWait {
		t.Error("somebody is ended though nobody was asked")
	}
}

// Every false alarm doubles its patience, and calm brings it back.
func TestFalseAlarmsMakeItPatient(t *testing.T) {
	p := newPaced(1000)
	for range 20 {
		for what := paceWait; what != paceEnd; {
			if what, _ = p.until(time.Minute); what == paceAsk {
				p.ask(false)
			}
		}
		p.watching = 1000
		p.arrived++
		p.until(paceEvery)
	}
	if p.patience != maxPatience {
		t.Errorf("patience %s after false alarms", p.patience)
	}
	for range 20 {
		p.now += calmAfter
		p.arrived++
		p.until(paceEvery)
	}
	if p.patience != leastPatience {
		t.Errorf("patience %s after calm", p.patience)
	}
}
