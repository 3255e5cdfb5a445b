// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// identity is whom a value logs in as, and where.
type identity struct {
	name    string
	servers []string
}

// shares reports whether two logins are the same one.
func (l identity) shares(o identity) bool {
	return l.name == o.name && slices.ContainsFunc(l.servers, func(s string) bool { return slices.Contains(o.servers, s) })
}

// loginOf returns whom a version of a key logs in as; false where its kind does not tell.
func (cat *catalog) loginOf(k key.Key, v key.Value) (identity, bool) {
	namer, ok := cat.kindOf(k).(kind.LoginNamer)
	if !ok || v.Empty() {
		return identity{}, false
	}
	c, err := cat.connectionOf(k)
	if err != nil {
		return identity{}, false
	}
	name, err := namer.Login(v)
	if err != nil {
		return identity{}, false
	}
	return identity{name, serversOf(namer, c)}, true
}

func serversOf(namer kind.LoginNamer, c kind.Connection) (servers []string) {
	for _, at := range namer.Servers(c) {
		servers = append(servers, c.Kind+" "+sameAddress(at))
	}
	return servers
}

// sameAdministrator returns the name of another connection whose administrator is the connection's, too; "" if there is none.
func (cat *catalog) sameAdministrator(c kind.Connection) string {
	kd, err := cat.Kinds.Get(c.Kind)
	namer, ok := kd.(kind.AdministratorNamer)
	if err != nil || !ok {
		return ""
	}
	own := identity{namer.Administrator(c), serversOf(namer, c)}
	for _, name := range slices.Sorted(maps.Keys(cat.connections)) {
		other := cat.connections[name]
		if name != c.Name && other.Kind == c.Kind && own.name != "" && own.shares(identity{namer.Administrator(other), serversOf(namer, other)}) {
			return name
		}
	}
	return ""
}

// Logins are those with which live versions of a key log in at its server, in words.
func (s *state) Logins(name string) []string {
	m, unlock := s.memory.Lock()
	defer unlock()
	k := m.keys[name]
	var all []string
	for _, v := range k.Versions {
		if l, ok := m.loginOf(k, v.Value); ok && live(v) {
			all = append(all, fmt.Sprintf("%s (version %d)", l.name, v.Number))
		}
	}
	return all
}

// sameAddress returns an address in one spelling; all names of this machine are one.
func sameAddress(at string) string {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return strings.ToLower(at)
	}
	if kind.IsLoopback(host) {
		host = "localhost"
	}
	return strings.ToLower(strings.TrimSuffix(host, ".")) + ":" + port
}

// sharing is another key with a live version that has the same login.
type sharing struct {
	key     string
	version key.Version
	login   string
}

// live reports whether a version's login is needed, or may be again.
func live(v key.Version) bool { return v.State.Live() }

// sharers are the keys, but for those named, that have a login in common with a value of a key.
func (cat *catalog) sharers(k key.Key, v key.Value, but ...string) []sharing {
	mine, ok := cat.loginOf(k, v)
	if !ok {
		return nil
	}
	var all []sharing
	for _, name := range slices.Sorted(maps.Keys(cat.keys)) {
		if name == k.Name || slices.Contains(but, name) {
			continue
		}
		for _, version := range cat.keys[name].Versions {
			if other, ok := cat.loginOf(cat.keys[name], version.Value); ok && live(version) && mine.shares(other) {
				all = append(all, sharing{name, version, mine.name})
				break
			}
		}
	}
	return all
}

// clashes says why a rotation would take a login away from a key that it does not rotate. staged are its keys with their new
// versions.
func (rs *records) clashes(r rotation.Rotation, staged []key.Key) []string {
	var all []string
	for n, c := range r.Changes {
		k := staged[n]
		from, _ := k.Version(c.From)
		to, _ := k.Version(c.To)
		if with := rs.sharers(k, from.Value, r.KeyNames()...); len(with) > 0 {
			all = append(all, fmt.Sprintf("%s: %s, which this rotation takes away at its end, is the login of %s, too: %s", c.Env, with[0].login, keysOf(with), rs.remedy(r, with)))
		}
		all = append(all, rs.newClashes(r, staged, n, from, to)...)
	}
	return all
}

// newClashes says why the login of a new version is not free.
func (rs *records) newClashes(r rotation.Rotation, staged []key.Key, n int, from, to key.Version) []string {
	k := staged[n]
	if clash := rs.undeletedClash(r.Changes[n], k, from, to); clash != "" {
		return []string{clash}
	}
	mine, ok := rs.loginOf(k, to.Value)
	if old, had := rs.loginOf(k, from.Value); !ok || had && old.shares(mine) { // it keeps its login
		return nil
	}
	with := rs.sharers(k, to.Value, r.KeyNames()...)
	for m, other := range staged {
		o, _ := other.Version(r.Changes[m].To)
		was, _ := other.Version(r.Changes[m].From)
		for _, v := range []key.Version{o, was} {
			if theirs, ok := rs.loginOf(other, v.Value); ok && m != n && theirs.shares(mine) {
				with = append(with, sharing{other.Name, v, mine.name})
				break
			}
		}
	}
	if len(with) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: %s, the login of the new version, is that of %s; give key %s a login of its own, with username= of hyvve/keys/%s", r.Changes[n].Env, mine.name, keysOf(with), k.Name, k.Name)}
}

func keysOf(with []sharing) string {
	var words []string
	for _, s := range with {
		words = append(words, "key "+s.key)
	}
	return strings.Join(words, " and ")
}

// remedy says how to rotate keys that share a login.
func (rs *records) remedy(r rotation.Rotation, with []sharing) string {
	names := slices.Clone(r.KeyNames())
	for _, s := range with {
		if id := rs.rotating[s.key]; id != "" {
			return fmt.Sprintf("wait until rotation %s of key %s has ended, or revert it with: vault write -f hyvve/rotations/%s/revert", id, s.key, id)
		}
		names = append(names, s.key)
	}
	return fmt.Sprintf("rotate them together, with keys=%s, or make one key of them, with urls= for the further names", strings.Join(names, ","))
}

// shared says that a value which is imported has the login of other keys. While one of these is being rotated that login is
// about to go, so that the value is refused.
func (rs *records) shared(k key.Key, v key.Value) (warnings []string, err error) {
	for _, s := range rs.sharers(k, v) {
		if id := rs.rotating[s.key]; id != "" {
			return nil, rotation.Refusef("key %s: the value logs in as %s, as key %s does, which rotation %s gives another login; wait until that has ended and import the value which is current then, or revert it with: vault write -f hyvve/rotations/%s/revert", k.Name, s.login, s.key, id, id)
		}
		warnings = append(warnings, fmt.Sprintf("key %s logs in as %s, as key %s does: neither can be rotated alone; rotate them together, with keys=%s,%s, or make one key of them, with urls= for the further names", k.Name, s.login, s.key, k.Name, s.key))
	}
	return warnings, nil
}

// stillShared is why an action cannot take a version's login away, or work towards that: a key outside the rotation has it.
func (cat *catalog) stillShared(r rotation.Rotation, k key.Key, what rotation.Action, c kind.Change) error {
	gone, stays := c.From, c.To
	switch what {
	case rotation.ActSample, rotation.ActRetire:
	case rotation.ActUnstage:
		gone, stays = c.To, c.From
	default:
		return nil
	}
	mine, ok := cat.loginOf(k, gone.Value)
	if other, has := cat.loginOf(k, stays.Value); !ok || has && other.shares(mine) { // both versions have it
		return nil
	}
	if with := cat.sharers(k, gone.Value, r.KeyNames()...); len(with) > 0 {
		return fmt.Errorf("%s, the login of version %d of key %s, is that of %s, too: delete %s, or revert this rotation and rotate them together", mine.name, gone.Number, k.Name, keysOf(with), keysOf(with))
	}
	return nil
}

// checkHosts refuses a key that leads to a host which its connection does not allow, by its options or by a value. Nothing
// is sent there.
func (cat *catalog) checkHosts(k key.Key, v key.Value) error {
	addresser, ok := cat.kindOf(k).(kind.Addresser)
	if !ok {
		return nil
	}
	c, err := cat.connectionOf(k)
	if err != nil {
		return err
	}
	allowed, err := addresser.Allowed(c)
	if err != nil {
		return fmt.Errorf("connection %s: %w", c.Name, err)
	}
	leads, err := addresser.Leads(k.Options, v)
	if err != nil {
		return err
	}
	slices.Sort(leads)
	for _, at := range leads {
		if !allowed.AllowAddress(at) {
			return fmt.Errorf("it leads to %s, which connection %s neither names nor allows; add it to %s of hyvve/connections/%s, or set verify_urls=false for the key, so that its passwords are not tried there", at, c.Name, kind.FieldAllowedHosts, c.Name)
		}
	}
	return nil
}
