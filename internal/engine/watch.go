// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
)

// Arrived says that Vault has let a request in.
func (s *state) Arrived() { s.waiters.Arrived() }

// AwaitsEnd lets a request wait for a rotation's end until ended is closed. Its caller calls leave. [fleet.ErrCrowded]: too many
// do.
func (s *state) AwaitsEnd() (ended <-chan struct{}, leave func(), err error) {
	return s.waiters.AwaitsEnd()
}

// Watch returns when the instance's etag is no longer the given one, or after patience, or earlier without news; see
// [fleet.Waiters.Watch].
func (s *state) Watch(ctx context.Context, workloadName, id, etag string, patience time.Duration) (fleet.Watched, error) {
	now := func() (string, <-chan struct{}, error) { return s.etagNow(workloadName, id) }
	return s.waiters.Watch(ctx, s.ctx, workloadName, id, etag, patience, now)
}

func (s *state) etagNow(workloadName, id string) (string, <-chan struct{}, error) {
	m, unlock := s.memory.Lock()
	defer unlock()
	w, ok := m.Workloads[workloadName]
	if !ok {
		return "", nil, catalog.UnknownWorkload(workloadName)
	}
	f := m.fleets[workloadName]
	i, ok := f.Get(id)
	if !ok {
		return "", f.Changed(), nil
	}
	f.Watching(id)
	return m.target(w, i).Etag, f.Changed(), nil
}
