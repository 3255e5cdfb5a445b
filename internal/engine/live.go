// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Instance returns an instance of a workload as it stands now; false: there is none.
func (s *state) Instance(workloadName, id string) (fleet.Live, bool) {
	m, unlock := s.memory.Lock()
	defer unlock()
	return m.fleets[workloadName].Live(id, m.Defaults.TakeoverAfter)
}

// Crowded returns that a workload has hit a limit of instances lately; false: it has not.
func (s *state) Crowded(workloadName string) (fleet.Crowd, bool) {
	m, unlock := s.memory.Lock()
	defer unlock()
	return m.fleets[workloadName].Crowded(s.Now())
}

// SignOfLife notes that an instance has asked for something. False: the instance is another login's, which has not.
func (s *state) SignOfLife(workloadName, id string, t fleet.Token) (own bool) {
	login := s.secrets().Login(t)
	m, unlock := s.memory.Lock()
	defer unlock()
	f := m.fleets[workloadName]
	i, ok := f.Get(id)
	if !ok {
		return true
	}
	if i.Login.Known() && !i.Login.Same(login) {
		return false
	}
	f.Alive(id)
	return true
}

// RemoveInstance removes an instance at an operator's word: rotations no longer wait for it. One that lives reads its bundle
// again, and is a new instance then.
func (e *Engine) RemoveInstance(ctx context.Context, workloadName, id string, by rotation.Actor) error {
	l, release := e.acquire()
	defer release()
	if _, ok := l.Workloads[workloadName]; !ok {
		return catalog.UnknownWorkload(workloadName)
	}
	i, ok := e.Instance(workloadName, id)
	if !ok {
		return nil
	}
	changes := catalog.Fields{"instance": id, "login": i.Login.Name, "etag_issued": i.Issued.Etag}.Changes(nil)
	if err := e.journal.Add(ctx, journal.Entry{What: "instance removed", By: by.Name, Entity: by.Entity, Workload: workloadName, Changes: changes}); err != nil {
		return err
	}
	return e.drop(ctx, workloadName, id, func(*fleet.Fleet, workload.Instance) bool { return true })
}
