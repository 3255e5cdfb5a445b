// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/token"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var testActor = rotation.Actor{Name: "test"}

var errInjected = errors.New("injected fault")

// memStore is a Store that can fail at the nth write, before or after it took effect.
type memStore struct {
	mu     sync.Mutex
	data   map[string][]byte
	writes int
	failAt int  // 0: never
	after  bool // the write takes effect, and its reply is lost
	dead   bool // every access fails, as after a crash

	onGet func(path string) // before a read
}

func newMemStore() *memStore { return &memStore{data: map[string][]byte{}} }

func (m *memStore) write(do func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errInjected
	}
	m.writes++
	if m.writes == m.failAt {
		m.dead = true
		if m.after {
			do()
		}
		return errInjected
	}
	do()
	return nil
}

func (m *memStore) Get(_ context.Context, path string) ([]byte, error) {
	if m.onGet != nil {
		m.onGet(path)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, errInjected
	}
	return m.data[path], nil
}

func (m *memStore) Put(_ context.Context, path string, data []byte) error {
	return m.write(func() { m.data[path] = slices.Clone(data) })
}

func (m *memStore) Delete(_ context.Context, path string) error {
	return m.write(func() { delete(m.data, path) })
}

func (m *memStore) List(_ context.Context, prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, errInjected
	}
	names := map[string]bool{}
	for path := range m.data {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			if dir, _, nested := strings.Cut(rest, "/"); nested {
				rest = dir + "/"
			}
			names[rest] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time

	jump time.Duration // of the wall's clock, which somebody has set
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.Add(c.jump)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (c *clock) uptime() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.Sub(time.Unix(0, 0))
}

type quiet struct{}

func (quiet) Moved(rotation.Rotation, rotation.Event) {}
func (quiet) Fault(string, error)                     {}
func (quiet) Journal(journal.Head)                    {}

// server is a kind that has one, to see in which order it is asked, and to fail it.
type server struct {
	token.Kind
	mu    sync.Mutex
	valid map[string]bool // values
	calls []string
	fail  map[string]error
	inUse int
	cut   bool // Retire was called to end sessions

	blockers, notes []string // of Preflight
	mounts          []string // that keys were of, by call
}

func (s *server) Name() string { return "server" }

func (s *server) call(name string, do func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, name)
	if err := s.fail[name]; err != nil {
		return err
	}
	do()
	return nil
}

func (s *server) Preflight(_ context.Context, c kind.Change) (blockers, notes []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mounts = append(s.mounts, c.Key.Mount)
	return s.blockers, s.notes, s.fail["preflight"]
}

func (s *server) Stage(_ context.Context, c kind.Change) error {
	return s.call("stage", func() { s.valid[c.To.Value.Reveal()] = true })
}

func (s *server) Verify(_ context.Context, c kind.Change) error {
	return s.call("verify", func() {})
}

func (s *server) InUse(context.Context, kind.Change) (int, string, error) {
	err := s.call("in-use", func() {})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inUse, "sessions", err
}

func (s *server) Retire(_ context.Context, c kind.Change) error {
	return s.call("retire", func() {
		delete(s.valid, c.From.Value.Reveal())
		s.cut = c.Cut
	})
}

func (s *server) CheckUndelete(kind.Change) error { return nil }

func (s *server) Undelete(_ context.Context, c kind.Change) error {
	return s.call("undelete", func() { s.valid[c.To.Value.Reveal()] = true })
}

func (s *server) Unstage(_ context.Context, c kind.Change) error {
	return s.call("unstage", func() { delete(s.valid, c.To.Value.Reveal()) })
}

// harness is an engine with a platform around it: instances that load what they read and say so.
type harness struct {
	t       *testing.T
	store   *memStore
	clock   *clock
	server  *server
	kinds   kind.List // further ones
	engine  *Engine
	readers map[string]*reader
	calls   []func() // to servers, under way
	place   *workload.Place
}

// reader is a live instance.
type reader struct {
	workload, id string
	login        string // accessor of its token
	reading      Reading
	healthy      bool
	proof        workload.Proof // of each load
	deaf         bool           // reads nothing new
	works        bool           // re-encrypts at once
	noChecks     bool           // but opens no rows for a check
	multiline    bool           // carries values of several lines
	finds        []workload.Find
	held         []map[string]workload.Held
}

func newHarness(t *testing.T) *harness {
	h := &harness{
		t: t, store: newMemStore(), clock: &clock{now: time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)},
		server:  &server{valid: map[string]bool{}, fail: map[string]error{}},
		readers: map[string]*reader{},
	}
	h.open()
	return h
}

// open makes an engine of what storage holds, as after a crash or a failover.
func (h *harness) open() {
	h.t.Helper()
	if h.engine != nil {
		h.engine.Close()
	}
	h.store.mu.Lock()
	h.store.dead, h.store.failAt = false, 0
	h.store.mu.Unlock()
	h.calls = nil
	e, err := Open(h.t.Context(), h.options())
	if err != nil {
		h.t.Fatal(err)
	}
	h.ok(e.Begin(h.t.Context()))
	h.engine = e
	h.t.Cleanup(e.Close)
}

func (h *harness) options() Options {
	return Options{
		Store: h.store, Kinds: append(kind.List{token.Kind{}, h.server}, h.kinds...), Observer: quiet{}, Now: h.clock.Now, Random: rand.Reader,
		Uptime: h.clock.uptime, Background: func(call func()) { h.calls = append(h.calls, call) },
	}
}

// records returns those of the engine, which a test may look at and change between two calls.
func (h *harness) records() *records {
	l, release := h.engine.acquire()
	defer release()
	return l.records
}

// ok fails the test on an error.
func (h *harness) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// key defines a key with a first version. Where it protects rows, one witness is enough: see witness_test.go for two.
func (h *harness) key(name, kindName string, protects ...key.Column) {
	h.t.Helper()
	d := catalog.Definition{Name: name, Kind: kindName, Protects: protects}
	if len(protects) > 0 {
		d.Witness = rotation.WitnessNone
	}
	_, err := h.engine.PutKey(h.t.Context(), d, testActor)
	h.ok(err)
	_, _, err = h.engine.First(h.t.Context(), name, key.Value{}, testActor)
	h.ok(err)
}

func (h *harness) workload(w workload.Workload) {
	h.t.Helper()
	if w.MaxUnavailable == "" {
		w.MaxUnavailable = "1"
	}
	h.ok(h.engine.PutWorkload(h.t.Context(), w, false, testActor))
}

func (h *harness) join(workloadName, id string) *reader {
	h.t.Helper()
	return h.joinWith(workloadName, id, workloadName+"/"+id)
}

// joinWith is join with a login.
func (h *harness) joinWith(workloadName, id, login string) *reader {
	h.t.Helper()
	r := &reader{workload: workloadName, id: id, login: login, healthy: true, works: true}
	h.readers[workloadName+"/"+id] = r
	h.read(r)
	return r
}

func (h *harness) read(r *reader) {
	h.t.Helper()
	reading, err := h.engine.Read(h.t.Context(), fleet.Reader{Workload: r.workload, Instance: r.id, Multiline: r.multiline, Token: fleet.Token{Accessor: r.login}}, time.Hour)
	h.ok(err)
	r.reading = reading
	r.held = append(r.held, reading.Bundle.Holding.Keys)
	h.report(r)
}

func (h *harness) report(r *reader) {
	h.t.Helper()
	report := Report{
		Workload: r.workload, Instance: r.id, Secret: r.reading.Secret, Etag: r.reading.Bundle.Holding.Etag,
		Proof: r.proof, Healthy: r.healthy, Reason: "ill",
	}
	for _, w := range r.reading.Bundle.Work {
		if r.works && (!r.noChecks || w.Phase != workload.PhaseCheck) {
			report.Work = append(report.Work, workload.WorkReport{ID: w.ID, Done: true, Columns: []workload.ColumnReport{{Column: "t.c", Total: 3, Rotated: 3}}, Finds: r.finds, Place: h.place})
		}
	}
	_, err := h.engine.Report(h.t.Context(), report)
	h.ok(err)
}

// round lets every instance that should hold something else read it, and the engine go on.
func (h *harness) round() {
	h.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(h.readers)) {
		r := h.readers[name]
		watched, err := h.engine.Watch(h.t.Context(), r.workload, r.id, "", 0)
		h.ok(err)
		if watched.Etag != r.reading.Bundle.Holding.Etag && !r.deaf {
			h.read(r)
		}
	}
	h.engine.Tick(h.t.Context())
	h.settle()
}

// settle makes the calls to servers that are under way.
func (h *harness) settle() {
	for len(h.calls) > 0 {
		call := h.calls[0]
		h.calls = h.calls[1:]
		call()
	}
}

// until goes round until the rotation is in a state.
func (h *harness) until(id string, state rotation.State) View {
	h.t.Helper()
	var view View
	for range 120 {
		var err error
		view, err = h.engine.View(h.t.Context(), id)
		h.ok(err)
		if view.State == state {
			return view
		}
		h.round()
		h.clock.advance(time.Second)
	}
	h.t.Fatalf("rotation is %s %s, not %s: %s", view.State, view.Step, state, view.Waits())
	return view
}

func (h *harness) rotate(keys ...string) string {
	h.t.Helper()
	view, _, err := h.engine.Rotate(h.t.Context(), Request{Keys: keys, By: testActor, Trigger: rotation.ByOperator, Reason: "why not"})
	h.ok(err)
	return view.ID
}

func (h *harness) view(id string) View {
	h.t.Helper()
	view, err := h.engine.View(h.t.Context(), id)
	h.ok(err)
	return view
}

// states describes the versions of a key.
func (h *harness) states(name string) string {
	k, _ := h.engine.Key(name)
	var all []string
	for _, v := range k.Versions {
		all = append(all, fmt.Sprintf("%d %s", v.Number, v.State))
		if v.State.Live() == v.Value.Empty() {
			h.t.Errorf("key %s: version %d is %s and has a value: %v", name, v.Number, v.State, !v.Value.Empty())
		}
	}
	return strings.Join(all, ", ")
}

// hyvve is the usual platform: api verifies a token that agents presents.
func (h *harness) hyvve() {
	h.t.Helper()
	h.key("service-token", "token")
	h.workload(workload.Workload{Name: "api", MinInstances: 2, Keys: map[string]workload.Role{"service-token": {Verifies: true}}})
	h.workload(workload.Workload{Name: "agents", MinInstances: 1, After: []string{"api"}, Keys: map[string]workload.Role{"service-token": {Presents: true}}})
	h.join("api", "api-1")
	h.join("api", "api-2")
	h.join("agents", "agents-1")
	h.join("agents", "agents-2")
}
