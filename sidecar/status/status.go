// SPDX-License-Identifier: Apache-2.0

// Package status tells how a sidecar is: to Prometheus as metrics, to probes, and to people. Nothing in it is secret: it
// knows names and version numbers, never a value.
package status

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// State is how a sidecar is at a moment. Times that have not come yet are zero, and left out of its JSON.
type State struct {
	Version  string    `json:"version"`
	Mode     string    `json:"mode"` // agent, exec or watch
	Workload string    `json:"workload,omitempty"`
	Instance string    `json:"instance,omitempty"`
	Started  time.Time `json:"started"`

	Ready    bool   `json:"ready"`           // what the workload needs to start is in place
	Loaded   bool   `json:"loaded"`          // the workload has proved itself with the bundle of now
	Proof    string `json:"proof,omitempty"` // how that is known: etag, health, reload or none
	Healthy  bool   `json:"healthy"`         // the last verdict
	Reason   string `json:"reason,omitempty"`
	Rendered int    `json:"rendered"` // destinations

	NotTaken *NotTaken `json:"not_taken,omitempty"` // the newest configuration, if the sidecar has refused it, or waits for Vault with it, and continues with the one before

	Formers []*Former `json:"formers,omitempty"` // whose leases are not extended

	Conflict string `json:"name_conflict,omitempty"` // that another process uses the instance's name, in the engine's words

	Absent   []string `json:"absent,omitempty"`   // names of keys that the configuration has and the bundle lacks
	Warnings []string `json:"warnings,omitempty"` // where secrets cross a network without verified TLS

	Vault *Vault `json:"vault,omitempty"` // nil: files are rendered by something else
	Etag  string `json:"etag,omitempty"`  // of the bundle read last
	Keys  []Key  `json:"keys,omitempty"`  // in order of name

	Changed  time.Time `json:"changed,omitzero"`  // content of the files, or of the environment
	Reported time.Time `json:"reported,omitzero"` // to the engine

	Destinations []Destination `json:"destinations,omitempty"` // that are no files
	Rollout      *Rollout      `json:"rollout,omitempty"`      // as it was at the last look

	Reload    *Reload               `json:"reload,omitempty"`    // the last one that has ended
	Reloading *Reloading            `json:"reloading,omitempty"` // the one under way
	Sightings []workload.Sighting   `json:"sightings,omitempty"`
	Trips     []workload.Trip       `json:"tripped,omitempty"`         // retired versions that were presented
	Tripped   map[string]int        `json:"retired_requests,omitzero"` // by key of a proxy: how often since the start
	Work      []workload.WorkReport `json:"work,omitempty"`
}

// NotTaken is a configuration that the sidecar has refused while it runs, or that waits for Vault since then.
type NotTaken struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"`
}

// Former is an instance that the sidecar was under an earlier configuration, and whose values the workload may use. Its lease is
// not extended since then; without a lease, a rotation may retire them.
type Former struct {
	Workload string    `json:"workload"`
	Instance string    `json:"instance"`
	Since    time.Time `json:"since"`
	Error    string    `json:"error"`
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

// Reloading is a reload under way.
type Reloading struct {
	Since time.Time     `json:"since"`
	Limit time.Duration `json:"limit_ns,omitempty"` // 0: none is known
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
	b.state.Reloading = nil
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

const namespace = "hyvve_sidecar_"

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+name, help, labels, nil)
}

// Labels have the names of keys, columns and results only, all of which are few and come from the configuration.
var (
	descInfo     = describe("info", "Is 1; labels tell what the sidecar is.", "version", "mode", "workload", "instance")
	descReady    = describe("ready", "Whether what the workload needs to start is in place.")
	descLoaded   = describe("loaded", "Whether the workload has proved itself with the bundle of now.")
	descHealthy  = describe("healthy", "The last verdict on the workload.")
	descVaultUp  = describe("vault_up", "Whether Vault took the last request.")
	descFaults   = describe("vault_errors_total", "Requests that Vault did not take, logins included.")
	descVersion  = describe("key_version", "Version of a key that the bundle of now presents, or newest that it accepts.", "key")
	descCreated  = describe("key_created_timestamp_seconds", "When that version was made.", "key")
	descAccepted = describe("key_accepted_versions", "Number of versions of a key that are accepted.", "key")
	descChanged  = describe("last_change_timestamp_seconds", "When what is rendered last changed.")
	descReported = describe("last_report_timestamp_seconds", "When the engine last took a report.")
	descReloads  = describe("reloads_total", "Reloads of the workload, by how they ended.", "result")
	descSeen     = describe("proxy_old_requests", "Requests that presented an accepted value other than the newest, of versions that are still accepted.", "key")
	descLastSeen = describe("proxy_last_old_request_timestamp_seconds", "When the last of them came.", "key")
	descTripped  = describe("proxy_retired_requests_total", "Requests that presented a retired value since the sidecar has started: a forgotten job or an intruder.", "key")
	descLastTrip = describe("proxy_last_retired_request_timestamp_seconds", "When the last of them came.", "key")
	descRows     = describe("reencrypt_rows", "Rows of a column that the engine asks to re-encrypt, by what they are.", "column", "state")
	descWritten  = describe("destination_up", "Whether the last look at a Secret, or write of it, has succeeded.", "destination")
	descPods     = describe("rollout_pods", "Pods of the workload that is restarted, by whether they hold what the Secrets hold now, at the last look.", "rollout", "state")
	descRate     = describe("reencrypt_rows_per_second", "How fast re-encryption goes, of the work under way.")
)

// collector returns the board as metrics, as it is when it is asked.
type collector struct{ board *Board }

var _ prometheus.Collector = collector{}

// Registry returns the board's metrics, those of the process and those of the Go runtime.
func (b *Board) Registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{b}, b.duration, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInfo, descReady, descLoaded, descHealthy, descVaultUp, descFaults, descVersion, descCreated, descAccepted,
		descChanged, descReported, descReloads, descSeen, descLastSeen, descTripped, descLastTrip, descRows, descRate, descWritten, descPods,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.board.State()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	moment := func(d *prometheus.Desc, t time.Time, labels ...string) {
		if !t.IsZero() {
			gauge(d, float64(t.UnixMilli())/1000, labels...)
		}
	}
	gauge(descInfo, 1, s.Version, s.Mode, s.Workload, s.Instance)
	gauge(descReady, number(s.Ready))
	gauge(descHealthy, number(s.Healthy))
	for _, k := range s.Keys {
		gauge(descVersion, float64(k.Version), k.Name)
		moment(descCreated, k.Created, k.Name)
		if len(k.Accepts) > 0 {
			gauge(descAccepted, float64(len(k.Accepts)), k.Name)
		}
	}
	for _, d := range s.Destinations {
		gauge(descWritten, number(d.Up), d.Name)
	}
	if r := s.Rollout; r != nil {
		gauge(descPods, float64(r.Pods-r.Old), r.Name, "new")
		gauge(descPods, float64(r.Old), r.Name, "old")
	}
	moment(descChanged, s.Changed)
	moment(descReported, s.Reported)
	c.collectSightings(s, gauge, moment)
	c.collectTrips(s, ch, moment)
	c.collectWork(s, gauge)
	c.board.mu.Lock()
	reloads, faults := maps.Clone(c.board.reloads), c.board.faults
	c.board.mu.Unlock()
	for result, n := range reloads {
		ch <- prometheus.MustNewConstMetric(descReloads, prometheus.CounterValue, float64(n), result)
	}
	if s.Vault != nil {
		gauge(descLoaded, number(s.Loaded))
		gauge(descVaultUp, number(s.Vault.Up))
		ch <- prometheus.MustNewConstMetric(descFaults, prometheus.CounterValue, float64(faults))
	}
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// collectSightings sums over versions, whose numbers grow without bound, and over proxies.
func (collector) collectSightings(s State, gauge func(*prometheus.Desc, float64, ...string), moment func(*prometheus.Desc, time.Time, ...string)) {
	count, last := map[string]int{}, map[string]time.Time{}
	for _, seen := range s.Sightings {
		count[seen.Env] += seen.Count
		if seen.Last.After(last[seen.Env]) {
			last[seen.Env] = seen.Last
		}
	}
	for name, n := range count {
		gauge(descSeen, float64(n), name)
		moment(descLastSeen, last[name], name)
	}
}

// collectTrips sums over versions and proxies, too. Where nobody has presented a retired value, it is 0: an alert needs that.
func (collector) collectTrips(s State, ch chan<- prometheus.Metric, moment func(*prometheus.Desc, time.Time, ...string)) {
	for name, n := range s.Tripped {
		ch <- prometheus.MustNewConstMetric(descTripped, prometheus.CounterValue, float64(n), name)
	}
	last := map[string]time.Time{}
	for _, t := range s.Trips {
		if t.Last.After(last[t.Env]) {
			last[t.Env] = t.Last
		}
	}
	for name, at := range last {
		moment(descLastTrip, at, name)
	}
}

// collectWork returns one row count for a column, though several pieces of work may be about it: the last is that of now.
func (collector) collectWork(s State, gauge func(*prometheus.Desc, float64, ...string)) {
	type place struct{ column, state string }
	rows, rate := map[place]int{}, 0.0
	for _, w := range s.Work {
		rate += w.Rate
		for _, c := range w.Columns {
			for state, n := range map[string]int{"total": c.Total, "staged": c.Staged, "rotated": c.Rotated, "left": c.Left, "other": c.Other, "bad": c.Bad} {
				rows[place{c.Column, state}] = n
			}
		}
	}
	for at, n := range rows {
		gauge(descRows, float64(n), at.column, at.state)
	}
	if len(s.Work) > 0 {
		gauge(descRate, rate)
	}
}
