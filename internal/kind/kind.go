// SPDX-License-Identifier: Apache-2.0

// Package kind says what a kind of key is: what makes and checks its values and, where a server verifies them, how a
// value becomes valid there and ceases to be. Each kind is a package of its own below this one.
package kind

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Options are what a key's definition sets for its kind, by field name.
type Options map[string]string

// Field describes one option, so that help, defaults and checks come from one place.
type Field struct {
	Name        string
	Default     string
	Description string
}

// Kind makes and checks values.
type Kind interface {
	// Name is what a definition says as kind=.
	Name() string
	// Summary is one sentence for help texts.
	Summary() string
	// Fields are the options it understands.
	Fields() []Field
	// Normalize checks options and gives them with their defaults filled in. The error names the option.
	Normalize(options Options) (Options, error)
	// Generate draws a new value.
	Generate(random io.Reader, options Options) (key.Value, error)
	// Check refuses a value that the platform would refuse; warnings are for what it would only complain of.
	// Neither ever holds the value.
	Check(options Options, value key.Value) (warnings []string, err error)
}

// Change is what a Server is asked about: the key, its old and its new version.
type Change struct {
	Key  key.Key
	From key.Version
	To   key.Version
	Cut  bool // the key is compromised: Retire ends what still uses From
}

// Server is the optional capability of a kind whose values a server verifies. Every call is idempotent: after a crash
// the engine makes it again.
type Server interface {
	// Stage makes To valid beside From.
	Stage(ctx context.Context, c Change) error
	// Verify logs in with To.
	Verify(ctx context.Context, c Change) error
	// InUse counts what still uses From at the server, and says what.
	InUse(ctx context.Context, c Change) (count int, what string, err error)
	// Retire makes From invalid.
	Retire(ctx context.Context, c Change) error
	// Unstage makes To invalid and From as it was.
	Unstage(ctx context.Context, c Change) error
}

// List is the registered kinds.
type List []Kind

// Get gives the kind of that name; the error lists those there are.
func (l List) Get(name string) (Kind, error) {
	for _, k := range l {
		if k.Name() == name {
			return k, nil
		}
	}
	return nil, fmt.Errorf("kind %q is not known; use one of: %s", name, strings.Join(l.Names(), ", "))
}

// Names gives the names, sorted.
func (l List) Names() []string {
	names := make([]string, 0, len(l))
	for _, k := range l {
		names = append(names, k.Name())
	}
	slices.Sort(names)
	return names
}

// Defaults gives options with the fields' defaults, and an error that names an option which is no field.
func Defaults(fields []Field, options Options) (Options, error) {
	full := Options{}
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		full[f.Name] = f.Default
		names = append(names, f.Name)
	}
	for name, value := range options {
		if _, ok := full[name]; !ok {
			return nil, fmt.Errorf("option %q is not known to this kind; it has: %s", name, strings.Join(names, ", "))
		}
		if value != "" {
			full[name] = value
		}
	}
	return full, nil
}
