// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// wired is a bundle with tripwires of retired versions.
func wired(b client.Bundle, retired ...int) client.Bundle {
	b.Tripwires = map[string][]workload.Tripwire{}
	for _, version := range retired {
		salt := fmt.Sprintf("salt-%d", version)
		b.Tripwires[env] = append(b.Tripwires[env], workload.Tripwire{
			Version: version, Salt: salt, Digest: workload.TripDigest(salt, sha256.Sum256([]byte(token(version)))), Until: time.Now().Add(time.Hour),
		})
	}
	return b
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// trips are counts by version.
func trips(p *Proxy) string {
	var all []string
	for _, t := range p.Trips() {
		all = append(all, fmt.Sprintf("%d: %d", t.Version, t.Count))
	}
	return strings.Join(all, ", ")
}

// A retired value is refused as any other, by the application, which sees it as it came; and it is counted, as no other is.
func TestRetiredValueIsCountedAndRefused(t *testing.T) {
	app := &application{}
	app.start(5)
	p, address := before(t, app, filepath.Join(t.TempDir(), "state"))
	ok(t, p.Take(wired(bundle(6, 5), 4, 3)))
	unknown, unknownBody := call(t, address, "Bearer unknown-0123456789abcdef")
	for version, n := range map[int]int{4: 3, 3: 1, 2: 2} {
		for range n {
			status, body := call(t, address, "bearer  "+token(version), "some body")
			if status != unknown || body != unknownBody {
				t.Errorf("version %d: %d %q, and an unknown one %d %q", version, status, body, unknown, unknownBody)
			}
			if saw := app.saw.Load().Get("Authorization"); saw != "bearer  "+token(version) {
				t.Errorf("the application saw %q", strings.ReplaceAll(saw, "canary", "…"))
			}
		}
	}
	for _, version := range []int{5, 6} {
		if status, _ := call(t, address, "Bearer "+token(version)); status != http.StatusOK {
			t.Errorf("version %d, which is accepted: %d", version, status)
		}
	}
	if got := trips(p); got != "3: 1, 4: 3" {
		t.Errorf("counted: %s", got)
	}
	seen := p.Trips()[1]
	if seen.Env != env || seen.Run == "" || len(seen.From) != 1 || seen.From[0] != "127.0.0.1" || seen.First.IsZero() || seen.Last.Before(seen.First) {
		t.Errorf("%+v", seen)
	}
	counts := map[string]int{}
	if p.Tripped(counts); counts[env] != 4 {
		t.Errorf("total: %v", counts)
	}
	if len(p.Sightings()) != 1 {
		t.Errorf("sightings: %+v", p.Sightings())
	}
}

// What is looked for, and what was seen, outlasts the process, and a last-good copy, which says nothing of tripwires. A bundle that
// has none ends it.
func TestTripwiresOutlastTheProcess(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(app.Close)
	at, err := url.Parse(app.URL)
	ok(t, err)
	log := &kit.Log{}
	run := func() *Proxy {
		p := New(Options{Upstream: at, Log: slog.New(slog.NewTextHandler(log, nil)), Keys: []Key{{Env: env, Header: "Authorization", State: state}}})
		ok(t, p.Restore())
		return p
	}
	presents := func(p *Proxy, version int) {
		req := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		req.RemoteAddr = "10.0.0.7:1234"
		req.Header.Set("Authorization", "Bearer "+token(version))
		p.ServeHTTP(httptest.NewRecorder(), req)
	}
	p := run()
	ok(t, p.Take(wired(bundle(3), 2, 1)))
	presents(p, 2)
	first := p.Trips()[0]
	p.keys[0].stop() // as Serve does at its end
	data, err := os.ReadFile(state)
	ok(t, err)
	if strings.Contains(string(data), token(2)) || strings.Contains(log.String(), "canary") || !strings.Contains(log.String(), "a retired value was presented") {
		t.Error("the state file or the log has a retired value, or the log says nothing")
	}
	p = run()
	presents(p, 2)
	if got := p.Trips(); len(got) != 1 || got[0].Count != 2 || got[0].Run != first.Run || !got[0].First.Equal(first.First) {
		t.Errorf("after a restart: %+v", got)
	}
	ok(t, p.Take(bundle(3))) // a last-good copy
	presents(p, 1)
	if got := trips(p); got != "1: 1, 2: 2" {
		t.Errorf("after a last-good copy: %s", got)
	}
	ok(t, p.Take(wired(bundle(4, 3), 2)))
	presents(p, 1)
	if got := trips(p); got != "2: 2" {
		t.Errorf("after version 1 is looked for no more: %s", got)
	}
	ok(t, p.Take(wired(bundle(4, 3))))
	presents(p, 2)
	if got := trips(p); got != "" {
		t.Errorf("after nothing is looked for: %s", got)
	}
	late := wired(bundle(4), 2)
	late.Tripwires[env][0].Until = time.Now().Add(-time.Second)
	ok(t, p.Take(late))
	presents(p, 2)
	if got := trips(p); got != "" {
		t.Errorf("after its time: %s", got)
	}
}

// To look costs the same for a retired value, for one that nobody knows, and for the first tripwire as for the last.
func TestLookTellsNothing(t *testing.T) {
	p := New(Options{Upstream: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, Log: slog.New(slog.DiscardHandler), Keys: []Key{{Env: env, Header: "Authorization"}}})
	ok(t, p.Take(wired(bundle(6), 5, 4, 3, 2)))
	costs := map[float64]bool{}
	for _, version := range []int{5, 4, 2, 1, 9} {
		header := http.Header{"Authorization": {"Bearer " + token(version)}}
		p.look(header, match{}, false, "10.0.0.7") // the first time makes entries
		costs[testing.AllocsPerRun(100, func() { p.look(header, match{}, false, "10.0.0.7") })] = true
	}
	if len(costs) != 1 {
		t.Errorf("it allocates %v times", costs)
	}
}

// Each key has its own header. Of two in one request, one may be accepted and the other retired. What floods in is bounded.
func TestTripwiresOfTwoKeysAndManyClients(t *testing.T) {
	p := New(Options{Upstream: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, Log: slog.New(slog.DiscardHandler), Keys: []Key{
		{Env: env, Header: "Authorization"}, {Env: "METRICS", Header: "X-Metrics-Key"},
	}})
	b := wired(bundle(2), 1)
	b.Accepts["METRICS"], b.AcceptVersions["METRICS"] = []key.Value{key.NewValue("metrics-2")}, []int{2}
	b.Tripwires["METRICS"] = []workload.Tripwire{{Version: 1, Salt: "s", Digest: workload.TripDigest("s", sha256.Sum256([]byte("metrics-1"))), Until: time.Now().Add(time.Hour)}}
	ok(t, p.Take(b))
	looks := func(from string, header http.Header) {
		m, accepted := p.translate(header, header.Clone())
		p.look(header, m, accepted, from)
	}
	looks("fe80::1%eth0", http.Header{"Authorization": {"Bearer " + token(2)}, "X-Metrics-Key": {"metrics-1"}})
	looks("@", http.Header{"Authorization": {"Bearer " + token(1)}, "X-Metrics-Key": {"metrics-2"}})
	looks("10.0.0.1", http.Header{"Authorization": {"Bearer " + token(1), "Bearer " + token(1)}}) // the application decides which one counts
	if got := p.Trips(); len(got) != 2 || got[0].Env != env || got[0].Count != 1 || len(got[0].From) != 0 || got[1].Env != "METRICS" || got[1].From[0] != "fe80::1" {
		t.Errorf("%+v", got)
	}
	for n := range 1000 {
		looks(net.IPv4(10, 0, byte(n/250), byte(n%250)).String(), http.Header{"Authorization": {"Bearer " + token(1)}})
	}
	if got := p.Trips()[0]; got.Count != 1001 || len(got.From) != workload.MaxTripFrom || got.From[0] != "10.0.3.249" {
		t.Errorf("%+v", got)
	}
}

// A version that is looked for again, after it was accepted meanwhile, is counted from the beginning: as another run, of which the engine
// knows no count yet.
func TestVersionThatIsLookedForAgainIsAnotherRun(t *testing.T) {
	app := &application{}
	app.start(3)
	state := filepath.Join(t.TempDir(), "state")
	p, address := before(t, app, state)
	ok(t, p.Take(wired(bundle(3), 2, 1)))
	call(t, address, "Bearer "+token(1))
	call(t, address, "Bearer "+token(2))
	call(t, address, "Bearer "+token(2))
	first := p.Trips()
	ok(t, p.Take(wired(bundle(3, 2), 1))) // undeleted
	ok(t, p.Take(wired(bundle(3), 2, 1)))
	call(t, address, "Bearer "+token(1))
	call(t, address, "Bearer "+token(2))
	check := func(all []workload.Trip) {
		t.Helper()
		if len(all) != 2 || all[0].Count != 2 || all[0].Run != first[0].Run || all[1].Count != 1 || all[1].Run == first[1].Run || all[1].Run == "" {
			t.Errorf("first %+v, then %+v", first, all)
		}
	}
	check(p.Trips())
	p.keys[0].saveTrips()
	again := New(Options{Upstream: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, Log: slog.New(slog.DiscardHandler), Keys: []Key{{Env: env, Header: "Authorization", State: state}}})
	ok(t, again.Restore())
	check(again.Trips())
}

// A process that is killed has stored what was reported. The next one continues at that count: the engine takes a lower one for a
// repetition, and what came first would be lost.
func TestKilledProxyContinuesWhatItHasReported(t *testing.T) {
	state, log := filepath.Join(t.TempDir(), "state"), &kit.Log{}
	run := func() *Proxy {
		p := New(Options{Upstream: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, Log: slog.New(slog.NewTextHandler(log, nil)), Keys: []Key{{Env: env, Header: "Authorization", State: state}}})
		ok(t, p.Restore())
		return p
	}
	presents := func(p *Proxy) {
		p.look(http.Header{"Authorization": {"Bearer " + token(1)}}, match{}, false, "10.0.0.7")
	}
	p := run()
	ok(t, p.Take(wired(bundle(2), 1)))
	for range 3 {
		presents(p)
	}
	reported := p.StoredTrips()[0]
	if strings.Contains(log.String(), "a retired value was presented") {
		t.Error("it is logged with each report")
	}
	p.keys[0].books.Do(func(b *books) { b.trips.saving.Stop() }) // killed

	p = run()
	if p.News() == 0 {
		t.Error("what was stored is no news, and perhaps was not reported")
	}
	before := p.News()
	presents(p)
	if got := p.StoredTrips()[0]; got.Run != reported.Run || got.Count != reported.Count+1 {
		t.Errorf("%+v, after %+v", got, reported)
	}
	if p.News() != before+1 {
		t.Errorf("news: %d, then %d", before, p.News())
	}
	p.keys[0].saveTrips()
	if !strings.Contains(log.String(), "a retired value was presented") {
		t.Error("it is not logged")
	}
}
