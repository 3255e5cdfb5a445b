// SPDX-License-Identifier: Apache-2.0

package api

import "encoding/json"

// RotateRequest asks for the rotation of a key.
type RotateRequest struct {
	Key         string   `json:"key,omitempty" doc:"The key to rotate."`
	Reason      string   `json:"reason,omitempty" doc:"Why; kept in the rotation and the journal. Never put a secret here."`
	Value       *string  `json:"value,omitempty" doc:"The new value, checked by the key's kind, instead of one that the kind makes. For a key without versions: the value in use today, imported as version 1. Use value=- to read it from standard input." api:"secret"`
	DryRun      bool     `json:"dry_run,omitempty" doc:"Tell what a rotation would do, and what would hold it back, and change nothing."`
	Detailed    bool     `json:"detailed,omitempty" doc:"With dry_run=true: give the steps as fields, for programs, instead of a line each."`
	Compromised bool     `json:"compromised,omitempty" doc:"The old version is known to somebody who should not: no soak time, no confirmation, and every gate that does not hold within the deadline is cut. Rows that need the old version are not, nor is a confirmation with confirm_by=other."`
	OnFailure   string   `json:"on_failure,omitempty" doc:"pause or revert, when an instance is unhealthy while the rotation presents, or the deadline has passed. Default: as the keys say."`
	Confirm     string   `json:"confirm,omitempty" doc:"manual: somebody must confirm it before the old version is retired; auto: evidence is enough. Default: as the keys say."`
	ConfirmBy   string   `json:"confirm_by,omitempty" doc:"other: the user who starts the rotation cannot confirm it, and somebody has to; any: every user with the right to. It cannot loosen what the keys say, which is the default."`
	Deadline    Seconds  `json:"deadline,omitempty" doc:"How long a step may take before the rotation has failed, or, with compromised=true, before it cuts. Default: as the keys, or the configuration, say."`
	Retain      *Seconds `json:"retain,omitempty" doc:"For how long the value of the old version is retained in quarantine. 0s: it is erased at once. Default: as the keys say. With compromised=true the old login of a server is never retained."`
	Upgrade     bool     `json:"upgrade,omitempty" doc:"Bring rows of older releases, which another key encrypts in the same columns, under the new version and into its layout."`
	Wait        *Seconds `json:"wait,omitempty" doc:"Answer only when the rotation has ended, or after this time (60s at most), with how far it is. Default 0s."`
}

// RotateKeysRequest asks for the rotation of several keys together.
type RotateKeysRequest struct {
	RotateRequest
	Keys []string `json:"keys,omitempty" doc:"Several keys to rotate together: instances load all of them in one step."`
}

// Imported is the response of rotate for a key without versions.
type Imported struct {
	Key      string `json:"key" doc:"Name of the key."`
	Version  int    `json:"version" doc:"Number of the version, which is 1."`
	State    string `json:"state" doc:"imported."`
	NextGate string `json:"next_gate" doc:"Empty: it waits for nothing."`
}

// Plan is the response of rotate with dry_run=true.
type Plan struct {
	DryRun           bool                     `json:"dry_run" doc:"true: nothing was changed."`
	Keys             []string                 `json:"keys" doc:"Names of the keys."`
	Versions         map[string]VersionChange `json:"versions" doc:"By key: the old version and the new one."`
	Rows             map[string]PlanRows      `json:"rows" doc:"By key: rows that it protects."`
	Gaps             []string                 `json:"gaps" doc:"Where requests would be refused for a time, in words."`
	Blockers         []string                 `json:"blockers" doc:"What would hold the rotation back now, in words."`
	Notes            []string                 `json:"notes" doc:"What an operator should know before the rotation, in words."`
	ExpectedDuration string                   `json:"expected_duration" doc:"Duration by earlier rotations of these keys, in words."`
	Soak             Seconds                  `json:"soak" doc:"Soak time."`
	Observe          Seconds                  `json:"observe" doc:"For how long servers must have seen nobody use the old version."`
	Deadline         Seconds                  `json:"deadline" doc:"How long a step may take; 0: for as long as it takes."`
	OnFailure        string                   `json:"on_failure" doc:"pause or revert."`
	Confirm          bool                     `json:"confirm" doc:"Whether somebody must confirm it."`
	ConfirmBy        string                   `json:"confirm_by" doc:"any or other."`
	Compromised      bool                     `json:"compromised" doc:"As in the request."`
	Retain           *Seconds                 `json:"retain" doc:"As in the request; null: the keys say it."`
	Moves            []Move                   `json:"moves,omitzero" doc:"The steps, with detailed=true."`
	Steps            map[string]string        `json:"-" api:"inline" doc:"step_01, step_02 and so on: a line for each step, without detailed=true."`
}

// PlanRows are the rows that a key protects, as last counted.
type PlanRows struct {
	Columns []ColumnRows `json:"columns" doc:"Counts of each column."`
	AsOf    string       `json:"as_of" doc:"When they were counted, or that they were not."`
}

// Move is a step of a plan.
type Move struct {
	State    string  `json:"state" doc:"State of the rotation."`
	Step     string  `json:"step" doc:"Step within the state."`
	Text     string  `json:"text" doc:"What the step does, in words."`
	Waves    []Wave  `json:"waves" doc:"Instances that change, in turn."`
	Expected float64 `json:"expected_seconds" doc:"Duration by earlier rotations, in seconds; 0: not known."`
}

// MarshalJSON implements [json.Marshaler].
func (p Plan) MarshalJSON() ([]byte, error) { return encode(p) }

// UnmarshalJSON implements [json.Unmarshaler].
func (p *Plan) UnmarshalJSON(data []byte) error {
	type fixed Plan
	if err := json.Unmarshal(data, (*fixed)(p)); err != nil {
		return err
	}
	return decodeInline(data, *p, &p.Steps)
}
