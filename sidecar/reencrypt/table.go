// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgrows"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/pgsession"
)

// table is a protected column with what the catalogue says of its table. Its methods write SQL in which the table has the
// alias t. Values of a primary key are texts, one a column of the key; PostgreSQL casts them to the column's type.
type table struct {
	column key.Column
	oid    uint32
	keys   []keyColumn // primary key, in order

	touch  string // column that is set to the time of the change; empty: none
	moment string // that time, as an expression of the column's type
	staged string // quoted name of the table of staged rows, once there is one
	side   int    // its number
}

// keyColumn is a column of the primary key. Its operators are those of the key's index, whatever a search path makes of their
// names: rows are read in that order.
type keyColumn struct {
	name, kind  string // kind is its type, quoted; of a domain what it is made of
	more, equal string // operators, as OPERATOR(schema.>)
	atMost      string
}

func quoted(name string) string { return pgsession.Quote(name) }

// name is the quoted name of the table.
func (t table) name() string { return pgrows.Table(t.column) }

// value is the quoted name of the column.
func (t table) value() string { return pgrows.Value(t.column) }

// protected is true of the rows that have an envelope of the key.
func (t table) protected() string { return pgrows.Protected(t.column) }

// chosen is true of the rows that the column's condition means.
func (t table) chosen() string { return pgrows.Chosen(t.column) }

// each writes something for every column of the primary key, with its place from 0.
func (t table) each(separator string, write func(n int, k keyColumn) string) string {
	parts := make([]string, 0, len(t.keys))
	for n, k := range t.keys {
		parts = append(parts, write(n, k))
	}
	return strings.Join(parts, separator)
}

// id is the primary key as an array of texts.
func (t table) id() string {
	return "ARRAY[" + t.each(", ", func(_ int, k keyColumn) string { return "t." + quoted(k.name) + "::text" }) + "]"
}

// order is the primary key as an ORDER BY.
func (t table) order() string {
	return t.each(", ", func(_ int, k keyColumn) string { return "t." + quoted(k.name) })
}

// bound is a column of the primary key in an array of texts.
func (k keyColumn) bound(n int, array string) string {
	return fmt.Sprintf("(%s)[%d]::%s", array, n+1, k.kind)
}

// compared reports whether the primary key is more than an array of texts (operator ">"), or at most that ("<=").
func (t table) compared(operator, array string) string {
	pick := func(k keyColumn) string { return k.more }
	if operator == "<=" {
		pick = func(k keyColumn) string { return k.atMost }
	}
	if !slices.ContainsFunc(t.keys, func(k keyColumn) bool { return pick(k) != pick(t.keys[0]) }) { // as a whole, so that the index is used
		return fmt.Sprintf("(%s) %s (%s)", t.order(), pick(t.keys[0]), t.each(", ", func(n int, k keyColumn) string { return k.bound(n, array) }))
	}
	var either []string
	for n := range t.keys {
		var all []string
		for m, k := range t.keys[:n+1] {
			with := k.equal
			if m == n {
				with = k.more
				if operator == "<=" {
					with = k.atMost
				}
			}
			all = append(all, fmt.Sprintf("t.%s %s %s", quoted(k.name), with, k.bound(m, array)))
		}
		either = append(either, strings.Join(all, " AND "))
	}
	return "(" + strings.Join(either, " OR ") + ")"
}

// sets puts an expression into the column, and the time into the one that is to have it.
func (t table) sets(expression string) string {
	text := fmt.Sprintf("%s = %s", quoted(t.column.Column), expression)
	if t.touch != "" {
		text += fmt.Sprintf(", %s = %s", quoted(t.touch), t.moment)
	}
	return text
}

// joins compares the primary key with that of staged rows, of alias s.
func (t table) joins() string {
	return t.each(" AND ", func(n int, k keyColumn) string { return fmt.Sprintf("t.%s %s s.k%d", quoted(k.name), k.equal, n) })
}

// given is a FROM of rows that come as parameters from $first on: an array of texts for each column of the primary key,
// then the ciphertexts that are there and those that take their place. It has the alias s, and the columns of staged rows.
func (t table) given(first int) string {
	var arrays, names []string
	for n := range len(t.keys) + 2 {
		arrays = append(arrays, fmt.Sprintf("$%d::text[]", first+n))
	}
	keys := t.each(", ", func(n int, k keyColumn) string {
		names = append(names, fmt.Sprintf("k%d", n))
		return fmt.Sprintf("x.k%d::%s AS k%d", n, k.kind, n)
	})
	names = append(names, "old", "new")
	return fmt.Sprintf("(SELECT %s, x.old, x.new FROM unnest(%s) AS x(%s)) s", keys, strings.Join(arrays, ", "), strings.Join(names, ", "))
}

// parameters are rows in the form that given takes.
func (t table) parameters(rows []*row) []any {
	columns := make([][]string, len(t.keys)+2)
	for _, x := range rows {
		for n, k := range append(x.id[:len(x.id):len(x.id)], x.value, x.replacement) {
			columns[n] = append(columns[n], k)
		}
	}
	all := make([]any, 0, len(columns))
	for _, c := range columns {
		all = append(all, c)
	}
	return all
}

// row is one envelope of a column.
type row struct {
	id    []string // primary key
	value string

	kind        rowKind
	replacement string // where value is to go
}

// name is the row's primary key for people.
func (x *row) name() string { return strings.Join(x.id, ", ") }

type rowKind int

const (
	bad        rowKind = iota // opens under nothing that we hold
	underOld                  // under the key that goes
	underNew                  // under the key that takes its place
	underOther                // under a key that has rows of its own in the column
)
