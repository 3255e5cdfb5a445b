// SPDX-License-Identifier: Apache-2.0

package tripwire

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var start = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// A job that many proxies have seen once is not counted again when they repeat their reports: there are more of them than a record
// remembers.
func TestManyProxiesThatRepeatAreNoNews(t *testing.T) {
	r := Record{Key: "k", Wires: []Wire{{Version: 1}}}
	report := func(n int, seen, now time.Time, count int) (news bool) {
		r, news = r.Seen(fmt.Sprintf("api/%d", n), workload.Trip{Version: 1, Run: "run", Count: count, First: seen, Last: seen, From: []string{"10.0.0.7"}}, now)
		return news
	}
	for n := range 3 * maxSources {
		report(n, start.Add(time.Duration(n)*time.Minute), start.Add(time.Duration(n)*time.Minute), 1)
	}
	counted := r.Wires[0].Count
	if counted != 3*maxSources {
		t.Errorf("%d counted", counted)
	}
	now := start.Add(24 * time.Hour)
	for range 10 {
		for n := range 3 * maxSources {
			late := time.Duration(n%4) * time.Second // how long the report was on its way
			if report(n, start.Add(time.Duration(n)*time.Minute+late), now, 1) {
				t.Fatalf("a report of proxy %d that has nothing new is news: %d counted", n, r.Wires[0].Count)
			}
		}
	}
	for n := range 3 * maxSources { // new requests are, also to those who are not remembered
		now = now.Add(time.Minute)
		if !report(n, now, now, 2) {
			t.Errorf("a new request to proxy %d is no news", n)
		}
	}
	if got := r.Wires[0].Count; got < counted+3*maxSources || len(r.Wires[0].Sources) > maxSources {
		t.Errorf("%d counted, %d sources", got, len(r.Wires[0].Sources))
	}
}

// A proxy that lies cannot end the counting: what comes after somebody has acknowledged its number is shown.
func TestCountThatIsFullStaysOpen(t *testing.T) {
	r := Record{Key: "k", Wires: []Wire{{Version: 1}}}
	trip := workload.Trip{Version: 1, Run: "lie", Count: 1 << 62, First: start, Last: start}
	r, _ = r.Seen("api/1", trip, start)
	w := r.Wires[0]
	w.Acknowledged = w.Count
	r = r.With(w)
	later := start.Add(time.Hour)
	r, news := r.Seen("api/2", workload.Trip{Version: 1, Run: "run", Count: 3, First: later, Last: later}, later)
	if w = r.Wires[0]; !news || !w.Open() || w.Count-w.Acknowledged != 3 || w.Count > maxCount {
		t.Errorf("%d counted, %d acknowledged", w.Count, w.Acknowledged)
	}
	r, _ = r.Seen("api/3", trip, later)
	if w = r.Wires[0]; w.Acknowledged < 0 || w.Count > maxCount {
		t.Errorf("%d counted, %d acknowledged", w.Count, w.Acknowledged)
	}
}

// What comes after somebody has acknowledged what was seen is journaled, though the count has not doubled.
func TestFirstAfterAnAcknowledgeIsJournaled(t *testing.T) {
	w := Wire{Version: 1, Count: 100, Journaled: 100, JournaledAt: start, Acknowledged: 100}
	later := start.Add(time.Hour)
	if w.Journals(later) {
		t.Error("nothing new is journaled")
	}
	w.Count++
	if !w.Journals(later) || w.Journals(start.Add(time.Second)) {
		t.Error("the first one is not journaled, or too soon")
	}
	w.Journaled, w.JournaledAt = w.Count, later
	w.Count++
	if w.Journals(later.Add(time.Hour)) {
		t.Error("the second one is journaled, though the count has not doubled")
	}
}

// What was seen before the clock was set back hides nothing that is seen since: it is counted, its time is that of now, and it is
// journaled.
func TestClockThatIsSetBackHidesNothing(t *testing.T) {
	ahead := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	now := ahead.Add(-30 * 24 * time.Hour)
	r := Record{Key: "token", Wires: []Wire{{Version: 1}}}
	for n := range maxSources + 1 { // the first one is forgotten
		r, _ = r.Seen("api/old", workload.Trip{Version: 1, Run: strconv.Itoa(n), Count: 1, Last: ahead, From: []string{"10.0.0.1"}}, ahead.Add(time.Hour))
	}
	w, _ := r.Version(1)
	w.Journaled, w.JournaledAt, w.Acknowledged = w.Count, ahead.Add(time.Hour), w.Count
	r = r.With(w)
	r, news := r.Seen("api/new", workload.Trip{Version: 1, Run: "new", Count: 2, First: now, Last: now, From: []string{"10.0.0.7"}}, now)
	w, _ = r.Version(1)
	switch {
	case !news || w.Count != maxSources+3 || !w.Open():
		t.Errorf("it is counted %d times, news %t", w.Count, news)
	case !w.Last.Equal(now) || w.Clients[0].Last.After(now):
		t.Errorf("%+v", w)
	case !w.Journals(now.Add(journalEvery)):
		t.Error("it is not journaled")
	}
	for _, s := range w.Sources {
		if s.Last.After(now) {
			t.Errorf("a source in the future: %+v", s)
		}
	}
}
