// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var policy = Policy{
	Names: []string{"inject.hyvve.svc", "127.0.0.1"}, CALifetime: 9 * time.Hour, Lifetime: 3 * time.Hour,
	Propagation: time.Minute, RetireAfter: 10 * time.Minute,
}

var start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// next makes a move, and sees that nothing else is to be done at the same time but what the first said, and that the record
// survives being written and read.
func next(t *testing.T, r Record, seen Seen, now time.Time) Move {
	t.Helper()
	before, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	m, err := policy.Next(r, seen, now)
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := r.encode(); !bytes.Equal(before, after) {
		t.Error("Next has changed the record that it was given")
	}
	written, err := m.Record.encode()
	if err != nil {
		t.Fatal(err)
	}
	if m.Record, err = parseRecord(written); err != nil {
		t.Fatal(err)
	}
	again, err := policy.Next(m.Record, seen, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Why) > 0 {
		t.Errorf("asked again at once, there is more to do: %q", again.Why)
	}
	if len(m.Record.Authorities) == 0 || m.Record.newest() == nil || !m.Wake.After(now) {
		t.Errorf("a move to %d authorities, and asked again at %s", len(m.Record.Authorities), m.Wake)
	}
	return m
}

// settle moves until nothing is left to do, with caBundle set each time.
func settle(t *testing.T, r Record, seen Seen, now time.Time) (Record, Seen, []string) {
	t.Helper()
	var all []string
	for range 10 {
		m := next(t, r, seen, now)
		r, all = m.Record, append(all, m.Why...)
		if !m.Rebundle && len(m.Why) == 0 {
			return r, seen, all
		}
		seen.Bundles = [][]byte{m.Bundle}
	}
	t.Fatalf("it does not settle: %q", all)
	return Record{}, Seen{}, nil
}

func generations(r Record) string {
	var all []string
	for _, a := range r.Authorities {
		all = append(all, fmt.Sprint(a.Generation))
	}
	if r.Serving == nil {
		return strings.Join(all, " ") + ", none serves"
	}
	return fmt.Sprintf("%s, %d serves", strings.Join(all, " "), r.Serving.Generation)
}

// begun is the record after a first start, a second authority due.
func begun(t *testing.T) (Record, Seen) {
	t.Helper()
	r, seen, _ := settle(t, Record{}, Seen{Bundles: [][]byte{nil}}, start)
	if got := generations(r); got != "1, 1 serves" {
		t.Fatalf("a first start leads to %s", got)
	}
	return r, seen
}

func presents(r Record, generation int, until time.Time) Presents {
	return Presents{Authority: fingerprint(r.authority(generation).Certificate), Until: until}
}

func TestAuthorityTakesOver(t *testing.T) {
	r, seen := begun(t)
	names := namesOf(r.Serving.parsed)
	if !slices.Equal(names, sorted(policy.Names)) {
		t.Errorf("the certificate is for %q", names)
	}
	for at := 2 * time.Hour; at < 6*time.Hour; at += 2 * time.Hour { // renewed by the same authority
		before := r.Serving.parsed
		if r, seen, _ = settle(t, r, seen, start.Add(at)); r.Serving.parsed.Equal(before) || r.Serving.Generation != 1 || !r.Serving.Since.Equal(start) {
			t.Errorf("after %s: %s, since %s", at, generations(r), r.Serving.Since)
		}
	}
	due := start.Add(6 * time.Hour)
	r, seen, _ = settle(t, r, seen, due)
	if got := generations(r); got != "1 2, 1 serves" || !seen.holds(r.authority(2).Certificate) {
		t.Fatalf("when a new authority is due: %s", got)
	}
	if r, seen, _ = settle(t, r, seen, due.Add(policy.Propagation-time.Second)); generations(r) != "1 2, 1 serves" {
		t.Errorf("before all API servers know: %s", generations(r))
	}
	accepted := due.Add(policy.Propagation)
	seen.Replicas = map[string]Presents{"a": presents(r, 1, due.Add(90*time.Minute))}
	if r, seen, _ = settle(t, r, seen, accepted); generations(r) != "1 2, 2 serves" {
		t.Errorf("when all API servers know: %s", generations(r))
	}
	quiet := accepted.Add(policy.RetireAfter)
	if r, seen, _ = settle(t, r, seen, quiet); generations(r) != "1 2, 2 serves" {
		t.Errorf("while a replica presents the old one: %s", generations(r))
	}
	seen.Replicas["a"] = presents(r, 2, due.Add(3*time.Hour))
	if early, _, _ := settle(t, r, seen, quiet.Add(-time.Second)); generations(early) != "1 2, 2 serves" {
		t.Errorf("before --ca-retire-after: %s", generations(early))
	}
	r, seen, why := settle(t, r, seen, quiet)
	if generations(r) != "2, 2 serves" || !slices.ContainsFunc(why, func(w string) bool { return strings.Contains(w, "no replica presents it") }) {
		t.Errorf("when no replica presents it any more: %s, %q", generations(r), why)
	}
	if n := len(certificatesIn(seen.Bundles[0])); n != 1 {
		t.Errorf("caBundle has %d authorities", n)
	}
}

// What happens at some time between the two, to whom it may.
func TestMishaps(t *testing.T) {
	due := start.Add(6 * time.Hour)
	for name, c := range map[string]struct {
		mishap func(r *Record, seen *Seen)
		after  time.Duration // after the second authority was made
		want   string
	}{
		"caBundle is reset, and set again": {func(_ *Record, s *Seen) { s.Bundles = [][]byte{nil} }, time.Minute, "1 2, 1 serves"},
		"and it takes the same time again": {func(r *Record, s *Seen) {
			s.Bundles = [][]byte{nil}
			*r, *s, _ = settle(t, *r, *s, due.Add(30*time.Second))
		}, 90 * time.Second, "1 2, 2 serves"},
		"one of two webhooks lacks it":    {func(_ *Record, s *Seen) { s.Bundles = append(s.Bundles, []byte("nonsense")) }, time.Minute, "1 2, 1 serves"},
		"there is no configuration":       {func(_ *Record, s *Seen) { s.Bundles = nil }, time.Minute, "1 2, 1 serves"},
		"the record is gone":              {func(r *Record, _ *Seen) { *r = Record{} }, 0, "0 0 1, none serves"},
		"and the new one must be known":   {func(r *Record, s *Seen) { *r, *s, _ = settle(t, Record{}, *s, due) }, time.Minute, "0 0 1, 1 serves"},
		"the record and caBundle":         {func(r *Record, s *Seen) { *r, *s = Record{}, Seen{Bundles: [][]byte{nil}} }, 0, "1, 1 serves"},
		"the clock was ahead":             {func(r *Record, _ *Seen) { r.authority(2).Accepted = due.Add(24 * time.Hour) }, time.Minute, "1 2, 1 serves"},
		"the certificate has ended":       {func(r *Record, _ *Seen) { r.Serving, _ = r.authority(1).issue(policy.Names, time.Second, start) }, time.Second, "1 2, 1 serves"},
		"nobody was there for three days": {func(*Record, *Seen) {}, 72 * time.Hour, "3, 3 serves"},
		"nothing was there for an hour":   {func(*Record, *Seen) {}, time.Hour, "1 2, 2 serves"},
		"the authority has no certificate of its own left": {func(r *Record, s *Seen) {
			*r, *s, _ = settle(t, *r, *s, due.Add(time.Minute))
			s.Replicas = map[string]Presents{"dead": presents(*r, 1, due.Add(time.Hour))}
			r.authority(1).Issued = due.Add(time.Hour)
		}, 2 * time.Hour, "2, 2 serves"},
	} {
		t.Run(name, func(t *testing.T) {
			r, seen := begun(t)
			r, seen, _ = settle(t, r, seen, start.Add(4*time.Hour))
			r, seen, _ = settle(t, r, seen, due)
			c.mishap(&r, &seen)
			if r, seen, _ = settle(t, r, seen, due.Add(c.after)); generations(r) != c.want {
				t.Errorf("%s, want %s", generations(r), c.want)
			}
			if len(seen.Bundles) > 0 && !bytes.Equal(seen.Bundles[0], r.bundle()) {
				t.Error("caBundle is another one")
			}
			if r.Serving != nil && !accepts(r.bundle(), r.Serving.parsed, due.Add(c.after)) {
				t.Error("the certificate is not valid under caBundle")
			}
		})
	}
}

// A certificate whose time has not come, because it was made by a clock that was ahead, is replaced by what is good.
func TestClockWasAhead(t *testing.T) {
	r, seen := begun(t)
	ahead, _, _ := settle(t, r, seen, start.Add(8*time.Hour)) // a second authority, not valid before 7 h
	got, _, _ := settle(t, ahead, seen, start)
	if generations(got) != "1 2 3, 1 serves" || !got.Serving.valid(start) {
		t.Errorf("%s, from %s on", generations(got), got.Serving.parsed.NotBefore)
	}
}

func TestNames(t *testing.T) {
	r, seen := begun(t)
	other := policy
	other.Names = []string{"other.hyvve.svc"}
	m, err := other.Next(r, seen, start)
	if err != nil || !slices.Equal(m.Record.Serving.parsed.DNSNames, other.Names) || m.Record.Serving.Generation != 1 {
		t.Errorf("%q, %v", m.Why, err)
	}
}

func TestWordsThatHaveEndedAreForgotten(t *testing.T) {
	r, seen := begun(t)
	seen.Replicas = map[string]Presents{"old": presents(r, 1, start), "new": presents(r, 1, start.Add(time.Hour))}
	if m := next(t, r, seen, start); !slices.Equal(m.Forget, []string{"old"}) {
		t.Errorf("%q", m.Forget)
	}
}

func accepts(bundle []byte, leaf *x509.Certificate, now time.Time) bool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: policy.Names[0], CurrentTime: now})
	return err == nil
}

func TestParseRecord(t *testing.T) {
	r, _ := begun(t)
	other, _ := begun(t)
	for name, spoil := range map[string]func(r *Record) []byte{
		"nothing":            func(*Record) []byte { return nil },
		"no JSON":            func(*Record) []byte { return []byte("{") },
		"no authority":       func(*Record) []byte { return []byte("{}") },
		"half a certificate": func(r *Record) []byte { r.Authorities[0].Certificate = r.Authorities[0].Certificate[:99]; return nil },
		"half a key":         func(r *Record) []byte { r.Authorities[0].Key = r.Authorities[0].Key[:20]; return nil },
		"another's key":      func(r *Record) []byte { r.Authorities[0].Key = other.Authorities[0].Key; return nil },
		"no authority's": func(r *Record) []byte {
			r.Authorities[0].Certificate, r.Authorities[0].Key = r.Serving.Certificate, nil
			return nil
		},
		"of another":          func(r *Record) []byte { r.Serving = other.Serving; return nil },
		"of none":             func(r *Record) []byte { r.Serving.Generation = 7; return nil },
		"no key":              func(r *Record) []byte { r.Serving.Key = nil; return nil },
		"another serving key": func(r *Record) []byte { r.Serving.Key = other.Serving.Key; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			spoiled := r.clone()
			data := spoil(&spoiled)
			if data == nil && name != "nothing" {
				data, _ = spoiled.encode()
			}
			if _, err := parseRecord(data); err == nil {
				t.Error("it is taken")
			}
		})
	}
	data, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseRecord(data); err != nil {
		t.Errorf("one that is whole: %v", err)
	}
	part := strings.Trim(fmt.Sprintf("%d", []byte(r.Serving.Key[40:56])), "[]") // so much of it that a certificate, which is printed, has it by no chance
	if text := fmt.Sprintf("%v %+v %s %#v", r, r, r.Serving.Key, r.Authorities[0].Key); strings.Contains(text, part) || !strings.Contains(text, redacted) {
		t.Error("a key shows when the record is printed")
	}
}

func TestValidate(t *testing.T) {
	good := Options{Namespace: "n", Replica: "r", Secret: "s", Lease: "l", Configuration: "c", LeaseDuration: 15 * time.Second, Policy: policy}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for flag, spoil := range map[string]func(o *Options){
		"--namespace":       func(o *Options) { o.Namespace = "" },
		"--replica":         func(o *Options) { o.Replica = "" },
		"--secret":          func(o *Options) { o.Secret = "" },
		"--lease":           func(o *Options) { o.Lease = "" },
		"--configuration":   func(o *Options) { o.Configuration = "" },
		"--lease-duration":  func(o *Options) { o.LeaseDuration = time.Millisecond },
		"--service":         func(o *Options) { o.Policy.Names = nil },
		"--cert-lifetime":   func(o *Options) { o.Policy.Lifetime = 0 },
		"--ca-lifetime":     func(o *Options) { o.Policy.CALifetime = time.Hour },
		"--ca-propagation":  func(o *Options) { o.Policy.Propagation = -1 },
		"--ca-retire-after": func(o *Options) { o.Policy.RetireAfter = -1 },
		"together":          func(o *Options) { o.Policy.RetireAfter = 5 * time.Hour },
	} {
		o := good
		o.Policy.Names = slices.Clone(policy.Names)
		if spoil(&o); o.Validate() == nil || !strings.Contains(o.Validate().Error(), flag) {
			t.Errorf("%s: %v", flag, o.Validate())
		}
	}
}

// holds must not take part of a bundle for the whole.
func TestHolds(t *testing.T) {
	r, seen := begun(t)
	der := r.Authorities[0].Certificate
	for name, c := range map[string]struct {
		bundles [][]byte
		want    bool
	}{
		"it":             {seen.Bundles, true},
		"among others":   {[][]byte{append([]byte("# ours\n"), seen.Bundles[0]...)}, true},
		"not all":        {[][]byte{seen.Bundles[0], nil}, false},
		"none":           {nil, false},
		"another":        {[][]byte{pemOf(r.Serving.Certificate)}, false},
		"cut short":      {[][]byte{seen.Bundles[0][:200]}, false},
		"of other types": {[][]byte{bytes.ReplaceAll(slices.Clone(seen.Bundles[0]), []byte("CERTIFICATE"), []byte("PUBLIC KEY"))}, false},
	} {
		if got := (Seen{Bundles: c.bundles}).holds(der); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
