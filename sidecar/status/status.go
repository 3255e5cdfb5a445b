// SPDX-License-Identifier: Apache-2.0

// Package status tells how a sidecar is: to Prometheus as metrics, to probes, and to people. Nothing in it is secret: it
// knows names and version numbers, never a value.
package status

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// State is how a sidecar is at a moment. Times that have not come yet are zero, and left out of its JSON.
type State struct {
	Version  string    `json:"version"`
	Mode     string    `json:"mode"` // agent, exec or watch
	Workload string    `json:"workload,omitempty"`
	Instance string    `json:"instance,omitempty"`
	Started  time.Time `json:"started"`

	Ready    bool   `json:"ready"`   // what the workload needs to start is in place
	Loaded   bool   `json:"loaded"`  // the workload has proved itself with the bundle of now
	Healthy  bool   `json:"healthy"` // the last verdict
	Reason   string `json:"reason,omitempty"`
	Rendered int    `json:"rendered"` // destinations

	Warnings []string `json:"warnings,omitempty"` // where secrets cross a network without verified TLS

	Vault *Vault `json:"vault,omitempty"` // nil: files are rendered by something else
	Etag  string `json:"etag,omitempty"`  // of the bundle read last
	Keys  []Key  `json:"keys,omitempty"`  // in order of name

	Changed  time.Time `json:"changed,omitzero"`  // content of the files, or of the environment
	Reported time.Time `json:"reported,omitzero"` // to the engine

	Destinations []Destination `json:"destinations,omitempty"` // that are no files
	Rollout      *Rollout      `json:"rollout,omitempty"`      // as it was at the last look

	Reload    *Reload               `json:"reload,omitempty"` // the last one
	Sightings []workload.Sighting   `json:"sightings,omitempty"`
	Work      []workload.WorkReport `json:"work,omitempty"`
}

// Vault is the sidecar's way to the engine.
type Vault struct {
	Address string    `json:"address"`
	Method  string    `json:"method"` // of the login
	Up      bool      `json:"up"`
	Since   time.Time `json:"since"` // when Up changed
	Error   string    `json:"error,omitempty"`
}

// Key is one that the bundle of now holds.
type Key struct {
	Name    string    `json:"name"`
	Version int       `json:"version"`
	Created time.Time `json:"created,omitzero"` // when the version was made
	Accepts []int     `json:"accepts,omitempty"`
}

// Destination is a Secret of Kubernetes, as namespace/name.
type Destination struct {
	Name    string    `json:"name"`
	Up      bool      `json:"up"` // the last look or write
	Error   string    `json:"error,omitempty"`
	Written time.Time `json:"written,omitzero"` // with other data
}

// Rollout is a workload of Kubernetes that is restarted, as kind/namespace/name.
type Rollout struct {
	Name string `json:"name"`
	Pods int    `json:"pods"`
	Old  int    `json:"old_pods"` // of them, that hold what a Secret held before
}

// Reload is how one has ended.
type Reload struct {
	At    time.Time     `json:"at"`
	Took  time.Duration `json:"took_ns"`
	Error string        `json:"error,omitempty"`
}

// Board has the state of now. It may be used by several goroutines.
type Board struct {
	live func(*State) // fills in what others keep; may be nil

	mu       sync.Mutex
	state    State
	ready    chan struct{} // closed once the state is
	tell     func()        // closes it, once
	waiters  waiters
	reloads  map[string]int // by result
	faults   int            // of Vault
	duration prometheus.Histogram
}

// Results of a reload.
const (
	Succeeded  = "success"
	Failed     = "failure"
	NotRunning = "not_running" // no workload was there; it reads its files when it starts
)

// NewBoard makes one. live is called with each state that is read, without a lock held.
func NewBoard(first State, live func(*State)) *Board {
	ready := make(chan struct{})
	return &Board{
		state: first, live: live, ready: ready, tell: sync.OnceFunc(func() { close(ready) }),
		reloads: map[string]int{Succeeded: 0, Failed: 0, NotRunning: 0},
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: namespace + "reload_duration_seconds", Help: "How long reloads of the workload took.",
			Buckets: []float64{.005, .025, .1, .5, 1, 2.5, 5, 10, 30, 60},
		}),
	}
}

// Update changes the state.
func (b *Board) Update(change func(*State)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.state)
	if b.state.Ready {
		b.tell()
	}
}

// Warn puts warnings in the place of those before.
func (b *Board) Warn(all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Warnings = slices.Clone(all) // readers may hold the ones before
}

// VaultIs notes how a request to Vault has ended; the error is empty if well.
func (b *Board) VaultIs(up bool, fault string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !up {
		b.faults++
	}
	if b.state.Vault == nil {
		return
	}
	v := *b.state.Vault // readers may hold the one before
	if v.Up != up || v.Since.IsZero() {
		v.Since = now
	}
	v.Up, v.Error = up, fault
	b.state.Vault = &v
}

// Reloaded notes a reload of the workload.
func (b *Board) Reloaded(result string, r Reload) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reloads[result]++
	if result == NotRunning {
		return
	}
	b.duration.Observe(r.Took.Seconds())
	b.state.Reload = &r
}

// State returns the state of now.
func (b *Board) State() State {
	b.mu.Lock()
	s := b.state
	s.Keys = slices.Clone(s.Keys)
	b.mu.Unlock()
	if b.live != nil {
		b.live(&s)
	}
	return s
}
