// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Reading is what a read of creds/ returns.
type Reading struct {
	Bundle   workload.Bundle
	Instance string
	Secret   key.Value // proves reports of this instance until its next read
	Epoch    string    // names this read in Renew and Revoke
	TTL      time.Duration
	Missing  []string // environment names of keys that have no version yet
}

// Read returns an instance its bundle and makes it, or keeps it, a live instance. A newer read supersedes an older one. No
// lease on it lasts for longer than limit.
//
// What it is given counts as evidence before it is stored: a rotation must not go on meanwhile as if nobody had it. A
// read that returns the same bundle again stores nothing: what it would change is that its lease is the newest, and after
// a crash that is learned from its next word (see Revoke).
func (s *state) Read(ctx context.Context, reader fleet.Reader, limit time.Duration) (Reading, error) {
	epoch, err := s.newEpoch()
	if err != nil {
		return Reading{}, err
	}
	if err := reader.Check(); err != nil {
		return Reading{}, err
	}
	i := reader.As(s.secrets(), epoch)
	defer s.instances.Lock(i.Name())()
	reading, i, known, err := s.issue(i, reader.Secret, epoch, limit)
	if err != nil || known {
		return reading, err
	}
	if err := s.put(ctx, pathInstances+i.Name(), i); err != nil {
		return Reading{}, err
	}
	s.nudge()
	return reading, nil
}

// issue hands an instance what it should hold, in memory, and reports whether it was stored with that already. proof is the
// secret of an earlier read of its.
func (s *state) issue(i workload.Instance, proof key.Value, epoch fleet.Read, limit time.Duration) (reading Reading, issued workload.Instance, known bool, err error) {
	m, unlock := s.enter(i.Workload)
	defer unlock()
	w, ok := m.Workloads[i.Workload]
	if !ok {
		return Reading{}, i, false, catalog.UnknownWorkload(i.Workload)
	}
	f, same, now := m.fleets[w.Name], false, s.Now().UTC()
	if old, ok := f.Get(i.ID); ok {
		if err := f.CheckLogin(old, i.Login, proof, m.Defaults.TakeoverAfter); err != nil {
			return Reading{}, i, false, err
		}
		i, same = fleet.Says(old, i)
	} else if err := f.CheckRoom(w, i, m.Defaults.LoginInstances, now); err != nil {
		return Reading{}, i, false, err
	}
	if i.LoggedIn.IsZero() {
		i.LoggedIn = now
	}
	t := m.target(w, i)
	if err := m.checkHolds(i, t.Held); err != nil {
		return Reading{}, i, false, err
	}
	ttl, full := m.ttl(t.Held, now, limit)
	known = same && f.Sure(i.ID) && i.Issued.Etag == t.Etag && ttl <= i.TTL
	i.Epoch, i.Seen = epoch.String(), now
	if !known {
		f.Give()
		i = i.Given(workload.Holding{Etag: t.Etag, At: now, Keys: t.Held})
		i.TTL = ttl
	}
	bundle, err := workload.Fill(i.Issued, t.Work, source{m.Catalog})
	if err != nil {
		return Reading{}, i, false, fmt.Errorf("bundle of %s: %w", i.Name(), err)
	}
	f.Put(i)
	f.Renew(i.ID, ttl, full, i.Heartbeat)
	reading = Reading{Bundle: bundle, Instance: i.ID, Secret: s.secrets().Secret(i.Name(), epoch), Epoch: i.Epoch, TTL: ttl}
	if len(t.Held) < len(w.Keys) {
		for _, name := range w.KeyNames() {
			if _, ok := t.Held[name]; !ok {
				reading.Missing = append(reading.Missing, m.Keys[name].Env)
			}
		}
	}
	return reading, i, known, nil
}

// source is the catalog as the source of bundles.
type source struct{ *catalog.Catalog }

var _ workload.Source = source{}

// Key implements workload.Source.
func (s source) Key(name string) (key.Key, bool) {
	k, ok := s.Keys[name]
	return k, ok
}

// Render implements workload.Source.
func (s source) Render(k key.Key, value key.Value) (map[string]key.Value, error) {
	names := map[string]key.Value{}
	if r, ok := s.KindOf(k).(kind.Renderer); ok {
		var err error
		if names, err = r.Render(k.Options, value); err != nil {
			return nil, err
		}
	}
	if names == nil {
		names = map[string]key.Value{}
	}
	names[k.Env] = value
	return names, nil
}

func (s *state) newEpoch() (fleet.Read, error) {
	if err := s.down(); err != nil {
		return fleet.Read{}, err
	}
	generation := s.generation.Load()
	if generation == 0 {
		return fleet.Read{}, errors.New("this node does not write; ask the active one")
	}
	return fleet.Read{Generation: generation, Number: s.reads.Add(1)}, nil
}

// ttl is how long a lease on these versions lasts: the configured time, within limit, and never beyond the life of a
// version; and how long without the latter.
func (m *memory) ttl(held map[string]workload.Held, now time.Time, limit time.Duration) (given, full time.Duration) {
	full = max(min(m.Defaults.LeaseTTL, limit), time.Second)
	given = full
	for name := range held {
		if m.rotating[name] != "" {
			continue
		}
		if left, limited := m.remaining(m.Keys[name], now); limited {
			given = min(given, max(left, time.Second))
		}
	}
	return given, full
}

// Renew tells for how long a lease may go on, within limit, and refuses once its instance should hold another bundle.
func (s *state) Renew(workloadName, id, epoch string, limit time.Duration) (time.Duration, error) {
	if err := s.down(); err != nil {
		return 0, err
	}
	m, unlock := s.memory.Lock()
	defer unlock()
	superseded := rotation.Refusef("the lease of %s/%s is superseded by a newer read, or its instance was removed; read hyvve/creds/%s again", workloadName, id, workloadName)
	w, known := m.Workloads[workloadName]
	if !known {
		return 0, superseded
	}
	f := m.fleets[workloadName]
	i, ok := f.Get(id)
	if !ok {
		return 0, superseded
	}
	if i, ok = f.Heard(i, epoch); !ok {
		return 0, superseded
	}
	if m.target(w, i).Etag != i.Issued.Etag {
		return 0, rotation.Refusef("%s should hold another bundle by now; read hyvve/creds/%s again", i.Name(), workloadName)
	}
	ttl, full := m.ttl(i.Issued.Keys, s.Now(), limit)
	f.Renew(id, ttl, full, false)
	return ttl, nil
}

// Revoke removes the instance whose newest read opened that lease. The lease of an older read removes nothing. Nor does a
// lease that has run out for reasons that are not its instance's, which still runs and comes back:
//
// It was cut short by a version's life. Such an instance goes when the lease would have ended otherwise; one without a
// name comes back as another, if it does, and is given the time to.
//
// Or the engine has just started, so that Vault was away, or has another clock now. And it is not known then which read
// was an instance's newest, until it is heard of. Such an instance goes when it has had the time to come back; one without
// a name cannot, and goes when its lease must have ended.
//
// Or its reports have extended it, whatever becomes of Vault's lease. Such an instance goes when it has not been heard of
// for a lease.
//
// Or another login was refused its name, which may be that of the same process: it goes when that had the time to come back.
func (s *state) Revoke(ctx context.Context, workloadName, id, epoch string) error {
	if err := s.down(); err != nil {
		return err
	}
	return s.drop(ctx, workloadName, id, func(f *fleet.Fleet, i workload.Instance) bool { return f.Revoke(i, epoch) })
}
