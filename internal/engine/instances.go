// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// anonymous begins the ids of readers that gave none.
const anonymous = "lease-"

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
func (s *state) Read(ctx context.Context, reader Reader, limit time.Duration) (Reading, error) {
	epoch, err := s.newEpoch()
	if err != nil {
		return Reading{}, err
	}
	if err := reader.check(); err != nil {
		return Reading{}, err
	}
	i := workload.Instance{
		Workload: reader.Workload, ID: reader.Instance, Multiline: reader.Multiline, OneLine: reader.OneLine,
		Login: s.base.login(reader.Token), Heartbeat: reader.Heartbeat && reader.Instance != "",
		Pod: reader.Pod, Node: reader.Node,
	}
	if i.ID == "" {
		i.ID, i.Anonymous = anonymous+epoch.String(), true
	}
	defer s.instances.lock(i.Name())()
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
func (s *state) issue(i workload.Instance, proof key.Value, epoch readNumber, limit time.Duration) (reading Reading, issued workload.Instance, known bool, err error) {
	m, unlock := s.enter(i.Workload)
	defer unlock()
	w, ok := m.workloads[i.Workload]
	if !ok {
		return Reading{}, i, false, unknownWorkload(i.Workload)
	}
	f, same, now := m.fleets[w.Name], false, s.Now().UTC()
	if old, ok := f.by[i.ID]; ok {
		if err := m.checkLogin(f, old, i.Login, proof); err != nil {
			return Reading{}, i, false, err
		}
		i, same = says(old, i)
	} else if err := m.checkRoom(f, w, i); err != nil {
		return Reading{}, i, false, err
	}
	if i.LoggedIn.IsZero() {
		i.LoggedIn = now
	}
	t := m.target(w, i)
	if err := m.checkHolds(i, t.held); err != nil {
		return Reading{}, i, false, err
	}
	ttl, full := m.ttl(t.held, now, limit)
	known = same && f.leases[i.ID].sure && i.Issued.Etag == t.etag && ttl <= i.TTL
	i.Epoch, i.Seen = epoch.String(), now
	if !known {
		f.given++
		i = i.Given(workload.Holding{Etag: t.etag, At: now, Keys: t.held})
		i.TTL = ttl
	}
	bundle, err := workload.Fill(i.Issued, t.work, source{m.catalog})
	if err != nil {
		return Reading{}, i, false, fmt.Errorf("bundle of %s: %w", i.Name(), err)
	}
	f.put(i)
	l := s.base.newLease(ttl, full)
	l.heartbeat = i.Heartbeat
	f.renew(i.ID, l)
	reading = Reading{Bundle: bundle, Instance: i.ID, Secret: s.base.secretOf(i.Name(), epoch), Epoch: i.Epoch, TTL: ttl}
	if len(t.held) < len(w.Keys) {
		for _, name := range w.KeyNames() {
			if _, ok := t.held[name]; !ok {
				reading.Missing = append(reading.Missing, m.keys[name].Env)
			}
		}
	}
	return reading, i, known, nil
}

// says is an instance with what its reader says of itself now, and whether that is what it said before.
func says(old, now workload.Instance) (i workload.Instance, same bool) {
	i = old
	i.Multiline, i.OneLine, i.Login, i.Heartbeat = now.Multiline, now.OneLine, now.Login, now.Heartbeat
	i.Pod, i.Node = now.Pod, now.Node
	if !old.Login.Same(now.Login) {
		i.LoggedIn = time.Time{}
	}
	return i, old.Multiline == i.Multiline && slices.Equal(old.OneLine, i.OneLine) && old.Login == i.Login && old.Heartbeat == i.Heartbeat &&
		old.Pod == i.Pod && old.Node == i.Node
}

// source is the catalog as the source of bundles.
type source struct{ *catalog }

var _ workload.Source = source{}

// Key implements workload.Source.
func (s source) Key(name string) (key.Key, bool) {
	k, ok := s.keys[name]
	return k, ok
}

// Render implements workload.Source.
func (s source) Render(k key.Key, value key.Value) (map[string]key.Value, error) {
	names := map[string]key.Value{}
	if r, ok := s.kindOf(k).(kind.Renderer); ok {
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

func checkInstance(id string) error {
	if err := key.ValidateInstance(id); err != nil {
		return rotation.Refusef("%v", err)
	}
	if strings.HasPrefix(id, anonymous) {
		return rotation.Refusef("instance %q begins with %q, which stands for readers without a name; use another one", id, anonymous)
	}
	return nil
}

func unknownWorkload(name string) error {
	return rotation.Refusef("workload %q is not known; list the workloads with: vault list hyvve/workloads", name)
}

// readNumber tells reads apart, and which of two is the newer: the life of the mount that answered it, and its number in
// that. No clock has a part in it.
type readNumber struct{ life, read uint64 }

func (n readNumber) String() string { return fmt.Sprintf("%x-%x", n.life, n.read) }

func (n readNumber) after(o readNumber) bool {
	return n.life > o.life || n.life == o.life && n.read > o.read
}

// readOf is the read that a secret says it is of.
func readOf(secret key.Value) readNumber {
	read, _, _ := strings.Cut(secret.Reveal(), ".")
	return parseRead(read)
}

// parseRead reads a readNumber; those of records of schema 1 are older than all others.
func parseRead(text string) (n readNumber) {
	if _, err := fmt.Sscanf(text, "%x-%x", &n.life, &n.read); err != nil || n.String() != text {
		return readNumber{}
	}
	return n
}

func (s *state) newEpoch() (readNumber, error) {
	if err := s.down(); err != nil {
		return readNumber{}, err
	}
	life := s.generation.Load()
	if life == 0 {
		return readNumber{}, errors.New("this node does not write; ask the active one")
	}
	return readNumber{life, s.reads.Add(1)}, nil
}

// secretOf is the secret of a read: whoever has it was given its answer. It need not be stored.
func (b *base) secretOf(name string, n readNumber) key.Value {
	return key.NewValue(n.String() + "." + b.fingerprints.Sum("instance-secret", name, n.String()))
}

// ttl is how long a lease on these versions lasts: the configured time, within limit, and never beyond the life of a
// version; and how long without the latter.
func (m *memory) ttl(held map[string]workload.Held, now time.Time, limit time.Duration) (given, full time.Duration) {
	full = max(min(m.config.LeaseTTL, limit), time.Second)
	given = full
	for name := range held {
		if m.rotating[name] != "" {
			continue
		}
		if left, limited := m.remaining(m.keys[name], now); limited {
			given = min(given, max(left, time.Second))
		}
	}
	return given, full
}

// heard takes the word of an instance's read that it is live: the newest one is known from then on. It reports whether it
// is that of the newest read.
func (m *memory) heard(f *fleet, i workload.Instance, epoch string) (workload.Instance, bool) {
	if parseRead(epoch).after(parseRead(i.Epoch)) { // given in an earlier life, which did not store it
		i.Epoch = epoch
		f.by[i.ID] = i
	} else if epoch != i.Epoch {
		return i, false
	}
	known := f.leases[i.ID]
	known.sure, known.heard = true, m.Uptime()
	f.leases[i.ID] = known
	return i, true
}

// Renew tells for how long a lease may go on, within limit, and refuses once its instance should hold another bundle.
func (s *state) Renew(workloadName, id, epoch string, limit time.Duration) (time.Duration, error) {
	if err := s.down(); err != nil {
		return 0, err
	}
	m, unlock := s.memory.Lock()
	defer unlock()
	superseded := rotation.Refusef("the lease of %s/%s is superseded by a newer read, or its instance was removed; read hyvve/creds/%s again", workloadName, id, workloadName)
	w, known := m.workloads[workloadName]
	if !known {
		return 0, superseded
	}
	f := m.fleets[workloadName]
	i, ok := f.by[id]
	if !ok {
		return 0, superseded
	}
	if i, ok = m.heard(f, i, epoch); !ok {
		return 0, superseded
	}
	if m.target(w, i).etag != i.Issued.Etag {
		return 0, rotation.Refusef("%s should hold another bundle by now; read hyvve/creds/%s again", i.Name(), workloadName)
	}
	ttl, full := m.ttl(i.Issued.Keys, s.Now(), limit)
	f.renew(id, s.base.newLease(ttl, full))
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
	return s.drop(ctx, workloadName, id, func(f *fleet, i workload.Instance) bool {
		now, l := s.Uptime(), f.leases[id]
		switch {
		case !l.sure && i.Anonymous:
			return false
		case !l.sure:
			l.gone = min(l.gone, now+returnTime)
		case i.Epoch != epoch:
			return false
		case l.reported > now:
			l.gone = l.reported
		case l.full > now && l.given < l.full && l.given <= now+time.Second: // ran out; revoked by hand it ends before
			l.gone = l.full
			if i.Anonymous {
				l.gone = min(l.full, now+rereadTime)
			}
		case l.claimed > now:
			l.gone = l.claimed
		default:
			return true
		}
		l.gone = max(l.gone, l.claimed)
		f.leases[id] = l
		return false
	})
}
