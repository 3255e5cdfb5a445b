// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Bundle is all that one instance should hold now.
type Bundle struct {
	Values         map[string]key.Value   // by environment name: to present, or to encrypt with
	Accepts        map[string][]key.Value // by environment name: to verify against, newest first
	Versions       map[string]int         // by environment name
	Created        map[string]time.Time   // of the version in Versions
	AcceptVersions map[string][]int       // by environment name, parallel to Accepts
	Work           []Work
	Holding        Holding

	Tripwires map[string][]Tripwire // by environment name, of keys that are verified; nil: the reader is no sidecar
}

// Summer makes keyed hashes over parts; key.Fingerprinter is one.
type Summer interface{ Sum(parts ...string) string }

// EtagOf is the etag of what is held and the work asked: keyed, so that it tells bundles apart and reveals no value.
// It costs no look at values, since a version's value never changes; identity tells a key from one of the same name that
// was deleted before it.
func EtagOf(sum Summer, workload string, held map[string]Held, work []Work, identity func(keyName string) string) string {
	parts := []string{"etag", workload}
	for _, name := range slices.Sorted(maps.Keys(held)) {
		parts = append(parts, name, identity(name), strconv.Itoa(held[name].Value))
		for _, n := range held[name].Accepts {
			parts = append(parts, strconv.Itoa(n))
		}
		parts = append(parts, "")
	}
	for _, w := range work {
		parts = append(parts, w.ID)
	}
	return sum.Sum(parts...)[:32]
}

// Source is where a bundle's values come from.
type Source interface {
	// Key returns a key by its name.
	Key(name string) (key.Key, bool)
	// Render returns what a version presents under each environment name by which workloads know the key.
	Render(k key.Key, v key.Version) (map[string]key.Value, error)
}

// Fill makes the bundle of a holding: it looks up the values of the versions held.
func Fill(holding Holding, work []Work, source Source) (Bundle, error) {
	b := Bundle{
		Values: map[string]key.Value{}, Accepts: map[string][]key.Value{},
		Versions: map[string]int{}, Created: map[string]time.Time{}, AcceptVersions: map[string][]int{}, Work: work, Holding: holding,
	}
	for name, held := range holding.Keys {
		k, ok := source.Key(name)
		if !ok {
			return Bundle{}, fmt.Errorf("key %s is gone", name)
		}
		version := func(number int) (key.Version, error) {
			v, ok := k.Version(number)
			if !ok || v.Value.Empty() {
				return key.Version{}, fmt.Errorf("key %s: version %d has no value", name, number)
			}
			return v, nil
		}
		for _, n := range held.Accepts {
			v, err := version(n)
			if err != nil {
				return Bundle{}, err
			}
			b.Accepts[k.Env] = append(b.Accepts[k.Env], v.Value)
			b.AcceptVersions[k.Env] = append(b.AcceptVersions[k.Env], n)
			b.hold(k, k.Env, max(b.Versions[k.Env], n))
		}
		if held.Value == 0 {
			continue
		}
		v, err := version(held.Value)
		if err != nil {
			return Bundle{}, err
		}
		rendered, err := source.Render(k, v)
		if err != nil {
			return Bundle{}, fmt.Errorf("key %s: version %d: %w", name, held.Value, err)
		}
		for env, v := range rendered {
			b.Values[env] = v
			b.hold(k, env, held.Value)
		}
	}
	return b, nil
}

// hold notes which version of a key is held under a name.
func (b *Bundle) hold(k key.Key, env string, number int) {
	b.Versions[env] = number
	if v, ok := k.Version(number); ok {
		b.Created[env] = v.Created
	}
}

// Phase is what the engine asks of an instance that re-encrypts.
type Phase string

// The phases, in the order in which a rotation goes through them. Revert takes the place of Flip and Sweep when a
// rotation goes back.
const (
	PhaseStage  Phase = "stage"  // compute new ciphertexts beside the rows
	PhaseFlip   Phase = "flip"   // replace them in one transaction, sweep, verify
	PhaseSweep  Phase = "sweep"  // again and again: re-encrypt stragglers, count what is left under the old key
	PhaseRevert Phase = "revert" // put the old ciphertexts back, re-encrypt rows written since
	PhaseWipe   Phase = "wipe"   // drop staged and kept ciphertexts
	PhaseCheck  Phase = "check"  // open each row under the version that stays, right before the other one is erased
)

// PhaseCount is asked while no rotation of the key runs: to count its rows, and to look whether they could be re-encrypted.
// It is no evidence, and no part of an etag.
const PhaseCount Phase = "count"

// Work is part of a bundle: what its instance should re-encrypt now. The values are in the bundle's accepts under
// Env: the first is the new one (To), the second the old one (From). Wipe needs neither. For Check the only value is that of
// the version that stays.
type Work struct {
	// ID is that of rotation, key and phase, or CountPrefix, key, version and columns. Another ID is other work.
	ID       string       `json:"id" doc:"Id of the work: another id is other work. Reports name it."`
	Rotation string       `json:"rotation" doc:"Id of the rotation; empty: rows are counted while none runs."`
	Key      string       `json:"key" doc:"Name of the key."`
	Env      string       `json:"env" doc:"Environment name of the key."`
	Phase    Phase        `json:"phase" doc:"What to do: stage, flip, sweep, revert, wipe, check or count (docs/reencryption.md)."`
	From     int          `json:"from" doc:"Number of the old version."`
	To       int          `json:"to" doc:"Number of the new version."`
	Columns  []key.Column `json:"columns" doc:"Columns whose rows to re-encrypt."`
	Others   []Other      `json:"others,omitempty" doc:"Further keys that may have envelopes in the same columns; those are left as they are. Absent if there are none."`
	Pass     int          `json:"pass,omitempty" doc:"How often the rotation has gone back for rows that were left: work of an earlier pass is out of date. Absent: never."`
	Upgrade  bool         `json:"upgrade,omitempty" doc:"Whether rows of others are brought under the new version, in the layout of their column. Absent: no."`
}

// Rank orders the work of a rotation of a key as the rotation goes: work of a lower rank is out of date once work of a
// higher one was asked.
func (w Work) Rank() int {
	return w.Pass*rankPass + map[Phase]int{PhaseStage: 1, PhaseFlip: 2, PhaseSweep: 2, PhaseRevert: 3, PhaseWipe: 4, PhaseCheck: 5}[w.Phase]
}

// rankPass is more than any phase has.
const rankPass = 10

// CountPrefix begins the IDs of work of PhaseCount.
const CountPrefix = "count/"

// Other is a key that protects some rows of a column that Work is about.
type Other struct {
	Env    string     `json:"env" doc:"Environment name of the key."`
	Layout key.Layout `json:"layout" doc:"Layout of its envelopes: tag-first or tag-last."`
}

// WorkReport is the evidence of Work that an instance sends. Error never holds a value.
type WorkReport struct {
	ID        string         `json:"id" doc:"Id of the work."`
	Done      bool           `json:"done" doc:"Whether it is done."`
	Error     string         `json:"error,omitempty" doc:"Why it is not done, in words. Never put a secret here."`
	Columns   []ColumnReport `json:"columns,omitempty" doc:"Counts of each column."`
	Rate      float64        `json:"rate,omitempty" doc:"Rows per second, while it is under way."`
	Finds     []Find         `json:"finds,omitempty" doc:"Columns that hold envelopes of the key without being configured."`
	MoreFinds int            `json:"more_finds,omitempty" doc:"Number of further columns of that kind, which would make the report too long."`
	Place     *Place         `json:"place,omitempty" doc:"The database that was looked at. Sidecars of earlier releases leave it out."`
	Unseen    []string       `json:"unseen,omitempty" doc:"Tables that were not looked at, or not as a whole: the role may not read them, or they are large."`
}

// Find is a column that holds envelopes of the key without being configured.
type Find struct {
	Column string `json:"column" doc:"The column, as [schema.]table.column."`
	JSON   bool   `json:"json,omitempty" doc:"Whether the envelopes are strings within JSON."`
	Shaped int    `json:"shaped" doc:"Rows with a string that has the shape of an envelope."`
	Tried  int    `json:"tried" doc:"Number of strings that were tried."`
	Opened int    `json:"opened" doc:"Number of those that opened under the version that is to go."`
}

// ColumnReport counts the rows of one column, in rows.
type ColumnReport struct {
	Column  string `json:"column" doc:"The column, as [schema.]table.column."`
	Total   int    `json:"total" doc:"Rows that are neither null nor empty."`
	Staged  int    `json:"staged" doc:"Re-encrypted copies that wait beside the rows."`
	Rotated int    `json:"rotated" doc:"Rows that open under the new version; in a revert, under the old one."`
	Left    int    `json:"left" doc:"Rows that open under the version that is to go."`
	Other   int    `json:"other" doc:"Rows that open under one of the work's others."`
	Bad     int    `json:"bad" doc:"Rows that open under no known key."`
}

// Remaining is the number of rows that have not been looked at yet, while work is under way.
func (r WorkReport) Remaining() (rows int) {
	for _, c := range r.Columns {
		rows += max(0, c.Total-c.Staged-c.Rotated-c.Other-c.Bad)
	}
	return rows
}

// Left sums the rows that still need the value that is to go, and those that nobody can open.
func (r WorkReport) Left() (left, bad int) {
	for _, c := range r.Columns {
		left += c.Left
		bad += c.Bad
	}
	return left, bad
}
