// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Extended is the answer to Extend.
type Extended struct {
	Etag  string        // of the bundle that the instance should have
	Lease time.Duration // until it should be heard of again
}

// Extend lets an instance count as live for another lease, at most limit, from now on. It is believed only with the secret
// of the instance's newest read. From then on the instance no longer depends on the lease that Vault keeps: a user who revokes
// that one, or a token's end, does not remove an instance that reports. After a restart all instances have a lease's time
// to be heard of, so that nothing is stored.
func (s *state) Extend(workloadName, id string, secret key.Value, limit time.Duration) (Extended, error) {
	if err := s.down(); err != nil {
		return Extended{}, err
	}
	m, unlock := s.memory.Lock()
	defer unlock()
	w, i, err := m.reporter(workloadName, id, secret)
	if err != nil {
		return Extended{}, err
	}
	f := m.fleets[w.Name]
	given, full := m.ttl(i.Issued.Keys, s.Now(), limit)
	f.Extend(id, full)
	f.Seen(i, s.Now().UTC())
	return Extended{m.target(w, i).Etag, given}, nil
}

// Leave removes an instance at its own word, which is believed only with the secret of its newest read. It may be repeated.
func (s *state) Leave(ctx context.Context, workloadName, id string, secret key.Value) error {
	if err := s.down(); err != nil {
		return err
	}
	var err error
	known := false
	s.lock(func(m *memory) {
		if _, ok := m.Workloads[workloadName]; !ok {
			err = catalog.UnknownWorkload(workloadName)
			return
		}
		if _, known = m.fleets[workloadName].Get(id); known {
			_, _, err = m.reporter(workloadName, id, secret)
		}
	})
	if err != nil {
		return err
	}
	read := fleet.ReadOf(secret)
	if !known {
		if !secret.Equal(s.secrets().Secret(workloadName+"/"+id, read)) {
			return rotation.Refusef("instance_secret is not one of %s/%s, which has no lease", workloadName, id)
		}
		return nil
	}
	return s.drop(ctx, workloadName, id, func(_ *fleet.Fleet, i workload.Instance) bool { return i.Epoch == read.String() })
}
