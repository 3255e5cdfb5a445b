// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"maps"
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
	// A password in the URL is told from the stored one by a stand-in.
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
