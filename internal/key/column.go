// SPDX-License-Identifier: Apache-2.0

package key

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Layout names the byte order of an envelope and what its secret means. The two layouts are the platform's
// (docs/platform.md).
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
	Schema string `json:"schema" doc:"Schema; empty: public."`
	Table  string `json:"table" doc:"Table."`
	Column string `json:"column" doc:"Column."`
	Layout Layout `json:"layout" doc:"Layout of the envelopes: tag-first or tag-last."`
	Where  []Term `json:"where,omitempty" doc:"Which rows: all of these terms hold. Absent: all rows."`
}

// Term compares a column of a table with a value, as text.
type Term struct {
	Column string `json:"column" doc:"A column of the same table."`
	Is     string `json:"is" doc:"=, !=, is null or is not null."`
	Value  string `json:"value,omitempty" doc:"The value, as text, that = and != compare with."`
}

func (t Term) String() string {
	if strings.HasPrefix(t.Is, "is ") {
		return t.Column + " " + t.Is
	}
	return t.Column + t.Is + t.Value
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

// ParseProtected reads [schema.]table.column:layout, with " where " and terms with " and " between them: column=value,
// column!=value, column is null, column is not null.
func ParseProtected(text string) (Column, error) {
	place, where, conditional := strings.Cut(text, " where ")
	name, layout, ok := strings.Cut(strings.TrimSpace(place), ":")
	c, err := ParseColumn(name)
	if !ok || err != nil {
		return c, fmt.Errorf("%q is not [schema.]table.column:layout, such as users.two_factor_secret:tag-last", text)
	}
	c.Layout = Layout(layout)
	if !conditional {
		return c, nil
	}
	for _, part := range strings.Split(where, " and ") {
		t, err := parseTerm(strings.TrimSpace(part))
		if err != nil {
			return c, err
		}
		c.Where = append(c.Where, t)
	}
	return c, nil
}

func parseTerm(text string) (Term, error) {
	for _, is := range []string{"is not null", "is null"} {
		if column, ok := strings.CutSuffix(text, " "+is); ok && column != "" {
			return Term{Column: strings.TrimSpace(column), Is: is}, nil
		}
	}
	for _, is := range []string{"!=", "="} {
		if column, value, ok := strings.Cut(text, is); ok && strings.TrimSpace(column) != "" {
			return Term{strings.TrimSpace(column), is, strings.TrimSpace(value)}, nil
		}
	}
	return Term{}, fmt.Errorf("%q is not a condition; write column=value, column!=value, column is null or column is not null, with \" and \" between several", text)
}

// Protected is the form that ParseProtected reads.
func (c Column) Protected() string {
	text := c.String() + ":" + string(c.Layout)
	for n, t := range c.Where {
		text += map[bool]string{true: " where ", false: " and "}[n == 0] + t.String()
	}
	return text
}

// Equal reports whether two columns are the same, and the same rows of it.
func (c Column) Equal(o Column) bool {
	return c.Schema == o.Schema && c.Table == o.Table && c.Column == o.Column && c.Layout == o.Layout && slices.Equal(c.Where, o.Where)
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
	for _, t := range c.Where {
		if t.Column == "" || !slices.Contains([]string{"=", "!=", "is null", "is not null"}, t.Is) {
			return fmt.Errorf("protects: condition %q of %s is not known; write column=value, column!=value, column is null or column is not null", t, c)
		}
	}
	return nil
}
