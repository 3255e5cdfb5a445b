// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/version"
)

// gauge describes a metric of the engine.
func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("hyvve_"+name, help, labels, nil)
}

// The metrics of the engine. docs/monitoring.md lists them; TestMetricsPage compares.
var (
	metricInfo = gauge("engine_info", "1, with the version of the plugin.", "version")

	metricKeyVersion   = gauge("key_version", "Number of the version that workloads present; 0: none yet.", "key", "kind")
	metricKeyCreated   = gauge("key_version_created_timestamp_seconds", "When that version was made.", "key")
	metricKeyDue       = gauge("key_next_rotation_timestamp_seconds", "When the key rotates by itself, or should have; absent: it does not.", "key")
	metricKeyRotating  = gauge("key_rotating", "1 while a rotation of the key runs.", "key")
	metricKeyBlocked   = gauge("key_start_blocked", "1 while a scheduled rotation of the key cannot start.", "key")
	metricKeyOrphan    = gauge("key_orphaned", "1 if work on the key has failed twelve times in a row: waiting does not mend it.", "key")
	metricKeyProblems  = gauge("key_problems", "What the last check of the key's server and connection found wrong.", "key")
	metricKeyRefused   = gauge("key_retired_version_tried", "1 if somebody still tries a retired version of the key at its server.", "key")
	metricKeyCut       = gauge("key_cut", "1 for a day after a rotation of the key has cut somebody off.", "key")
	metricKeyTripped   = gauge("key_retired_requests", "Requests that presented a retired version of the key to a proxy, of versions still looked for.", "key")
	metricKeyTripOpen  = gauge("key_retired_requests_unacknowledged", "Those of them that nobody has acknowledged: a forgotten job or an intruder.", "key")
	metricKeyUndeleted = gauge("key_undeleted_versions", "Undeleted versions of the key, which are accepted again.", "key")

	metricRotationStart    = gauge("rotation_start_timestamp_seconds", "When a running rotation was started.", "rotation", "keys", "trigger", "compromised")
	metricRotationStep     = gauge("rotation_step_start_timestamp_seconds", "When a running rotation has begun its step.", "rotation", "keys", "state", "step")
	metricRotationGate     = gauge("rotation_gate_waiting", "1 for each gate that holds a running rotation back.", "rotation", "keys", "gate")
	metricRotationFailed   = gauge("rotation_failed_attempts", "Attempts at the current step of a running rotation that failed in a row.", "rotation", "keys")
	metricRotationPaused   = gauge("rotation_paused", "1 while a running rotation is paused.", "rotation", "keys")
	metricRotationDeadline = gauge("rotation_deadline_timestamp_seconds", "When the deadline of a running rotation's step ends; absent: there is none.", "rotation", "keys")

	metricInstances  = gauge("workload_instances", "Live instances of a workload.", "workload")
	metricMinimum    = gauge("workload_min_instances", "Live instances that a workload must have for a rotation to proceed.", "workload")
	metricUnhealthy  = gauge("workload_unhealthy_instances", "Live instances of a workload that are not healthy.", "workload")
	metricLockedOut  = gauge("workload_locked_out_instances", "Live instances of a workload that run with a retired version of a key.", "workload")
	metricLeaving    = gauge("workload_leaving_instances", "Instances of a workload whose sidecars have stopped beside their processes; for a day also where the lease has ended since, and the process may hold a retired version.", "workload")
	metricUnproved   = gauge("workload_unproved_instances", "Live instances of a workload that prove less than it requires (require_proof), so that rotations wait for them.", "workload")
	metricConflicts  = gauge("workload_name_conflicts", "Names of instances of a workload that two processes use.", "workload")
	metricLimitHit   = gauge("workload_limit_hit", "1 for a day after reads of a workload were refused, because there were too many instances.", "workload")
	metricConnection = gauge("connection_problems", "What the last check of a connection's server found wrong; a server that does not answer counts, too.", "connection")
	metricChecked    = gauge("connection_check_timestamp_seconds", "When a connection's server was last checked.", "connection")
)

// engineMetrics collects them as they are now.
type engineMetrics struct{ e *engine.Engine }

// Describe describes none: the collector is unchecked, since what there is depends on the definitions.
func (engineMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect sends all.
func (m engineMetrics) Collect(ch chan<- prometheus.Metric) {
	s := sender{ch}
	s.send(metricInfo, 1, version.Version)
	seen := map[string]bool{} // rotations, each of which may have several keys
	for _, k := range m.e.Status() {
		s.key(k)
		if k.Rotation != nil && !seen[k.Rotation.ID] {
			seen[k.Rotation.ID] = true
			s.rotation(k)
		}
	}
	for _, name := range m.e.WorkloadNames() {
		s.workload(m.e, name)
	}
	for _, name := range m.e.ConnectionNames() {
		health := m.e.ConnectionHealth(name)
		s.send(metricConnection, float64(len(health.Texts())), name)
		s.moment(metricChecked, health.At, name)
	}
}

type sender struct{ ch chan<- prometheus.Metric }

func (s sender) send(d *prometheus.Desc, value float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

// flag sends 1 or 0.
func (s sender) flag(d *prometheus.Desc, is bool, labels ...string) {
	value := 0.0
	if is {
		value = 1
	}
	s.send(d, value, labels...)
}

// moment sends a time in seconds since 1970, if there is one.
func (s sender) moment(d *prometheus.Desc, t time.Time, labels ...string) {
	if !t.IsZero() {
		s.send(d, float64(t.UnixMilli())/1000, labels...)
	}
}

func (s sender) key(k engine.KeyStatus) {
	name := k.Key.Name
	current, _ := k.Key.Current()
	s.send(metricKeyVersion, float64(current.Number), name, k.Key.Kind)
	s.moment(metricKeyCreated, current.Created, name)
	s.moment(metricKeyDue, k.Owed, name)
	s.flag(metricKeyRotating, k.Rotation != nil, name)
	s.send(metricKeyTripped, float64(k.Tripped.All), name)
	s.send(metricKeyTripOpen, float64(k.Tripped.Open), name)
	s.flag(metricKeyBlocked, k.Rotation == nil && k.Waits != "", name)
	s.flag(metricKeyOrphan, k.Orphan, name)
	s.send(metricKeyProblems, float64(len(k.Problems)), name)
	s.flag(metricKeyRefused, k.Refused != "", name)
	s.flag(metricKeyCut, k.Cut != "", name)
	s.send(metricKeyUndeleted, float64(len(k.Key.Undeleted())), name)
}

func (s sender) rotation(k engine.KeyStatus) {
	r := *k.Rotation
	keys := strings.Join(r.KeyNames(), ",")
	s.moment(metricRotationStart, r.Created, r.ID, keys, string(r.Trigger), strconv.FormatBool(r.Compromised))
	s.moment(metricRotationStep, r.Since, r.ID, keys, string(r.State), string(r.Step))
	for _, gate := range k.Gates {
		s.send(metricRotationGate, 1, r.ID, keys, gate)
	}
	s.send(metricRotationFailed, float64(r.Attempts), r.ID, keys)
	s.flag(metricRotationPaused, r.Paused != nil, r.ID, keys)
	if r.Deadline > 0 && r.Paused == nil {
		s.moment(metricRotationDeadline, r.Clock.Add(r.Deadline), r.ID, keys)
	}
}

func (s sender) workload(e *engine.Engine, name string) {
	w, ok := e.Workload(name)
	if !ok {
		return
	}
	out, unhealthy := e.LockedOut(name), 0
	instances := e.Instances(name)
	for _, i := range instances {
		if healthy, _ := healthOf(i, lockedOutText(out, i)); !healthy {
			unhealthy++
		}
	}
	_, crowded := e.Crowded(name)
	s.send(metricInstances, float64(len(instances)), name)
	s.send(metricMinimum, float64(w.MinInstances), name)
	s.send(metricUnhealthy, float64(unhealthy), name)
	s.send(metricLockedOut, float64(len(out)), name)
	s.send(metricLeaving, float64(len(e.StoppedSidecars(name))), name)
	s.send(metricUnproved, float64(e.Unproved(name)), name)
	s.send(metricConflicts, float64(len(e.NameConflicts(name))), name)
	s.flag(metricLimitHit, crowded, name)
}
