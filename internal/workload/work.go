// SPDX-License-Identifier: Apache-2.0

package workload

import "github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"

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
	ID       string       `json:"id"` // rotation, key and phase, or CountPrefix, key, version and columns; another ID is other work
	Rotation string       `json:"rotation"`
	Key      string       `json:"key"`
	Env      string       `json:"env"`
	Phase    Phase        `json:"phase"`
	From     int          `json:"from"` // version numbers
	To       int          `json:"to"`
	Columns  []key.Column `json:"columns"`
	// Others are further keys that may have envelopes in the same columns (legacy rows): those are left as they are.
	Others []Other `json:"others,omitempty"`
	// Pass counts how often the rotation has gone back for rows that were left. Work of an earlier pass is out of date.
	Pass int `json:"pass,omitempty"`
	// Upgrade asks to bring rows of Others under the new value, in the layout of their column.
	Upgrade bool `json:"upgrade,omitempty"`
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
	Env    string     `json:"env"`
	Layout key.Layout `json:"layout"`
}

// WorkReport is the evidence that an instance gives of Work.
type WorkReport struct {
	ID      string         `json:"id"`
	Done    bool           `json:"done"`
	Error   string         `json:"error,omitempty"` // in plain words, never a value
	Columns []ColumnReport `json:"columns,omitempty"`
	Rate    float64        `json:"rate,omitempty"` // rows a second, while it is under way
	Finds   []Find         `json:"finds,omitempty"`
	// MoreFinds are columns like those of Finds that are not named, since the report would be too long.
	MoreFinds int      `json:"more_finds,omitempty"`
	Place     *Place   `json:"place,omitempty"`  // the database that was looked at; nil: a sidecar of an earlier release
	Unseen    []string `json:"unseen,omitempty"` // tables that were not looked at, or not as a whole: the role may not read them, or they are large
}

// Find is a column that holds envelopes of the key without being configured.
type Find struct {
	Column string `json:"column"` // as Column.String writes it
	JSON   bool   `json:"json,omitempty"`
	Shaped int    `json:"shaped"` // rows with a string of an envelope's shape
	Tried  int    `json:"tried"`  // strings
	Opened int    `json:"opened"` // of those tried, under the value that is to go
}

// ColumnReport counts the rows of one column, in rows.
type ColumnReport struct {
	Column  string `json:"column"`  // Column.String of it
	Total   int    `json:"total"`   // not null and not empty
	Staged  int    `json:"staged"`  // copies that wait beside the rows
	Rotated int    `json:"rotated"` // open under the new value (of a revert: under the old one)
	Left    int    `json:"left"`    // open under the value that is to go
	Other   int    `json:"other"`   // open under one of Others
	Bad     int    `json:"bad"`     // open under nothing we hold
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
