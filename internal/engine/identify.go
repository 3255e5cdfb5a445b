// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"crypto/hmac"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/issued"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Identified says what a value that somebody has found is.
type Identified struct {
	issued.Version           // zero where it is a connection's password
	Connection     string    // whose administrator's password it is; empty: of none
	State          key.State // empty: the key remembers no such version
	Accepted       bool      // by workloads or a server, or by an instance that has not followed
	Where          string    // what accepts it, or what does not any more
	Holders        []string  // instances that hold it, as Workload/ID
	More           int       // further ones
	Do             []string  // commands to run next, the most urgent first
}

const (
	maxIdentifyValue = 64 << 10 // bytes
	maxIdentified    = 20       // versions in one answer
)

// Identify says whether a value is one that this mount has ever issued, or that it logs in with. The request is journaled,
// without the value.
func (e *Engine) Identify(ctx context.Context, value key.Value, reason string, by rotation.Actor) ([]Identified, error) {
	if err := CheckReason(reason); err != nil {
		return nil, err
	}
	text := value.Reveal()
	switch {
	case strings.TrimSpace(text) == "":
		return nil, rotation.Refusef("value is missing; give what was found on standard input: vault write hyvve/identify value=-")
	case len(text) > maxIdentifyValue:
		return nil, rotation.Refusef("value has %d bytes; give at most %d: the secret and what stands directly around it", len(text), maxIdentifyValue)
	}
	if wait, ok := e.identifies.admit(e.Uptime(), by.Entity+"/"+by.Name); !ok {
		return nil, rotation.Refusef("too many values were identified within %s; try again in %s", identifySpan, wait.Round(time.Second))
	}
	versions, err := e.issued.Find(ctx, text)
	if err != nil {
		return nil, err
	}
	l, release := e.acquire()
	defer release()
	versions = l.withEarlier(text, versions)
	var all []Identified
	for _, v := range versions[:min(len(versions), maxIdentified)] {
		all = append(all, l.identified(v))
	}
	all = append(all, l.passwordOf(text)...)
	entry := journal.Entry{What: "a value was identified: none of this mount", By: by.Name, Entity: by.Entity, Reason: reason}
	if len(all) > 0 {
		entry.What = "a value was identified"
	}
	for _, i := range all {
		if i.Connection != "" {
			entry.Connection = i.Connection
			continue
		}
		entry.Keys = append(entry.Keys, journal.Key{Key: i.Key, To: i.Number, Fingerprint: i.Fingerprint})
	}
	return all, l.journal.Add(ctx, entry)
}

// withEarlier adds versions that were issued before this release remembered them, as long as their keys do.
func (l *locked) withEarlier(text string, versions []issued.Version) []issued.Version {
	for _, name := range slices.Sorted(maps.Keys(l.Keys)) {
		k := l.Keys[name]
		for _, value := range issued.Candidates(text) {
			sum := l.Fingerprints.Of(name, key.NewValue(value))
			for _, v := range k.Versions {
				known := func(o issued.Version) bool {
					return o.Key == name && o.Number == v.Number && o.Fingerprint == v.Fingerprint
				}
				if hmac.Equal([]byte(sum), []byte(v.Fingerprint)) && !slices.ContainsFunc(versions, known) {
					versions = append(versions, issued.VersionOf(k, v))
				}
			}
		}
	}
	return versions
}

// passwordOf returns the connections with which this mount logs in by a value.
func (l *locked) passwordOf(text string) (all []Identified) {
	sum := func(v string) []byte { return []byte(l.Fingerprints.Sum("identify", v)) }
	var found [][]byte
	for _, value := range issued.Candidates(text) {
		found = append(found, sum(value))
	}
	for _, name := range slices.Sorted(maps.Keys(l.Connections)) {
		c := l.Connections[name]
		secrets := slices.Collect(maps.Values(c.Secrets))
		if !c.Next.Empty() {
			secrets = append(secrets, c.Next)
		}
		same := false
		for _, secret := range secrets {
			for _, one := range found {
				same = hmac.Equal(one, sum(secret.Reveal())) && !secret.Empty() || same
			}
		}
		if same {
			all = append(all, Identified{
				Connection: name, Accepted: true, Where: "it is a secret of connection " + name + ", with which this mount logs in as an administrator",
				Do: []string{l.RootRemedy(name)},
			})
		}
	}
	return all
}

// identified says what has become of a version, and what to do about its value.
func (l *locked) identified(of issued.Version) Identified {
	i := Identified{Version: of}
	k, ok := l.Keys[of.Key]
	if !ok {
		i.Where = "the key was deleted, and this mount accepts the value nowhere; a server or provider may, unless it was revoked there"
		return i
	}
	v, ok := k.Version(of.Number)
	if !ok || v.Fingerprint != of.Fingerprint {
		i.Where = "the version ended so long ago that the key does not remember it, or the key was deleted and made again; this mount accepts the value nowhere"
		return i
	}
	i.State, i.Accepted = v.State, v.State.Live()
	i.Holders, i.More = l.holders(k.Name, v.Number)
	i.Where = l.acceptance(k, v)
	i.Do = l.remedies(k, v)
	if names, workloads := l.acceptors(k.Name, v.Number); !i.Accepted && len(names) > 0 {
		i.Accepted = true
		i.Where = fmt.Sprintf("%s may still accept it, since no other version was loaded there since; otherwise %s", someOf(names), i.Where)
		for _, w := range workloads {
			i.Do = append(i.Do, "vault read hyvve/workloads/"+w)
		}
	}
	return i
}

// acceptors returns the instances that run with a bundle in which a version is accepted, and their workloads.
func (l *locked) acceptors(name string, number int) (names, workloads []string) {
	l.lock(func(m *memory) {
		for _, w := range slices.Sorted(maps.Keys(m.fleets)) {
			for _, i := range m.fleets[w].All() {
				if slices.Contains(i.Running().Keys[name].Accepts, number) {
					names = append(names, i.Name())
					workloads = append(workloads, w)
				}
			}
		}
	})
	return names, slices.Compact(workloads)
}

// holders returns the instances that hold a version, or were given it and have loaded nothing since.
func (l *locked) holders(name string, number int) (all []string, more int) {
	l.lock(func(m *memory) {
		for _, w := range slices.Sorted(maps.Keys(m.fleets)) {
			for _, i := range m.fleets[w].All() {
				if i.Issued.Keys[name].Uses(number) || i.Loaded != nil && i.Loaded.Keys[name].Uses(number) {
					all = append(all, i.Name())
				}
			}
		}
	})
	more = max(len(all)-maxHolders, 0)
	return all[:len(all)-more], more
}

// acceptance says what accepts a version.
func (l *locked) acceptance(k key.Key, v key.Version) string {
	login := ""
	if as, ok := l.LoginOf(k, v.Value); ok {
		login = as.Name
	}
	switch {
	case v.State.Live() && login != "":
		return fmt.Sprintf("it logs in as %s by connection %s", login, k.Options[kind.OptionConnection])
	case v.State.Live():
		return "workloads that verify the key accept it"
	case v.Login != "":
		return fmt.Sprintf("its login %s was locked at %s, and its value is %s", v.Login, rotation.Stamp(v.Retired), v.State)
	case v.State == key.Retained:
		return fmt.Sprintf("nobody accepts it; its value is retained until %s, for undelete alone", rotation.Stamp(v.Until))
	}
	return "nobody accepts it, and its value is erased"
}

// remedies returns what to do about a version that leaked.
func (l *locked) remedies(k key.Key, v key.Version) []string {
	r, rotating := l.active[l.rotating[k.Name]]
	c, _ := r.Change(k.Name)
	switch {
	case v.State == key.Undeleted:
		return []string{fmt.Sprintf("vault write hyvve/keys/%s/retire version=%d force=true", k.Name, v.Number)}
	case !v.State.Live():
		return nil
	case rotating && v.Number == c.To:
		return []string{"vault write hyvve/rotations/" + r.ID + "/compromised which=new"}
	case rotating:
		return []string{"vault write hyvve/rotations/" + r.ID + "/compromised which=old"}
	}
	return []string{
		"vault write hyvve/rotate key=" + k.Name + " compromised=true dry_run=true",
		"vault write hyvve/rotate key=" + k.Name + ` compromised=true reason="…"`,
	}
}
