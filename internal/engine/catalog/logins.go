// SPDX-License-Identifier: Apache-2.0

package catalog

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

// Identity is whom a value logs in as, and where.
type Identity struct {
	Name    string
	servers []string
}

// Shares reports whether two logins are the same one.
func (l Identity) Shares(o Identity) bool {
	return l.Name == o.Name && slices.ContainsFunc(l.servers, func(s string) bool { return slices.Contains(o.servers, s) })
}

// LoginOf returns whom a version of a key logs in as; false where its kind does not tell.
func (cat *Catalog) LoginOf(k key.Key, v key.Value) (Identity, bool) {
	namer, ok := cat.KindOf(k).(kind.LoginNamer)
	if !ok || v.Empty() {
		return Identity{}, false
	}
	c, err := cat.ConnectionOf(k)
	if err != nil {
		return Identity{}, false
	}
	name, err := namer.Login(v)
	if err != nil {
		return Identity{}, false
	}
	return Identity{name, serversOf(namer, c)}, true
}

func serversOf(namer kind.LoginNamer, c kind.Connection) (servers []string) {
	for _, at := range namer.Servers(c) {
		servers = append(servers, c.Kind+" "+sameAddress(at))
	}
	return servers
}

// SameAdministrator returns the name of another connection whose administrator is the connection's, too; "" if there is none.
func (cat *Catalog) SameAdministrator(c kind.Connection) string {
	kd, err := cat.Kinds.Get(c.Kind)
	namer, ok := kd.(kind.AdministratorNamer)
	if err != nil || !ok {
		return ""
	}
	own := Identity{namer.Administrator(c), serversOf(namer, c)}
	for _, name := range slices.Sorted(maps.Keys(cat.Connections)) {
		other := cat.Connections[name]
		if name != c.Name && other.Kind == c.Kind && own.Name != "" && own.Shares(Identity{namer.Administrator(other), serversOf(namer, other)}) {
			return name
		}
	}
	return ""
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

// Sharing is another key with a live version that has the same login.
type Sharing struct {
	Key     string
	Version key.Version
	Login   string
}

// Sharers are the keys, but for those named, that have a login in common with a value of a key.
func (cat *Catalog) Sharers(k key.Key, v key.Value, but ...string) []Sharing {
	mine, ok := cat.LoginOf(k, v)
	if !ok {
		return nil
	}
	var all []Sharing
	for _, name := range slices.Sorted(maps.Keys(cat.Keys)) {
		if name == k.Name || slices.Contains(but, name) {
			continue
		}
		for _, version := range cat.Keys[name].Versions {
			if other, ok := cat.LoginOf(cat.Keys[name], version.Value); ok && version.State.Live() && mine.Shares(other) {
				all = append(all, Sharing{name, version, mine.Name})
				break
			}
		}
	}
	return all
}

// KeysOf names the keys that share a login.
func KeysOf(with []Sharing) string {
	var words []string
	for _, s := range with {
		words = append(words, "key "+s.Key)
	}
	return strings.Join(words, " and ")
}

// StillShared is why an action cannot take a version's login away, or work towards that: a key outside the rotation has it.
func (cat *Catalog) StillShared(r rotation.Rotation, k key.Key, what rotation.Action, c kind.Change) error {
	gone, stays := c.From, c.To
	switch what {
	case rotation.ActSample, rotation.ActRetire:
	case rotation.ActUnstage:
		gone, stays = c.To, c.From
	default:
		return nil
	}
	mine, ok := cat.LoginOf(k, gone.Value)
	if other, has := cat.LoginOf(k, stays.Value); !ok || has && other.Shares(mine) { // both versions have it
		return nil
	}
	if with := cat.Sharers(k, gone.Value, r.KeyNames()...); len(with) > 0 {
		return fmt.Errorf("%s, the login of version %d of key %s, is that of %s, too: delete %s, or revert this rotation and rotate them together", mine.Name, gone.Number, k.Name, KeysOf(with), KeysOf(with))
	}
	return nil
}

// CheckHosts refuses a key that leads to a host which its connection does not allow, by its options or by a value. Nothing
// is sent there.
func (cat *Catalog) CheckHosts(k key.Key, v key.Value) error {
	addresser, ok := cat.KindOf(k).(kind.Addresser)
	if !ok {
		return nil
	}
	c, err := cat.ConnectionOf(k)
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
