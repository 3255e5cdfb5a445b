// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Place is the database that a report on rows is about, as its server identifies it.
type Place struct {
	System   string       `json:"system,omitempty" doc:"System identifier of the server's data, in decimal. Absent: the role may not ask for it."`
	Database string       `json:"database" doc:"Name of the database."`
	OID      uint32       `json:"oid" doc:"OID of the database."`
	Primary  bool         `json:"primary" doc:"Whether the server is not in recovery."`
	Tables   []PlaceTable `json:"tables,omitempty" doc:"The table of each column."`
}

// PlaceTable is the table of a column.
type PlaceTable struct {
	Column string `json:"column" doc:"The column, as [schema.]table.column."`
	OID    uint32 `json:"oid" doc:"OID of its table."`
}

// shortSystem is how many of the last digits of a system identifier people are shown: it begins with the time at which the
// data were initialized, so that those of one day begin alike.
const shortSystem = 6

// String names the place for people.
func (p Place) String() string {
	system := "of an unknown system"
	if p.System != "" {
		system = "of system …" + p.System[max(0, len(p.System)-shortSystem):]
	}
	return fmt.Sprintf("database %s %s", p.Database, system)
}

// Covers reports whether the place names the table of every column.
func (p Place) Covers(columns []key.Column) bool {
	return !slices.ContainsFunc(columns, func(c key.Column) bool { _, ok := p.table(c.String()); return !ok })
}

func (p Place) table(column string) (oid uint32, ok bool) {
	for _, t := range p.Tables {
		if t.Column == column {
			return t.OID, true
		}
	}
	return 0, false
}

// Differs says how two places differ, in words; empty: they are the same. Where one of two roles may not ask for the system
// identifier, names and OIDs decide alone. A primary and its replica are the same place.
func (p Place) Differs(o Place) string {
	if p.System != "" && o.System != "" && p.System != o.System || p.Database != o.Database || p.OID != o.OID {
		if p.String() == o.String() {
			return fmt.Sprintf("%s (OID %d) and another of that name (OID %d)", p, p.OID, o.OID)
		}
		return fmt.Sprintf("%s and %s", p, o)
	}
	for _, t := range p.Tables {
		if oid, ok := o.table(t.Column); ok && oid != t.OID {
			return fmt.Sprintf("table %d and table %d for %s in %s", t.OID, oid, t.Column, p)
		}
	}
	return ""
}

// Equal reports whether two places are named in the same words.
func (p Place) Equal(o Place) bool {
	return p.System == o.System && p.Database == o.Database && p.OID == o.OID && p.Primary == o.Primary && slices.Equal(p.Tables, o.Tables)
}
