// SPDX-License-Identifier: Apache-2.0

package status

import (
	"maps"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

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
		descChanged, descReported, descReloads, descSeen, descLastSeen, descRows, descRate, descWritten, descPods,
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
