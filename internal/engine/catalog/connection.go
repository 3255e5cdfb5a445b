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

// Connectors returns the kinds that have connections, sorted.
func (b *Base) Connectors() []string {
	var names []string
	for _, kd := range b.Kinds {
		if _, ok := kd.(kind.Connector); ok {
			names = append(names, kd.Name())
		}
	}
	slices.Sort(names)
	return names
}

// Connector returns the kind of that name, which has connections.
func (b *Base) Connector(kindName string) (kind.Connector, error) {
	kd, err := b.Kinds.Get(kindName)
	if connector, ok := kd.(kind.Connector); err == nil && ok {
		return connector, nil
	}
	return nil, rotation.Refusef("kind %s has no connections; use one of: %s", kind.Quote(kindName), strings.Join(b.Connectors(), ", "))
}

// RootRemedy returns the command that gives the administrator of a connection another password.
func (cat *Catalog) RootRemedy(name string) string {
	if kd, err := cat.Kinds.Get(cat.Connections[name].Kind); err == nil {
		if _, ok := kd.(kind.RootRotator); !ok { // somebody makes a new one at the server
			return "vault write hyvve/connections/" + name + " password=-"
		}
	}
	return "vault write -f hyvve/connections/" + name + "/rotate-root"
}

// ConnectionOf is that of a key, the zero one where its kind has none.
func (cat *Catalog) ConnectionOf(k key.Key) (kind.Connection, error) {
	if _, ok := cat.KindOf(k).(kind.Connector); !ok {
		return kind.Connection{}, nil
	}
	name := k.Options[kind.OptionConnection]
	c, ok := cat.Connections[name]
	switch {
	case name == "":
		return c, fmt.Errorf("key %s names no connection; set connection= of hyvve/keys/%s", k.Name, k.Name)
	case !ok:
		return c, UnknownConnection(name)
	case c.Kind != k.Kind:
		return c, fmt.Errorf("connection %s is of kind %s, key %s of kind %s", name, c.Kind, k.Name, k.Kind)
	}
	return c, nil
}

// Looker returns a connection by which the engine can look at rows, and what does it.
func (cat *Catalog) Looker(name string) (kind.RowLooker, kind.Connection, error) {
	c, ok := cat.Connections[name]
	if !ok {
		return nil, c, fmt.Errorf("connection %q is not known; define it first, or name another: vault list hyvve/connections", name)
	}
	kd, err := cat.Kinds.Get(c.Kind)
	if err != nil {
		return nil, c, err
	}
	looker, ok := kd.(kind.RowLooker)
	if !ok {
		return nil, c, fmt.Errorf("connection %s is of kind %s, by which no rows can be looked at; name one of kind postgres", name, c.Kind)
	}
	return looker, c, nil
}

// Overwritten is a connection with what is written over it, as it stands.
func Overwritten(old, written kind.Connection) kind.Connection {
	c := kind.Connection{Name: written.Name, Kind: written.Kind, Options: maps.Clone(old.Options), Secrets: maps.Clone(old.Secrets)}
	if c.Options == nil {
		c.Options = kind.Options{}
	}
	if c.Secrets == nil {
		c.Secrets = map[string]key.Value{}
	}
	maps.Copy(c.Options, written.Options)
	maps.Copy(c.Secrets, written.Secrets)
	return c
}

// RootBytes is how many random bytes an administrator's new password is made of; it is written in hexadecimal, which needs
// no encoding anywhere.
const RootBytes = 32

// MergeConnection checks what is written and puts it over the old connection. given has the secrets that were written,
// whether as fields or in a URL.
func (b *Base) MergeConnection(connector kind.Connector, old, written kind.Connection) (c kind.Connection, given map[string]bool, err error) {
	c = Overwritten(old, written)
	given = map[string]bool{}
	for _, f := range connector.ConnectionFields() {
		value, ok := written.Secrets[f.Name]
		if !f.Secret || !ok {
			continue
		}
		given[f.Name] = true
		if err := checkLines(value, f); err != nil {
			return c, given, err
		}
	}
	stored, has := c.Secrets[kind.FieldPassword]
	if given[kind.FieldPassword] || !has || stored.Empty() {
		c, err = connector.NormalizeConnection(c)
		return c, given, err
	}
	// A password in the URL is distinguished from the stored one by a stand-in.
	text, err := b.Hex(RootBytes)
	if err != nil {
		return c, given, err
	}
	standIn := key.NewValue(text)
	c.Secrets[kind.FieldPassword] = standIn
	if c, err = connector.NormalizeConnection(c); err != nil {
		return c, given, err
	}
	c.Secrets = maps.Clone(c.Secrets)
	if c.Secrets[kind.FieldPassword].Equal(standIn) {
		c.Secrets[kind.FieldPassword] = stored
	} else {
		given[kind.FieldPassword] = true
	}
	return c, given, nil
}

// checkLines refuses a secret with a line break at its end, which a shell has added unasked.
func checkLines(value key.Value, f kind.Field) error {
	if f.Lines || !strings.HasSuffix(value.Reveal(), "\n") {
		return nil
	}
	return fmt.Errorf("%s ends with a newline, as echo and here-strings add one; use printf '%%s', or echo -n, as in: printf '%%s' \"$SECRET\" | vault write … %s=-", f.Name, f.Name)
}

// MayMove refuses a change that would send a stored secret elsewhere than it was given for.
func MayMove(fields []kind.Field, old, c kind.Connection, given map[string]bool) error {
	for _, f := range fields {
		if !f.Secret || given[f.Name] || old.Secrets[f.Name].Empty() {
			continue
		}
		moved := kind.Moved(fields, f, old.Options, c.Options)
		if len(moved) == 0 {
			continue
		}
		verb := "was"
		if len(moved) > 1 {
			verb = "were"
		}
		remedy := "give it again in the same write, with " + f.Name + "=-"
		if f.Name == kind.FieldPassword && (!old.Rotated.IsZero() || !old.Next.Empty()) {
			remedy += " (rotate-root has made the stored one, and nobody knows it: set another one at the server first)"
		}
		return fmt.Errorf("%s %s changed, which decides where %s is sent, and a stored %s goes only where it was given for; %s", strings.Join(moved, ", "), verb, f.Name, f.Name, remedy)
	}
	return nil
}

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
