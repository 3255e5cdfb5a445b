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
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Connection is an administrator's login at a server that a kind acts on.
type Connection struct {
	Name    string
	Kind    string // that acts on it
	Options Options
	Secrets map[string]key.Value // by the name of a Field that is Secret

	// Next is the password that rotate-root (RootRotator) is about to put in the place of the present one, stored before the server
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

// Finding is what an inspection of a key's current version has found at its server.
type Finding struct {
	Problems []Problem

	// Notes are what an operator should know although the version is valid, such as a password beside it that Vault does
	// not know. None holds a secret.
	Notes []string

	// ServerVersion is the highest version of the key that marks at the server name; 0 if none does. If it is higher than
	// every version that Vault knows, Vault has been restored from a snapshot. New versions need higher numbers.
	ServerVersion int

	// Kept is what Restore will need and only a healthy server knows, such as the rights of the current login. It holds no
	// secret. If it is not empty, the engine stores it with the key, in place of what it stored before, and passes it to
	// Restore as Change.Kept.
	Kept string
}

// Problem is one thing that is wrong at a server.
type Problem struct {
	Text    string // names the server and the login
	Remedy  string // what an operator can do, as a command if there is one
	Fixable bool   // Restore can mend it, and mending it hurts nobody: it needs no decision of an operator
	Ahead   bool   // the server knows a newer version than Vault
	Rotates bool   // a rotation goes through all the same: it is no blocker of one
}

// String returns the problem with its remedy.
func (p Problem) String() string {
	if p.Remedy == "" {
		return p.Text
	}
	return p.Text + "; " + p.Remedy
}

// Inspector is the optional capability of a kind to look whether a key's current version is still valid at its server.
type Inspector interface {
	// Inspect looks at To, the current version. From is the version before it if that is still valid, and else empty. It
	// changes nothing and costs the server little. The error is for what could not be looked at, such as a server that
	// does not answer. No text holds a secret.
	Inspect(ctx context.Context, c Change) (Finding, error)
}

// Restorer is the optional capability of an Inspector to mend what it has found.
type Restorer interface {
	Inspector
	// Restore makes To, the current version, valid again at every server. It takes no login away from anybody without saying so in what it has done: a password
	// that Vault does not know stays beside Vault's. The engine calls it by itself only if all problems are Fixable, and
	// otherwise if an operator asks for it. It returns what it has done or, with dryRun, would do. It is idempotent.
	// The error says what could not be mended, and which option of the key would help.
	Restore(ctx context.Context, c Change, dryRun bool) (done []string, err error)
}

// RefusalReporter is the optional capability of a server's kind to tell who still tries a version that is retired.
type RefusalReporter interface {
	// Refusals counts logins that the server has refused within that time, as far back as it remembers, and says who tried.
	// login is what LoginNamer has said of the retired version, whose value is gone; To is the current one. It may find
	// nothing although somebody tried: servers forget, and some do not tell.
	Refusals(ctx context.Context, c Change, login string, within time.Duration) (count int, what string, err error)
}

// RowLook asks for a look at the rows that a key protects.
type RowLook struct {
	Columns []key.Column
	Value   key.Value  // that every row should open under
	Others  []RowValue // of further keys that have rows of their own in the columns
	Most    int        // rows of each column that are opened; 0: all
}

// RowValue is a value with the layout of what it opens.
type RowValue struct {
	Layout key.Layout
	Value  key.Value
}

// RowLooker is the optional capability of a Connector to look at rows with its own eyes: the engine is then a witness that no
// row needs a version which is about to be erased.
type RowLooker interface {
	// LookAtRows opens every envelope of the columns and counts: under Value as rotated, under one of Others as other, the
	// rest as bad, of the first Most rows of each column where that is set. It changes nothing, holds a few rows at a time, and leaves room for others on both machines. The report has
	// the place that was looked at. No error holds a value.
	LookAtRows(ctx context.Context, c Connection, look RowLook) (workload.WorkReport, error)
}

// Undeleter is the capability of a Server to let a version log in again that it has retired.
type Undeleter interface {
	Server
	// CheckUndelete refuses what Undelete, or Retire after it, could never do, without asking a server: To has the login of
	// From, the current version, or of the administrator. The engine calls it before it stores anything. The error names the
	// remedy and holds no value.
	CheckUndelete(c Change) error
	// Undelete makes To, a retired version, valid again beside From, the current one. It takes no login away, and leaves one
	// as it is that another version has, or somebody else. It is idempotent. Retire ends To again, as From of a Change whose
	// To is the current version.
	Undelete(ctx context.Context, c Change) error
}

// Occupied is the error of a login that a new version needs, and that an undeleted version has. The engine knows that by
// itself, and starts no such rotation: Preflight does not say it once more.
type Occupied struct {
	Key     string
	Login   string
	Version int
}

func (o Occupied) Error() string {
	return fmt.Sprintf("%s is the login of version %d, which is undeleted. Nothing was changed. End that first: vault write hyvve/keys/%s/retire version=%d", o.Login, o.Version, o.Key, o.Version)
}

// HasLoginOfCurrent is the error of a version that cannot be undeleted since the current version has its login, which has one
// password. A rotation gives the current version another login.
func HasLoginOfCurrent(c Change, login string) error {
	return fmt.Errorf("version %d logs in as %s, as version %d does, which is the current one; give its client the current value; or rotate the key, and undelete version %d then, while it is retained: vault write hyvve/rotate key=%s", c.To.Number, login, c.From.Number, c.To.Number, c.Key.Name)
}

// OccupiedBy returns an error where a version of a key is undeleted, so that its login is not free.
func OccupiedBy(k key.Key, version int, login string) error {
	if v, ok := k.Version(version); ok && v.State == key.Undeleted {
		return Occupied{k.Name, login, version}
	}
	return nil
}
