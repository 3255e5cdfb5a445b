// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Logins are those with which live versions of a key log in at its server, in words.
func (s *state) Logins(name string) []string {
	m, unlock := s.memory.Lock()
	defer unlock()
	k := m.Keys[name]
	var all []string
	for _, v := range k.Versions {
		if l, ok := m.LoginOf(k, v.Value); ok && v.State.Live() {
			all = append(all, fmt.Sprintf("%s (version %d)", l.Name, v.Number))
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
		if with := rs.Sharers(k, from.Value, r.KeyNames()...); len(with) > 0 {
			all = append(all, fmt.Sprintf("%s: %s, which this rotation takes away at its end, is the login of %s, too: %s", c.Env, with[0].Login, catalog.KeysOf(with), rs.remedy(r, with)))
		}
		all = append(all, rs.newClashes(r, staged, n, from, to)...)
	}
	return all
}

// newClashes says why the login of a new version is not free.
func (rs *records) newClashes(r rotation.Rotation, staged []key.Key, n int, from, to key.Version) []string {
	k := staged[n]
	if clash := rs.UndeletedClash(r.Changes[n], k, from, to); clash != "" {
		return []string{clash}
	}
	mine, ok := rs.LoginOf(k, to.Value)
	if old, had := rs.LoginOf(k, from.Value); !ok || had && old.Shares(mine) { // it keeps its login
		return nil
	}
	with := rs.Sharers(k, to.Value, r.KeyNames()...)
	for m, other := range staged {
		o, _ := other.Version(r.Changes[m].To)
		was, _ := other.Version(r.Changes[m].From)
		for _, v := range []key.Version{o, was} {
			if theirs, ok := rs.LoginOf(other, v.Value); ok && m != n && theirs.Shares(mine) {
				with = append(with, catalog.Sharing{Key: other.Name, Version: v, Login: mine.Name})
				break
			}
		}
	}
	if len(with) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: %s, the login of the new version, is that of %s; give key %s a login of its own, with username= of hyvve/keys/%s", r.Changes[n].Env, mine.Name, catalog.KeysOf(with), k.Name, k.Name)}
}

// remedy says how to rotate keys that share a login.
func (rs *records) remedy(r rotation.Rotation, with []catalog.Sharing) string {
	names := slices.Clone(r.KeyNames())
	for _, s := range with {
		if id := rs.rotating[s.Key]; id != "" {
			return fmt.Sprintf("wait until rotation %s of key %s has ended, or revert it with: vault write -f hyvve/rotations/%s/revert", id, s.Key, id)
		}
		names = append(names, s.Key)
	}
	return fmt.Sprintf("rotate them together, with keys=%s, or make one key of them, with urls= for the further names", strings.Join(names, ","))
}

// shared says that a value which is imported has the login of other keys. While one of these is being rotated that login is
// about to go, so that the value is refused.
func (rs *records) shared(k key.Key, v key.Value) (warnings []string, err error) {
	for _, s := range rs.Sharers(k, v) {
		if id := rs.rotating[s.Key]; id != "" {
			return nil, rotation.Refusef("key %s: the value logs in as %s, as key %s does, which rotation %s gives another login; wait until that has ended and import the value which is current then, or revert it with: vault write -f hyvve/rotations/%s/revert", k.Name, s.Login, s.Key, id, id)
		}
		warnings = append(warnings, fmt.Sprintf("key %s logs in as %s, as key %s does: neither can be rotated alone; rotate them together, with keys=%s,%s, or make one key of them, with urls= for the further names", k.Name, s.Login, s.Key, k.Name, s.Key))
	}
	return warnings, nil
}
