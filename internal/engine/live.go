// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// LiveInstance is an instance as it stands now.
type LiveInstance struct {
	workload.Instance
	Heard     time.Duration // since its last sign of life
	Lease     time.Duration // until it no longer counts as live, if nothing is heard of it; negative: it is about to be removed
	FreeIn    time.Duration // until another login of the same entity may use its name; 0: now
	Heartbeat bool          // it sends signs of life every few seconds
}

// Instance returns an instance of a workload; false: there is none.
func (s *state) Instance(workloadName, id string) (LiveInstance, bool) {
	m, unlock := s.memory.Lock()
	defer unlock()
	f := m.fleets[workloadName]
	if f == nil {
		return LiveInstance{}, false
	}
	i, ok := f.by[id]
	if !ok {
		return LiveInstance{}, false
	}
	now, l := s.Uptime(), f.leases[id]
	until, _ := m.heldUntil(i, l, i.Login)
	return LiveInstance{
		Instance: i, Heard: max(now-l.heard, 0), Lease: l.gone - now, FreeIn: max(until-now, 0), Heartbeat: l.heartbeat,
	}, true
}

// RemoveInstance removes an instance at an operator's word: rotations no longer wait for it. One that lives reads its bundle
// again, and is a new instance then.
func (e *Engine) RemoveInstance(ctx context.Context, workloadName, id string, by rotation.Actor) error {
	l, release := e.acquire()
	defer release()
	if _, ok := l.workloads[workloadName]; !ok {
		return unknownWorkload(workloadName)
	}
	i, ok := e.Instance(workloadName, id)
	if !ok {
		return nil
	}
	changes := fields{"instance": id, "login": i.Login.Name, "etag_issued": i.Issued.Etag}.changes(nil)
	if err := e.journal.Add(ctx, journal.Entry{What: "instance removed", By: by.Name, Entity: by.Entity, Workload: workloadName, Changes: changes}); err != nil {
		return err
	}
	return e.drop(ctx, workloadName, id, func(*fleet, workload.Instance) bool { return true })
}
