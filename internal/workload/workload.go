// SPDX-License-Identifier: Apache-2.0

// Package workload holds who loads keys: workloads, what each does with a key, their running instances, and the
// bundle that an instance should hold.
package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Role is what a workload does with a key.
type Role struct {
	Presents bool `json:"presents,omitempty"` // client, encryptor
	Verifies bool `json:"verifies,omitempty"` // server, decryptor
	// Single says that its processes verify against one value at a time: they cannot accept both during a rotation.
	Single bool `json:"single_value,omitempty"`
}

// AcceptsBoth reports whether the role can verify against two values at a time.
func (r Role) AcceptsBoth() bool { return r.Verifies && !r.Single }

// Workload is a set of identical processes that load keys.
type Workload struct {
	Name           string          `json:"name"`
	Keys           map[string]Role `json:"keys"`            // by key name
	After          []string        `json:"after,omitempty"` // workloads whose instances change first
	MinInstances   int             `json:"min_instances"`   // a rotation waits until so many live instances take part
	MaxUnavailable string          `json:"max_unavailable"` // instances that change at a time: a number or a percentage
	Reencrypts     bool            `json:"reencrypts,omitempty"`
	MaxInstances   int             `json:"max_instances,omitempty"` // 0: DefaultMaxInstances
	RequireProof   Proof           `json:"require_proof,omitempty"` // how an instance has to know that its process uses what it has loaded

	// Before is Keys before its last change, while instances follow that in waves; nil: all have followed.
	Before map[string]Role `json:"before,omitzero"`
}

// DefaultMaxInstances is how many instances a workload may have that does not say.
const DefaultMaxInstances = 1000

// InstanceLimit returns how many instances it may have.
func (w Workload) InstanceLimit() int {
	if w.MaxInstances == 0 {
		return max(DefaultMaxInstances, w.MinInstances)
	}
	return w.MaxInstances
}

// Uses reports whether the workload, or an instance that has not followed its last change, has anything to do with one of the keys.
func (w Workload) Uses(keys ...string) bool {
	return slices.ContainsFunc(keys, func(name string) bool {
		_, now := w.Keys[name]
		_, before := w.Before[name]
		return now || before
	})
}

// Earlier returns the workload as instances know it that have not followed its last change.
func (w Workload) Earlier() Workload {
	w.Keys, w.Before = w.Before, nil
	return w
}

// Waiting returns the workload as an instance knows it that has not followed its last change of these keys.
func (w Workload) Waiting(keys []string) Workload {
	if len(keys) == 0 {
		return w
	}
	w.Keys = maps.Clone(w.Keys)
	for _, name := range keys {
		delete(w.Keys, name)
		if role, had := w.Before[name]; had {
			w.Keys[name] = role
		}
	}
	return w
}

// Changing returns the keys whose roles instances still follow, sorted.
func (w Workload) Changing() (names []string) {
	if w.Before == nil {
		return nil
	}
	for name := range w.Before {
		if w.Before[name] != w.Keys[name] {
			names = append(names, name)
		}
	}
	for name := range w.Keys {
		if _, had := w.Before[name]; !had {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// KeyNames returns the names of its keys, sorted.
func (w Workload) KeyNames() []string { return slices.Sorted(maps.Keys(w.Keys)) }

// Validate names the field that is wrong.
func (w Workload) Validate() error {
	if err := key.ValidateName("workload", w.Name); err != nil {
		return err
	}
	if len(w.Keys) == 0 {
		return fmt.Errorf("workload %s has no keys; list them in presents= or verifies=", w.Name)
	}
	if w.MinInstances < 0 {
		return fmt.Errorf("min_instances %d is negative; use 0 for a workload that may be absent", w.MinInstances)
	}
	if w.MaxInstances < 0 {
		return fmt.Errorf("max_instances %d is negative; use 0 for %d, the default", w.MaxInstances, DefaultMaxInstances)
	}
	if w.InstanceLimit() < w.MinInstances {
		return fmt.Errorf("max_instances %d is below min_instances %d, so that no rotation could go on; raise it, or lower min_instances", w.MaxInstances, w.MinInstances)
	}
	if _, err := ParseProof(string(w.RequireProof)); err != nil {
		return fmt.Errorf("require_proof: %w", err)
	}
	if slices.Contains(w.After, w.Name) {
		return fmt.Errorf("after: workload %s cannot come after itself", w.Name)
	}
	for _, name := range w.KeyNames() {
		if role := w.Keys[name]; role.Single && !role.Verifies {
			return fmt.Errorf("single_value: workload %s does not verify key %s; name it in verifies= too, or take it out of single_value=", w.Name, name)
		}
	}
	if w.Reencrypts && !slices.ContainsFunc(slices.Collect(maps.Values(w.Keys)), Role.AcceptsBoth) {
		return errors.New("reencrypts needs a key that the workload verifies, and not as single_value: only those come with the old and the new value")
	}
	_, err := w.AtATime(1)
	return err
}

// AtATime is how many of total instances may change at a time, at least one.
func (w Workload) AtATime(total int) (int, error) {
	text, percent := strings.CutSuffix(w.MaxUnavailable, "%")
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || (percent && n > 100) {
		return 0, fmt.Errorf("max_unavailable %q is neither a number from 1 nor a percentage from 1%% to 100%%", w.MaxUnavailable)
	}
	if percent {
		n = total * n / 100
	}
	return max(n, 1), nil
}

type workloadRecord struct {
	Schema int `json:"schema"`
	Workload
}

// workloadSchema is the number of the stored form. Schema 1 knew no single_value.
const workloadSchema = 2

// Encode returns the stored form.
func (w Workload) Encode() ([]byte, error) { return json.Marshal(workloadRecord{workloadSchema, w}) }

// Decode reads the stored form, of this schema and of those before.
func Decode(data []byte) (Workload, error) {
	var r workloadRecord
	if err := decode(data, &r, func() int { return r.Schema }, workloadSchema); err != nil {
		return Workload{}, fmt.Errorf("stored workload: %w", err)
	}
	if err := r.Validate(); err != nil {
		return Workload{}, fmt.Errorf("stored workload: %w", err)
	}
	return r.Workload, nil
}

// decode reads JSON of a schema from 1 to newest.
func decode(data []byte, into any, schema func() int, newest int) error {
	if err := json.Unmarshal(data, into); err != nil {
		return err
	}
	if n := schema(); n < 1 || n > newest {
		return fmt.Errorf("schema %d is not among 1 to %d that this release reads; use the release that wrote it or a newer one", n, newest)
	}
	return nil
}

// Login is whose token an instance reads with, as far as Vault tells a plugin. The zero Login is not known.
type Login struct {
	Entity   string `json:"entity,omitempty"`   // id of Vault's entity; empty where the token has none
	Accessor string `json:"accessor,omitempty"` // keyed fingerprint of the token's accessor; of a batch token, of the token
	Name     string `json:"name,omitempty"`     // display name of the token
}

// Known reports whether Vault has said whose login it is.
func (l Login) Known() bool { return l.Accessor != "" }

// Same reports whether both are the same login: the same token, however often it was renewed.
func (l Login) Same(other Login) bool { return l.Known() && l.Accessor == other.Accessor }

// SameEntity reports whether both are of one entity, or of none. All pods of a service account have one entity.
func (l Login) SameEntity(other Login) bool { return l.Entity == other.Entity }

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
