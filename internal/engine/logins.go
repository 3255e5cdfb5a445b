// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// An instance belongs to the login of its first read. Another login may use its name:
//
//   - with the secret of its newest read: the same process has logged in again;
//   - once nothing was heard of it for the configured time, if both logins are of one entity, or of none, and the instance
//     sends signs of life every few seconds, as sidecars do: it has died, and was started again under its name;
//   - otherwise when its lease has ended.
//
// Signs of life are its reports, which its secret proves, and whatever its own login asks under its name.

// Token is what Vault says of the token of a request. Neither ID nor accessor is kept; a keyed fingerprint is.
type Token struct {
	ID       string // as a plugin sees it: salted by Vault for the mount
	Accessor string // empty of a batch token
	Entity   string
	Name     string // to display
}

// login is whose token it is.
func (b *base) login(t Token) workload.Login {
	l := workload.Login{Entity: kind.CutText(t.Entity, mostName), Name: kind.Line(t.Name, mostName)}
	switch {
	case t.Accessor != "":
		l.Accessor = b.fingerprints.Sum("login", "accessor", t.Accessor)[:loginDigits]
	case t.ID != "":
		l.Accessor = b.fingerprints.Sum("login", "token", t.ID)[:loginDigits]
	}
	return l
}

// loginDigits is the length of a login's fingerprint: 128 bits.
const loginDigits = 32

// checkLogin refuses to give an instance's name to another login.
func (m *memory) checkLogin(f *fleet, i workload.Instance, login workload.Login, secret key.Value) error {
	if !i.Login.Known() || i.Login.Same(login) || m.proves(i, secret) {
		return nil
	}
	now, l := m.Uptime(), f.leases[i.ID]
	until, quiet := m.heldUntil(i, l, login)
	when := "when its lease has ended, in %s at the earliest"
	if quiet {
		when = "in %s, if nothing is heard of it until then"
	}
	if until <= now {
		return nil
	}
	f.claim(i.ID, until)
	return rotation.Refusef(
		"instance %s belongs to another login (%s), and was last heard of %s ago; this login may use the name "+when+
			"; to use it now, give the instance_secret of its newest read, or remove it with: vault delete hyvve/workloads/%s/instances/%s; or use another instance=",
		i.Name(), i.Login.Name, max(now-l.heard, 0).Round(time.Second), upToSecond(until-now), i.Workload, i.ID,
	)
}

// heldUntil returns when another login may use an instance's name, if nothing is heard of it; quiet: before its lease has
// ended.
func (m *memory) heldUntil(i workload.Instance, l lease, other workload.Login) (until time.Duration, quiet bool) {
	if l.released && i.Login.SameEntity(other) {
		return l.heard, true
	}
	until = max(l.full, l.reported)
	if silent := l.heard + m.config.TakeoverAfter; l.heartbeat && i.Login.SameEntity(other) && silent < until {
		return silent, true
	}
	return until, false
}

// upToSecond rounds up, so that a client that waits for so long is not refused for a fraction of a second.
func upToSecond(d time.Duration) time.Duration { return (d + time.Second - 1).Truncate(time.Second) }

// proves reports whether a secret is that of an instance's newest read, or of one that the engine did not store.
func (m *memory) proves(i workload.Instance, secret key.Value) bool {
	read := readOf(secret)
	if !secret.Equal(m.secretOf(i.Name(), read)) {
		return false
	}
	return read.String() == i.Epoch || read.after(parseRead(i.Epoch))
}

// SignOfLife notes that an instance has asked for something. False: the instance is another login's, which has not.
func (s *state) SignOfLife(workloadName, id string, t Token) (own bool) {
	login := s.base.login(t)
	m, unlock := s.memory.Lock()
	defer unlock()
	f := m.fleets[workloadName]
	if f == nil {
		return true
	}
	i, ok := f.by[id]
	if !ok {
		return true
	}
	if i.Login.Known() && !i.Login.Same(login) {
		return false
	}
	m.alive(f, id)
	return true
}

// alive notes a sign of life that only the instance can give.
func (m *memory) alive(f *fleet, id string) {
	l := f.leases[id]
	l.heard, l.heartbeat, l.released = m.Uptime(), true, false
	f.leases[id] = l
}
