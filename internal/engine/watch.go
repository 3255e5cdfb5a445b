// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"time"
)

// Watched is the answer to a watch.
type Watched struct {
	Etag       string // empty: the instance is not known and should read its bundle
	Superseded bool   // a newer watch of the instance has ended this one
	// RetryAfter is set where all watches of the mount end together: each is to begin again after between half of it and
	// all of it, so that they do not come back all at once while Vault is busy with what they were ended for.
	RetryAfter time.Duration
}

// Watch returns when the instance's etag is no longer the given one, or after wait, or earlier without news: after
// LongestWatch, when a newer watch of the instance comes, or when others must not wait for it. It does not wait for an
// instance that is not known. ErrCrowded: too many wait.
func (s *state) Watch(ctx context.Context, workloadName, id, etag string, patience time.Duration) (Watched, error) {
	now, changed, err := s.etagNow(workloadName, id)
	if err != nil || now != etag || now == "" || patience <= 0 {
		return Watched{Etag: now}, err
	}
	begun, err := s.waiters.watch(workloadName, workloadName+"/"+id)
	if err != nil {
		return Watched{}, err
	}
	defer s.waiters.leave(begun)
	timer := time.NewTimer(min(patience, LongestWatch))
	defer timer.Stop()
	for {
		select {
		case <-changed:
		case <-begun.ended:
			return begun.answer(now), nil
		case <-timer.C:
			s.waiters.answered.Add(1)
			return Watched{Etag: now}, nil
		case <-ctx.Done():
			return Watched{Etag: now}, nil
		case <-s.ctx.Done():
			s.waiters.leave(begun) // unless Close has ended it
			return begun.answer(now), nil
		}
		if now, changed, err = s.etagNow(workloadName, id); err != nil || now != etag {
			return Watched{Etag: now}, err
		}
	}
}

func (s *state) etagNow(workloadName, id string) (string, <-chan struct{}, error) {
	m, unlock := s.memory.Lock()
	defer unlock()
	w, ok := m.workloads[workloadName]
	if !ok {
		return "", nil, unknownWorkload(workloadName)
	}
	f := m.fleets[workloadName]
	i, ok := f.by[id]
	if !ok {
		return "", f.changed, nil
	}
	if l := f.leases[id]; !l.sure { // no proof of which lease is its newest, but of life
		l.gone = max(l.gone, s.Uptime()+returnTime)
		f.leases[id] = l
	}
	return m.target(w, i).etag, f.changed, nil
}
