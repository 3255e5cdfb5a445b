// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
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
