// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Policy says how long things last.
type Policy struct {
	Names       []string      // that the serving certificate is for
	CALifetime  time.Duration // of an authority; the next one is made after two thirds of it
	Lifetime    time.Duration // of a serving certificate; the next one is made after two thirds of it
	Propagation time.Duration // from when caBundle holds an authority until every API server is taken to know
	RetireAfter time.Duration // from when the new authority is presented until the old one may go
}

// Validate says what is wrong, by the names of the flags.
func (p Policy) Validate() error {
	switch {
	case len(p.Names) == 0:
		return errors.New("there is no name for the serving certificate; name the service by --service and --namespace")
	case p.Lifetime <= 0:
		return fmt.Errorf("--cert-lifetime: %s is no time to serve for; write more than 0s", p.Lifetime)
	case p.CALifetime < 3*p.Lifetime:
		return fmt.Errorf("--ca-lifetime: %s is less than three times --cert-lifetime (%s), so that certificates would outlive their authority; write %s or more", p.CALifetime, p.Lifetime, 3*p.Lifetime)
	case p.Propagation < 0:
		return fmt.Errorf("--ca-propagation: %s is negative; write 0s or more", p.Propagation)
	case p.RetireAfter < 0:
		return fmt.Errorf("--ca-retire-after: %s is negative; write 0s or more", p.RetireAfter)
	case p.Propagation+p.RetireAfter > p.CALifetime/3:
		return fmt.Errorf("--ca-propagation and --ca-retire-after are %s together, more than the third of --ca-lifetime (%s) in which a new authority takes over; write less, or a longer life", p.Propagation+p.RetireAfter, p.CALifetime/3)
	}
	return nil
}

// Move is what Next wants: first the record stored, then caBundle set, then to be asked again at a time or at news.
type Move struct {
	Record   Record
	Why      []string // of the changes to the record, in words; none: it is as it was
	Forget   []string // replicas whose word counts no more
	Bundle   []byte   // what caBundle should be
	Rebundle bool     // it is not
	Wake     time.Time
}

// maxFound bounds how many strange certificates of a caBundle are kept when there is no record.
const maxFound = 8

// Next says what to do. It changes nothing that it is given.
func (p Policy) Next(r Record, seen Seen, now time.Time) (Move, error) {
	m := Move{Record: r.clone()}
	m.find(seen, now)
	m.observe(seen, now)
	if err := m.create(p, now); err != nil {
		return Move{}, err
	}
	if err := m.sign(p, now); err != nil {
		return Move{}, err
	}
	m.retire(p, seen, now)
	for _, name := range slices.Sorted(maps.Keys(seen.Replicas)) {
		if !now.Before(seen.Replicas[name].Until) {
			m.Forget = append(m.Forget, name)
		}
	}
	m.Bundle = m.Record.bundle()
	m.Rebundle = slices.ContainsFunc(seen.Bundles, func(b []byte) bool { return !bytes.Equal(b, m.Bundle) })
	m.Wake = m.wake(p, seen, now)
	return m, nil
}

func (m *Move) say(format string, args ...any) { m.Why = append(m.Why, fmt.Sprintf(format, args...)) }

// find takes what caBundle holds into an empty record: replicas may present certificates of it out of their memory.
func (m *Move) find(seen Seen, now time.Time) {
	if len(m.Record.Authorities) > 0 || len(seen.Bundles) == 0 {
		return
	}
	for _, der := range certificatesIn(bytes.Join(seen.Bundles, nil)) {
		a := Authority{Certificate: der}
		known := slices.ContainsFunc(m.Record.Authorities, func(b Authority) bool { return bytes.Equal(b.Certificate, der) })
		if known || len(m.Record.Authorities) == maxFound || a.parse() != nil || !a.usable(now) {
			continue
		}
		m.Record.Authorities = append(m.Record.Authorities, a)
		m.say("authority %s is kept, which caBundle holds and no record has: replicas may still present a certificate of it", fingerprint(der))
	}
}

// observe notes since when caBundle holds what. A time that is yet to come was written by a clock that was wrong.
func (m *Move) observe(seen Seen, now time.Time) {
	for n := range m.Record.Authorities {
		a := &m.Record.Authorities[n]
		held := seen.holds(a.Certificate)
		switch {
		case held && a.Accepted.IsZero():
			m.say("authority %d (%s) is in caBundle", a.Generation, fingerprint(a.Certificate))
			a.Accepted = now
		case held && a.Accepted.After(now.Add(2*most)):
			m.say("authority %d (%s) is in caBundle; since when was written by a clock that was ahead", a.Generation, fingerprint(a.Certificate))
			a.Accepted = now
		case !held && !a.Accepted.IsZero():
			m.say("authority %d (%s) is in caBundle no more: somebody else has changed it", a.Generation, fingerprint(a.Certificate))
			a.Accepted = time.Time{}
		}
	}
	if s := m.Record.Serving; s != nil && s.Since.After(now.Add(2*most)) {
		m.say("since when authority %d is presented was written by a clock that was ahead", s.Generation)
		s.Since = now
	}
}

// create makes the next authority well before the last one ends.
func (m *Move) create(p Policy, now time.Time) error {
	last := m.Record.newest()
	if last != nil && last.usable(now) && now.Before(due(last.parsed)) {
		return nil
	}
	generation := 1
	for _, a := range m.Record.Authorities {
		generation = max(generation, a.Generation+1)
	}
	a, err := newAuthority(generation, p.CALifetime, now)
	if err != nil {
		return err
	}
	m.Record.Authorities = append(m.Record.Authorities, a)
	m.say("authority %d (%s) is made; it is presented once caBundle holds it", generation, fingerprint(a.Certificate))
	return nil
}

// sign makes a serving certificate, where there is none, or it is time, or its authority is not the one to present.
func (m *Move) sign(p Policy, now time.Time) error {
	r, s := &m.Record, m.Record.Serving
	signer := m.signer(p, now)
	if signer == nil {
		return nil
	}
	since := now
	switch {
	case s == nil:
		m.say("a serving certificate is made by authority %d", signer.Generation)
	case signer.Generation != s.Generation:
		m.say("a serving certificate is made by authority %d instead of %d", signer.Generation, s.Generation)
	case !s.valid(now), !now.Before(due(s.parsed)):
		m.say("the serving certificate is renewed")
		since = s.Since
	case !slices.Equal(namesOf(s.parsed), sorted(p.Names)):
		m.say("the serving certificate is made again, for %s", strings.Join(p.Names, ", "))
		since = s.Since
	default:
		return nil
	}
	next, err := signer.issue(p.Names, p.Lifetime, now)
	if err != nil {
		return fmt.Errorf("authority %d: %w", signer.Generation, err)
	}
	next.Since = since
	if next.parsed.NotAfter.After(signer.Issued) {
		signer.Issued = next.parsed.NotAfter
	}
	r.Serving = next
	return nil
}

// signer is the newest authority that may be presented: one that is, or that every API server has accepted. If there is none
// and nothing to lose, it is the newest at all.
func (m *Move) signer(p Policy, now time.Time) *Authority {
	r := &m.Record
	found := false
	for n := len(r.Authorities) - 1; n >= 0; n-- {
		a := &r.Authorities[n]
		found = found || a.Key == nil
		presented := r.Serving != nil && r.Serving.Generation == a.Generation
		accepted := !a.Accepted.IsZero() && !now.Before(a.Accepted.Add(p.Propagation))
		if a.Key != nil && a.usable(now) && (presented || accepted) {
			return a
		}
	}
	if a := r.newest(); !found && a.usable(now) && (r.Serving == nil || !r.Serving.valid(now)) {
		return a
	}
	return nil
}

func sorted(names []string) []string { return slices.Sorted(slices.Values(names)) }

func namesOf(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return sorted(names)
}

// retire takes out what has ended, and what nobody presents any more.
func (m *Move) retire(p Policy, seen Seen, now time.Time) {
	s, serves, newest := m.Record.Serving, m.serves(), m.Record.newest().Generation
	m.Record.Authorities = slices.DeleteFunc(m.Record.Authorities, func(a Authority) bool {
		why := ""
		switch {
		case a.Generation == serves, a.Generation == newest:
		case !now.Before(a.parsed.NotAfter):
			why = "it has ended"
		case a.Generation > serves, now.Before(s.Since.Add(p.RetireAfter)):
		case !now.Before(a.until()):
			why = "all that it has signed has ended"
		case len(presenting(seen, a.Certificate, now)) == 0:
			why = "no replica presents it"
		}
		if why != "" {
			m.say("authority %d (%s) is retired: %s", a.Generation, fingerprint(a.Certificate), why)
		}
		return why != ""
	})
}

// serves is the generation that is presented; -1 if none is.
func (m *Move) serves() int {
	if m.Record.Serving == nil {
		return -1
	}
	return m.Record.Serving.Generation
}

// until is when nothing that it has signed is valid any more.
func (a *Authority) until() time.Time {
	if a.Key == nil { // what it has signed is not known
		return a.parsed.NotAfter
	}
	return a.Issued
}

// presenting are the replicas that present an authority.
func presenting(seen Seen, der []byte, now time.Time) (names []string) {
	for name, p := range seen.Replicas {
		if p.Authority == fingerprint(der) && now.Before(p.Until) {
			names = append(names, name)
		}
	}
	return sorted(names)
}

// wake is the next time at which something may be due that no news announces.
func (m *Move) wake(p Policy, seen Seen, now time.Time) (next time.Time) {
	at := func(t time.Time) {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, a := range m.Record.Authorities {
		at(a.parsed.NotAfter)
		at(a.until())
		if !a.Accepted.IsZero() {
			at(a.Accepted.Add(p.Propagation))
		}
	}
	at(due(m.Record.newest().parsed))
	if s := m.Record.Serving; s != nil {
		at(due(s.parsed))
		at(s.parsed.NotAfter)
		at(s.Since.Add(p.RetireAfter))
	}
	for _, said := range seen.Replicas {
		at(said.Until)
	}
	return next
}
