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

	first  []string // names of keys of which nobody was given a version before
	lapsed bool     // the instance had lapsed
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
	if err == nil {
		err = s.markIssued(ctx, reading.first...)
	}
	if err != nil || known {
		return reading, err
	}
	if err := s.put(ctx, pathInstances+i.Name(), i); err != nil {
		return Reading{}, err
	}
	s.nudge()
	if reading.lapsed {
		err = s.forgetLapsed(ctx, i.Workload, i.ID)
	}
	return reading, err
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
		if err := f.CheckLogin(old, i.Login, proof, m.Defaults.TakeoverAfter, now); err != nil {
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
	known = same && f.Sure(i.ID) && i.Issued.Etag == t.Etag && ttl <= i.TTL && i.Leaving.IsZero()
	i.Epoch, i.Seen, i.Leaving = epoch.String(), now, workload.Leaving{}
	if !known {
		f.Give()
		i = i.Given(workload.Holding{Etag: t.Etag, At: now, Keys: t.Held})
		i.TTL = ttl
	}
	bundle, err := workload.Fill(i.Issued, t.Work, source{m.Catalog})
	if err != nil {
		return Reading{}, i, false, fmt.Errorf("bundle of %s: %w", i.Name(), err)
	}
	if i.Heartbeat {
		bundle.Tripwires = m.handedTripwires(w, i)
	}
	lapsed := f.HasLapsed(i.ID)
	f.Put(i)
	f.Renew(i.ID, ttl, full, i.Heartbeat)
	reading = Reading{Bundle: bundle, Instance: i.ID, Secret: s.secrets().Secret(i.Name(), epoch), Epoch: i.Epoch, TTL: ttl, first: m.issues(t.Held), lapsed: lapsed}
	if len(t.Held) < len(w.Keys) {
		for _, name := range w.KeyNames() {
			if _, ok := t.Held[name]; !ok {
				reading.Missing = append(reading.Missing, m.Keys[name].Env)
			}
		}
	}
	return reading, i, known, nil
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
	return s.lapse(ctx, workloadName, id, func(f *fleet.Fleet, i workload.Instance) bool { return f.Revoke(i, epoch) })
}

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
	if err := stillReports(i); err != nil {
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

// reporter returns the instance whose secret a report has, and its workload.
func (m *memory) reporter(workloadName, id string, secret key.Value) (workload.Workload, workload.Instance, error) {
	w, ok := m.Workloads[workloadName]
	if !ok {
		return w, workload.Instance{}, catalog.UnknownWorkload(workloadName)
	}
	i, err := m.fleets[w.Name].Reporter(w.Name, id, secret, m.Now())
	return w, i, err
}

// stillReports refuses what comes in the name of an instance whose sidecar has said that it stops.
func stillReports(i workload.Instance) error {
	if i.Leaving.IsZero() {
		return nil
	}
	return rotation.Refusef("the sidecar of %s has said at %s that it stops; read hyvve/creds/%s again", i.Name(), rotation.Stamp(i.Leaving.At), i.Workload)
}

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
	w, _ := s.Workload(workloadName)
	watched, err := s.waiters.Watch(ctx, s.ctx, workloadName, id, etag, w.InstanceLimit(), patience, now)
	if watched.Superseded && ctx.Err() == nil { // a process that closes a watch and opens the next one may find the one before
		s.lock(func(m *memory) {
			if f := m.fleets[workloadName]; f != nil {
				f.WatchEnded(id, s.Now())
			}
		})
	}
	return watched, err
}

// NameConflicts says of which instances of a workload two processes use the name, in words.
func (s *state) NameConflicts(workloadName string) []string {
	m, unlock := s.memory.Lock()
	defer unlock()
	return m.fleets[workloadName].Conflicts()
}

// NameConflict says that two processes use the name of an instance; empty: nothing shows that.
func (s *state) NameConflict(workloadName, id string) string {
	m, unlock := s.memory.Lock()
	defer unlock()
	return m.fleets[workloadName].Conflict(id)
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
