// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Leaving notes that the sidecar of an instance stops and that its process may run on. The instance counts as live for another
// lease, at most limit. It proves nothing until its next read. That is believed only with the secret of its newest read, and may be
// repeated, which does not prolong the lease.
func (s *state) Leaving(ctx context.Context, workloadName, id string, secret key.Value, limit time.Duration) (answer Extended, err error) {
	if err := s.down(); err != nil {
		return Extended{}, err
	}
	defer s.instances.Lock(workloadName + "/" + id)()
	var w workload.Workload
	var i workload.Instance
	var full time.Duration
	s.lock(func(m *memory) {
		if w, i, err = m.reporter(workloadName, id, secret); err == nil {
			answer.Etag = m.target(w, i).Etag
			answer.Lease, full = m.ttl(i.Issued.Keys, s.Now(), limit)
		}
	})
	now := s.Now().UTC()
	switch {
	case err != nil:
		return Extended{}, err
	case !i.Leaving.IsZero():
		answer.Lease = max(i.Leaving.Until.Sub(now), 0)
		return answer, nil
	}
	answer.Lease = full
	i.Seen, i.Leaving = now, workload.Leaving{At: now, Until: now.Add(full)}
	if err := s.put(ctx, pathInstances+i.Name(), i); err != nil {
		return Extended{}, err
	}
	s.lock(func(m *memory) {
		f := m.fleets[w.Name]
		f.Reported(i, true)
		f.Leaving(id, full)
	})
	s.nudge()
	return answer, nil
}

// Stopped is an instance whose sidecar has stopped beside its process.
type Stopped struct {
	workload.Instance
	Lapsed bool   // its lease has ended
	Text   string // what that means, and what to do
}

// StoppedSidecars returns the instances of a workload whose sidecars have stopped beside their processes: those that count as live,
// and those whose lease has ended in the last day if they hold a version that is retired.
func (s *state) StoppedSidecars(name string) (all []Stopped) {
	s.lock(func(m *memory) {
		for _, i := range m.fleets[name].All() {
			if !i.Leaving.IsZero() {
				all = append(all, Stopped{i, false, rotation.LeavingText(i)})
			}
		}
		for _, l := range m.fleets[name].Lapsed(s.Now()) {
			if out := m.lockedOut(l.Instance); out != "" {
				l.Leaving.Until = l.At
				all = append(all, Stopped{l.Instance, true, rotation.LapsedText(l.Instance, out)})
			}
		}
	})
	return all
}
