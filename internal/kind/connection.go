// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Connection is an administrator's login at a server that a kind acts on.
type Connection struct {
	Name    string
	Kind    string // that acts on it
	Options Options
	Secrets map[string]key.Value // by the name of a Field that is Secret

	// Next is the password that rotate-root is about to put in the place of the present one, stored before the server
	// hears of it. Until that is done either of the two may be in force, under the same
	// Revision: log in with whichever of Passwords the server takes.
	Next key.Value

	Notes    []string  // what CheckConnection found that an operator should know
	Revision uint64    // another one whenever what is needed to log in has changed
	Written  time.Time // by an operator; zero: its password is being written now
	Rotated  time.Time // its password, by rotate-root; zero: never
}

// FieldPassword is the field of a connection that rotate-root replaces.
const FieldPassword = "password"

// Passwords are those that may be in force, the likelier one first.
func (c Connection) Passwords() []key.Value {
	all := []key.Value{c.Secrets[FieldPassword]}
	if !c.Next.Empty() {
		all = append(all, c.Next)
	}
	return all
}

// WithDefaults returns a connection with the defaults of its fields, as a copy, and an error that names what is no field.
func (c Connection) WithDefaults(fields []Field) (Connection, error) {
	open := slices.DeleteFunc(slices.Clone(fields), func(f Field) bool { return f.Secret })
	options, err := Defaults(open, c.Options)
	if err != nil {
		return c, err
	}
	for name := range c.Secrets {
		if !Secret(fields, name) {
			return c, fmt.Errorf("%s is not a secret field of this kind", name)
		}
	}
	c.Options, c.Secrets = options, maps.Clone(c.Secrets)
	if c.Secrets == nil {
		c.Secrets = map[string]key.Value{}
	}
	return c, nil
}

// Connector is the optional capability of a kind that acts on a server by an administrator's login. Its keys name a
// Connection in OptionConnection.
type Connector interface {
	// ConnectionFields are those that a connection of this kind has.
	ConnectionFields() []Field
	// NormalizeConnection checks fields, and moves a password that a URL holds among the secrets. It asks no server. The
	// error names the field and holds no secret.
	NormalizeConnection(c Connection) (Connection, error)
	// CheckConnection logs in and looks whether the administrator may do what the kind will ask for; the error names what
	// is missing. The notes are for the operator.
	CheckConnection(ctx context.Context, c Connection) (notes []string, err error)
	// RotateRoot makes c.Next the administrator's password. It is idempotent: either of c.Passwords may be in force, and
	// the present one is invalid only after Next has logged in, as far as the server lets that be.
	RotateRoot(ctx context.Context, c Connection) error
}

// Secret reports whether a field of that name is one whose value is never read back.
func Secret(fields []Field, name string) bool {
	for _, f := range fields {
		if f.Name == name {
			return f.Secret
		}
	}
	return false
}

// Moved names the fields that send a stored secret elsewhere, or unprotected, where the options of a connection change from
// old to changed. Neither needs to have the defaults filled in.
func Moved(fields []Field, secret Field, old, changed Options) []string {
	var moved []string
	for _, f := range fields {
		decides := !f.Harmless && (len(f.Sends) == 0 || slices.Contains(f.Sends, secret.Name))
		if !f.Secret && decides && cmp.Or(old[f.Name], f.Default) != cmp.Or(changed[f.Name], f.Default) {
			moved = append(moved, f.Name)
		}
	}
	return moved
}

const connectionSchema = 1

type connectionRecord struct {
	Schema   int               `json:"schema"`
	Name     string            `json:"name"`
	Kind     string            `json:"kind"`
	Options  Options           `json:"options,omitempty"`
	Secrets  map[string]string `json:"secrets,omitempty"`
	Next     string            `json:"next,omitempty"`
	Notes    []string          `json:"notes,omitempty"`
	Revision uint64            `json:"revision"`
	Written  time.Time         `json:"written"`
	Rotated  time.Time         `json:"rotated,omitzero"`
}

// Encode returns the stored form, secrets included: for the barrier-encrypted storage only.
func (c Connection) Encode() ([]byte, error) {
	r := connectionRecord{
		Schema: connectionSchema, Name: c.Name, Kind: c.Kind, Options: c.Options, Secrets: map[string]string{},
		Next: c.Next.Reveal(), Notes: c.Notes, Revision: c.Revision, Written: c.Written, Rotated: c.Rotated,
	}
	for name, value := range c.Secrets {
		r.Secrets[name] = value.Reveal()
	}
	return json.Marshal(r)
}

// DecodeConnection reads the stored form. Errors never hold a secret.
func DecodeConnection(data []byte) (Connection, error) {
	var r connectionRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return Connection{}, errors.New("stored connection: not a record of this schema") // the JSON error may quote a secret
	}
	if r.Schema != connectionSchema {
		return Connection{}, fmt.Errorf("stored connection %q has schema %d, this release reads %d; use the release that wrote it or a newer one", r.Name, r.Schema, connectionSchema)
	}
	c := Connection{
		Name: r.Name, Kind: r.Kind, Options: r.Options, Secrets: map[string]key.Value{}, Next: key.NewValue(r.Next),
		Notes: r.Notes, Revision: r.Revision, Written: r.Written, Rotated: r.Rotated,
	}
	for name, value := range r.Secrets {
		c.Secrets[name] = key.NewValue(value)
	}
	return c, key.ValidateName("stored connection", c.Name)
}
