// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// records is what the engine has stored of keys, workloads, connections and rotations. A change of it is stored under the
// writer lock, and swapped in under the memory's lock as well. So [locked] reads it, and so does [memory].
type records struct {
	*catalog.Catalog
	active   map[string]rotation.Rotation // by id
	rotating map[string]string            // ids, by key name
	starts   map[string]schedule.Fault    // of automatic rotations, by key name
	lapsing  map[versionID]schedule.Fault // ends of undeleted versions that have failed
	agenda   schedule.Agenda              // of automatic rotations
}

// memory is what the engine has in memory. It is reached under its own lock alone, for moments: [state.lock] calls a function with it.
type memory struct {
	*records
	progress   map[string]workload.WorkReport  // by Work.ID
	counted    map[string]counted              // rows, by key name
	looks      map[string]rotation.Look        // at rows, by Work.ID
	observed   map[string]rotation.Observation // by rotation
	health     map[string]Health               // by what was checked
	intended   map[versionID]string            // what a check has journaled that it restores, until that is valid
	restoring  map[string]bool                 // keys that an inspection is about
	fleets     map[string]*fleet.Fleet         // by workload
	ends       map[string]chan struct{}        // of rotations that somebody waits for, by id
	dirty      map[string]bool                 // workloads whose watchers are woken when the writer lock is released
	graceUntil time.Duration                   // by Uptime: until then instances may come back to this engine; see Facts.Grace
	closed     bool
}

func newMemory(r *records) *memory {
	return &memory{
		records:   r,
		progress:  map[string]workload.WorkReport{},
		counted:   map[string]counted{},
		looks:     map[string]rotation.Look{},
		observed:  map[string]rotation.Observation{},
		health:    map[string]Health{},
		intended:  map[versionID]string{},
		restoring: map[string]bool{},
		fleets:    map[string]*fleet.Fleet{},
		ends:      map[string]chan struct{}{},
		dirty:     map[string]bool{},
	}
}

func newRecords(c *catalog.Catalog) *records {
	return &records{
		Catalog:  c,
		active:   map[string]rotation.Rotation{},
		rotating: map[string]string{},
		starts:   map[string]schedule.Fault{},
		lapsing:  map[versionID]schedule.Fault{},
		agenda:   schedule.NewAgenda(),
	}
}

// versionID names a version of a key.
type versionID struct {
	key    string
	number int
}

// counted is what an instance has last counted of a key's rows.
type counted struct {
	report   workload.WorkReport
	at       time.Time
	instance string
}

// Health is what the last check of a key or of a connection found. It is not stored: after a restart all are checked soon.
type Health struct {
	At       time.Time // of the check; zero: there was none yet
	Problems []kind.Problem
	Fault    string   // why the check itself failed, such as a server that does not answer
	Notes    []string // what an operator should know although nothing is wrong
	Mended   []string // what has been restored without being asked for
	Refused  string   // who still tries a version that is retired; empty: nobody, as far as the server tells
}

// Texts returns what is wrong, each problem with its remedy.
func (h Health) Texts() []string {
	var all []string
	told := false // by the fault, which says of a problem that it could not be mended
	for _, p := range h.Problems {
		all = append(all, p.String())
		told = told || strings.Contains(h.Fault, p.Text)
	}
	if h.Fault != "" && !told {
		all = append([]string{h.Fault}, all...)
	}
	return all
}

// never is the time of what is not planned.
var never time.Time

// closedEnd is that of a rotation that has ended already.
var closedEnd = func() chan struct{} {
	end := make(chan struct{})
	close(end)
	return end
}()

// erased reports whether a value that the rotation erases is gone, so that it cannot go back any more. Reports that come
// then are late: the value went on evidence that is stored.
func (rs *records) erased(r rotation.Rotation) bool {
	return r.Action() == rotation.ActErase && slices.ContainsFunc(r.Changes, func(c rotation.Change) bool {
		v, ok := rs.Keys[c.Key].Version(r.Leaving(c))
		return ok && !v.State.Live()
	})
}

// remaining is how long a lease on a key's current version may last: to its end, and without limit where it has none. A
// version that is overdue has no life left to go by: its rotation will refuse the renewal.
func (rs *records) remaining(k key.Key, now time.Time) (time.Duration, bool) {
	end := rs.agenda.At(k.Name)
	if k.Policy.Period > 0 && !k.Policy.Disabled {
		if current, ok := k.Current(); ok {
			end = current.Created.Add(k.Policy.Period)
		}
	}
	if left := end.Sub(now); !end.IsZero() && left > 0 {
		return left, true
	}
	return 0, false
}

// lapseFaults says why undeleted versions of a key could not be retired.
func (rs *records) lapseFaults(k key.Key) string {
	var all []string
	for _, number := range k.Undeleted() {
		if reason := rs.lapsing[versionID{k.Name, number}].Reason; reason != "" {
			all = append(all, fmt.Sprintf("version %d: %s", number, reason))
		}
	}
	return strings.Join(all, "; ")
}

// leakedBy returns the rotation of a compromised key that ends the undeleted logins of the key and cannot be reverted any more.
func (rs *records) leakedBy(k key.Key) (r rotation.Rotation, ok bool) {
	r, ok = rs.active[rs.rotating[k.Name]]
	return r, ok && r.State == rotation.Retiring && len(rs.Leaked(r, k)) > 0
}

// endOf is closed when a running rotation ends. Whoever waits for one rotation is woken by nothing else: where many run,
// and many wait, each move of each would wake all.
func (m *memory) endOf(id string) <-chan struct{} {
	if m.closed {
		return closedEnd
	}
	if m.ends[id] == nil {
		m.ends[id] = make(chan struct{})
	}
	return m.ends[id]
}

// ended wakes whoever waits for a rotation's end.
func (m *memory) ended(id string) {
	if end := m.ends[id]; end != nil {
		close(end)
		delete(m.ends, id)
	}
}

const (
	// mostChecks is how many servers are checked at the same time.
	mostChecks = 4
	// mostAbove bounds how far a mark at a server may raise the numbers of a key's versions.
	mostAbove = 10_000
	// The names of checks begin with what they check.
	checksKey        = "keys/"
	checksConnection = "connections/"
)
