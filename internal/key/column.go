// SPDX-License-Identifier: Apache-2.0

package key

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Layout names the byte order of an envelope and what its secret means. The two layouts are the platform's
// (../shared/platform/README.md, "Envelopes in PostgreSQL").
type Layout string

const (
	// TagFirst is salt 64, iv 16, tag 16, ciphertext; the derivation input is the 32 bytes that the key's
	// standard base64 decodes to.
	TagFirst Layout = "tag-first"
	// TagLast is salt 64, iv 16, ciphertext, tag 16; the derivation input is the characters of the secret as UTF-8.
	TagLast Layout = "tag-last"
)

// Column is one text column of envelopes that a key protects.
type Column struct {
	Schema string `json:"schema"` // "public" where empty
	Table  string `json:"table"`
	Column string `json:"column"`
	Layout Layout `json:"layout"`
}

// String is the qualified name, for people: table.column, with the schema where it is not public.
func (c Column) String() string {
	if c.Schema == "" || c.Schema == "public" {
		return c.Table + "." + c.Column
	}
	return c.Schema + "." + c.Table + "." + c.Column
}

// ParseColumn reads [schema.]table.column, without a layout.
func ParseColumn(text string) (Column, error) {
	parts := strings.Split(text, ".")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return Column{}, fmt.Errorf("%q is not [schema.]table.column, such as users.two_factor_secret", text)
	}
	var c Column
	if len(parts) == 3 {
		c.Schema, parts = parts[0], parts[1:]
	}
	c.Table, c.Column = parts[0], parts[1]
	return c, nil
}

// Validate names what is missing or unknown.
func (c Column) Validate() error {
	switch {
	case c.Table == "":
		return errors.New("protects: table is empty; name the table that holds the envelopes")
	case c.Column == "":
		return fmt.Errorf("protects: column of table %q is empty; name the column that holds the envelopes", c.Table)
	case c.Layout != TagFirst && c.Layout != TagLast:
		return fmt.Errorf("protects: layout %q of %s is not known; use %q or %q", c.Layout, c, TagFirst, TagLast)
	}
	return nil
}
