// SPDX-License-Identifier: Apache-2.0

package key

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
	"strings"
)

const redacted = "[redacted]"

// Value is an opaque secret. It prints, logs and marshals as "[redacted]" whichever way it is asked; only Reveal gives
// what is in it. The zero Value is empty.
type Value struct {
	// A pointer, since fmt prints unexported fields of other structs without asking their methods: there it prints an
	// address.
	secret *string
}

var (
	_ fmt.Stringer   = Value{}
	_ fmt.GoStringer = Value{}
	_ fmt.Formatter  = Value{}
	_ slog.LogValuer = Value{}
)

// NewValue wraps a secret.
func NewValue(secret string) Value { return Value{secret: &secret} }

// Reveal returns the secret itself. Hand it only to code that must present or check it.
func (v Value) Reveal() string {
	if v.secret == nil {
		return ""
	}
	return *v.secret
}

// Empty reports whether there is no secret.
func (v Value) Empty() bool { return v.Reveal() == "" }

// Len is the length of the secret in bytes.
func (v Value) Len() int { return len(v.Reveal()) }

// MultiLine reports whether it has several lines: not every file, and no header, can carry it.
func (v Value) MultiLine() bool { return strings.ContainsAny(v.Reveal(), "\r\n") }

// Equal compares in time that depends on the lengths only.
func (v Value) Equal(other Value) bool {
	return subtle.ConstantTimeCompare([]byte(v.Reveal()), []byte(other.Reveal())) == 1
}

// String never returns the secret.
func (v Value) String() string { return redacted }

// GoString never returns the secret.
func (v Value) GoString() string { return redacted }

// Format never returns the secret, whatever the verb.
func (v Value) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// LogValue never returns the secret.
func (v Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON never returns the secret: a record that must hold it reveals it on purpose.
func (v Value) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText never returns the secret.
func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }
