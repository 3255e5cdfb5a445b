// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
)

// RotationRequest names a rotation.
type RotationRequest struct {
	ID string `json:"id" doc:"Id of the rotation, as the answer to rotate gave it, or what it begins with; the name of a key, for its running or newest rotation; latest, for the newest of all." api:"required"`
}

// RotationDetail is a field of reads and writes that answer with a rotation.
type RotationDetail struct {
	Detailed bool `json:"detailed,omitempty" doc:"Give lists and maps as such, and durations as numbers of seconds, for programs, instead of lines." api:"query"`
}

// RotationLines is a rotation for people: the fields of Rotation, with a line for each element of a list or map: gate_01, instance_01,
// timeline_01, versions_NAME.
type RotationLines map[string]any

// RotationRead asks for a rotation as it is, or for what is new of it.
type RotationRead struct {
	RotationRequest
	RotationDetail
	Since *int     `json:"since,omitempty" doc:"The revision that is known already: the answer comes when there is another one. With it, or with wait, instances and waves are not in the answer." api:"query"`
	Wait  *Seconds `json:"wait,omitempty" doc:"How long to wait for a revision other than since, or than the present one. The answer comes after 5s at the latest, which is the default with since." api:"query"`
}

// RotationCommand is the request to pause, resume, confirm or revert a rotation, or to accept its only witness.
type RotationCommand struct {
	RotationRequest
	RotationDetail
	Reason string `json:"reason,omitempty" doc:"Why; kept in the timeline and the journal. Never put a secret here."`
}

// RotationSummary is the response to a write that starts or changes a rotation.
type RotationSummary struct {
	ID        string                   `json:"id" doc:"Id of the rotation. It begins with the UTC time of its start."`
	State     string                   `json:"state" doc:"State of the rotation (docs/rotation.md)."`
	Step      string                   `json:"step" doc:"Step within the state; empty in states of one step."`
	Keys      []string                 `json:"keys" doc:"Names of the keys that it rotates."`
	Versions  map[string]VersionChange `json:"versions" doc:"By key: the old version and the new one."`
	Outcome   string                   `json:"outcome" doc:"What has come of it so far: done, done_with_cuts, running, paused, reverting or reverted."`
	Revision  int64                    `json:"revision" doc:"Another number whenever what is shown of the rotation has changed: write it as since= to wait for more."`
	NextGate  string                   `json:"next_gate" doc:"What the rotation waits for, in words; empty if nothing holds it back."`
	Paused    bool                     `json:"paused" doc:"Whether it is paused."`
	Retention map[string]string        `json:"retention" doc:"By key: what happens to the value of the old version at the end, in words."`
	Follow    string                   `json:"followed_by,omitempty" doc:"Id of the rotation that starts when this one has ended. Absent if none does."`
	AllKeys
}

// AllKeys is what a request for all keys has come to beside its main rotation.
type AllKeys struct {
	With        []WithRotation `json:"with,omitempty" doc:"With keys=all: other rotations that the request is about. Absent if there are none."`
	LeftOut     []LeftOutKey   `json:"left_out,omitempty" doc:"With keys=all: keys that are not rotated. Absent if there are none."`
	LeftOutMore int            `json:"left_out_more,omitempty" doc:"Number of further keys of that kind that are not listed."`
	NextSteps   []string       `json:"next_steps,omitempty" doc:"With keys=all compromised=true: commands that are left to write, in words. Absent if there are none."`
}

// WithRotation is another rotation of a request for all keys.
type WithRotation struct {
	ID   string `json:"id" doc:"Id of the rotation; empty: it does not exist yet."`
	Text string `json:"text" doc:"Its keys, and what becomes of it, in words."`
}

// LeftOutKey is a key that a request for all keys does not rotate.
type LeftOutKey struct {
	Key    string `json:"key" doc:"Name of the key."`
	Reason string `json:"reason" doc:"Why, and what to do, in words."`
}

// VersionChange is a change of version numbers.
type VersionChange struct {
	From int `json:"from" doc:"Number of the old version."`
	To   int `json:"to" doc:"Number of the new version."`
}

// Ended reports whether nothing will happen any more.
func (r RotationSummary) Ended() bool { return r.State == "done" || r.State == "reverted" }

// Rotation is one rotation with all its details.
type Rotation struct {
	RotationSummary
	Follows     string  `json:"follows,omitempty" doc:"Id of the rotation that this one follows. Absent if it follows none."`
	PartOf      string  `json:"part_of,omitempty" doc:"Id of the rotation that these keys were part of until their server failed. Absent otherwise."`
	Trigger     string  `json:"trigger" doc:"Why it started: operator, period or schedule."`
	Reason      string  `json:"reason" doc:"Reason that the request gave."`
	By          string  `json:"by" doc:"Display name of the user who started it."`
	EntityID    string  `json:"entity_id" doc:"Id of that user's entity."`
	Created     Time    `json:"created_time" doc:"When it started."`
	Since       Time    `json:"since" doc:"When its step began."`
	Soak        Seconds `json:"soak" doc:"How long the new version must work everywhere before the old one may be retired."`
	Observe     Seconds `json:"observe" doc:"For how long servers must have seen nobody use the old version."`
	Deadline    Seconds `json:"deadline" doc:"How long a step may take; 0: for as long as it takes."`
	OnFailure   string  `json:"on_failure" doc:"What happens when it has failed: pause or revert."`
	Compromised bool    `json:"compromised" doc:"Whether gates that do not hold at the deadline are cut."`
	Confirm     bool    `json:"confirm" doc:"Whether somebody must confirm it before the old version is retired."`
	ConfirmBy   string  `json:"confirm_by" doc:"Who may confirm it: any user, or other than the one who started it."`
	ConfirmedBy string  `json:"confirmed_by" doc:"Display name of the user who has confirmed it."`
	// Retain is nil if the keys say it.
	Retain          *Seconds             `json:"retain,omitempty" doc:"For how long old versions are retained. Absent if the request has not set it: the keys say it."`
	Waves           []Wave               `json:"waves" doc:"The next instances that the step lets go."`
	Gates           []Gate               `json:"gates" doc:"Conditions of the present step."`
	Instances       []RotationInstance   `json:"instances" doc:"Instances that take part."`
	Rows            map[string]Rows      `json:"rows" doc:"By key: progress of the re-encryption."`
	Witnesses       map[string][]Witness `json:"witnesses" doc:"By key: who has opened each row without the old version."`
	OneWitness      string               `json:"one_witness" doc:"Display name of the user who has accepted the word of one witness."`
	Timeline        []Event              `json:"timeline" doc:"What has happened, oldest first."`
	TimelineOmitted int                  `json:"timeline_omitted" doc:"Number of events from the middle of the timeline that only the journal has."`

	// RotationEvidence is empty while the rotation runs.
	RotationEvidence
}

// Wave is a set of instances that change together.
type Wave struct {
	Workload  string   `json:"workload" doc:"Name of the workload."`
	Instances []string `json:"instances" doc:"Names of the instances."`
}

// Gate is a condition of the present step.
type Gate struct {
	Gate   string `json:"gate" doc:"Name of the gate (docs/rotation.md)."`
	Holds  bool   `json:"holds" doc:"Whether it holds."`
	Reason string `json:"reason" doc:"Why it does not hold, in words."`
	Note   string `json:"note" doc:"What it has not looked at although it holds, since a workload has no live instance."`
}

// RotationInstance is an instance in a rotation.
type RotationInstance struct {
	Workload string `json:"workload" doc:"Name of the workload."`
	Instance string `json:"instance" doc:"Name of the instance."`
	MayGoTo  string `json:"may_go_to" doc:"How far it was let go: old, accept both, present new or new only."`
	Loaded   bool   `json:"loaded" doc:"Whether it runs with what it should hold."`
	Proof    string `json:"proof" doc:"How its sidecar knows that the workload uses what it has loaded: etag, health, reload or none."`
	Healthy  bool   `json:"healthy" doc:"Whether it has reported to be healthy."`
	Reason   string `json:"reason" doc:"Why it is not healthy."`
	Seen     Time   `json:"seen" doc:"When it last read its bundle or reported."`
}

// Rows is the re-encryption of one key.
type Rows struct {
	Done             bool                 `json:"done" doc:"Whether the current work is done."`
	Error            string               `json:"error" doc:"Why it is not done, in words."`
	Columns          []ColumnRows         `json:"columns" doc:"Counts of each column."`
	Unseen           []string             `json:"unseen" doc:"Tables that were not looked at, or not as a whole."`
	RowsPerSecond    *float64             `json:"rows_per_second,omitempty" doc:"Rate. Absent if it is not known."`
	ExpectedSeconds  *Seconds             `json:"expected_seconds,omitempty" doc:"Time that is left at this rate. Absent if it is not known."`
	Unconfigured     []UnconfiguredColumn `json:"unconfigured" doc:"Columns that hold envelopes of the key without being configured."`
	UnconfiguredMore int                  `json:"unconfigured_more" doc:"Number of further columns of that kind that are not listed."`
}

// ColumnRows counts the rows of one column.
type ColumnRows struct {
	Column     string `json:"column" doc:"The column, as [schema.]table.column."`
	Total      int    `json:"total" doc:"Rows that are neither null nor empty."`
	Staged     int    `json:"staged" doc:"Re-encrypted copies that wait beside the rows."`
	Rotated    int    `json:"rotated" doc:"Rows that open under the new version; in a revert, under the old one."`
	Left       int    `json:"left" doc:"Rows that open under the version that is to go."`
	Other      int    `json:"other" doc:"Rows that open under another key."`
	Unreadable int    `json:"unreadable" doc:"Rows that open under no known key."`
}

// UnconfiguredColumn is a column that holds envelopes of a key without being configured.
type UnconfiguredColumn struct {
	Column          string `json:"column" doc:"The column, as [schema.]table.column."`
	JSON            bool   `json:"json" doc:"Whether the envelopes are strings within JSON."`
	RowsOfThatShape int    `json:"rows_of_that_shape" doc:"Rows with a string that has the shape of an envelope."`
	Tried           int    `json:"tried" doc:"Number of strings that were tried."`
	Opened          int    `json:"opened" doc:"Number of those that opened under the old version."`
}

// Witness has opened each row without the version that is to be erased.
type Witness struct {
	Witness string `json:"witness" doc:"The instance, or the connection by which the engine has looked."`
	Time    Time   `json:"time" doc:"When it looked."`
	Done    bool   `json:"done" doc:"Whether it has looked at all rows."`
	Error   string `json:"error" doc:"Why it could not."`
	Left    int    `json:"left" doc:"Rows that did not open."`
	Place   string `json:"place,omitempty" doc:"The database that it looked at. Absent if it does not say."`
}

// Event is an entry of a timeline.
type Event struct {
	Time     Time   `json:"time" doc:"When it happened."`
	State    string `json:"state" doc:"State from then on."`
	Step     string `json:"step" doc:"Step from then on."`
	Text     string `json:"text" doc:"What happened, in words."`
	By       string `json:"by" doc:"Display name of the user who did it; empty if the rotation went on by itself."`
	EntityID string `json:"entity_id" doc:"Id of that user's entity."`
	Reason   string `json:"reason" doc:"Reason that the user gave."`
}

// RotateRequest asks for the rotation of a key.
type RotateRequest struct {
	Key         string   `json:"key,omitempty" doc:"The key to rotate."`
	Reason      string   `json:"reason,omitempty" doc:"Why; kept in the rotation and the journal. Never put a secret here."`
	Value       *string  `json:"value,omitempty" doc:"The new value, checked by the key's kind, instead of one that the kind makes. For a key without versions: the value in use today, imported as version 1. Use value=- to read it from standard input." api:"secret"`
	DryRun      bool     `json:"dry_run,omitempty" doc:"Tell what a rotation would do, and what would hold it back, and change nothing."`
	Detailed    bool     `json:"detailed,omitempty" doc:"Give lists and maps, and with dry_run=true the steps, as fields, for programs, instead of lines."`
	Compromised bool     `json:"compromised,omitempty" doc:"The old version is known to somebody who should not: no soak time, no confirmation, and every gate that does not hold within the deadline is cut. Rows that need the old version are not, nor is a confirmation with confirm_by=other."`
	OnFailure   string   `json:"on_failure,omitempty" doc:"pause or revert, when an instance is unhealthy while the rotation presents, or the deadline has passed. Default: as the keys say."`
	Confirm     string   `json:"confirm,omitempty" doc:"manual: somebody must confirm it before the old version is retired; auto: evidence is enough. Default: as the keys say."`
	ConfirmBy   string   `json:"confirm_by,omitempty" doc:"other: the user who starts the rotation cannot confirm it, and somebody has to; any: every user with the right to. It cannot loosen what the keys say, which is the default."`
	Deadline    Seconds  `json:"deadline,omitempty" doc:"How long a step may take before the rotation has failed, or, with compromised=true, before it cuts. Default: as the keys, or the configuration, say."`
	Retain      *Seconds `json:"retain,omitempty" doc:"For how long the value of the old version is retained in quarantine. 0s: it is erased at once. Default: as the keys say. With compromised=true the old login of a server is never retained."`
	Upgrade     bool     `json:"upgrade,omitempty" doc:"Bring rows of older releases, which another key encrypts in the same columns, under the new version and into its layout."`
	Wait        *Seconds `json:"wait,omitempty" doc:"Answer only when the rotation has ended or is paused, or after this time (60s at most), with how far it is. A warning says so if it is not done. Default 0s."`
}

// RotateKeysRequest asks for the rotation of several keys together.
type RotateKeysRequest struct {
	RotateRequest
	Keys []string `json:"keys,omitempty" doc:"Several keys to rotate together: instances load all of them in one step. all: every key that can be rotated."`
}

// Imported is the response of rotate for a key without versions.
type Imported struct {
	Key      string `json:"key" doc:"Name of the key."`
	Version  int    `json:"version" doc:"Number of the version, which is 1."`
	State    string `json:"state" doc:"imported."`
	NextGate string `json:"next_gate" doc:"Empty: it waits for nothing."`
	Next     Time   `json:"next_rotation" doc:"When the key rotates by itself; empty: it does not."`
}

// Plan is the response of rotate with dry_run=true.
type Plan struct {
	DryRun           bool                     `json:"dry_run" doc:"true: nothing was changed."`
	Keys             []string                 `json:"keys" doc:"Names of the keys."`
	Versions         map[string]VersionChange `json:"versions" doc:"By key: the old version and the new one."`
	Rows             map[string]PlanRows      `json:"rows" doc:"By key: rows that it protects."`
	Gaps             []string                 `json:"gaps" doc:"Where requests would be refused for a time, in words."`
	Blockers         []string                 `json:"blockers" doc:"What would hold the rotation back now, in words. With keys=all, also what would hold back the others, with their keys."`
	Notes            []string                 `json:"notes" doc:"What an operator should know before the rotation, in words."`
	ExpectedDuration string                   `json:"expected_duration" doc:"Duration by earlier rotations of these keys, in words."`
	Soak             Seconds                  `json:"soak" doc:"Soak time."`
	Observe          Seconds                  `json:"observe" doc:"For how long servers must have seen nobody use the old version."`
	Deadline         Seconds                  `json:"deadline" doc:"How long a step may take; 0: for as long as it takes."`
	OnFailure        string                   `json:"on_failure" doc:"pause or revert."`
	Confirm          bool                     `json:"confirm" doc:"Whether somebody must confirm it."`
	ConfirmBy        string                   `json:"confirm_by" doc:"any or other."`
	Compromised      bool                     `json:"compromised" doc:"As in the request."`
	Retain           *Seconds                 `json:"retain,omitempty" doc:"As in the request. Absent if it has not set it: the keys say it."`
	AllKeys
	Moves []Move            `json:"moves,omitzero" doc:"The steps, with detailed=true."`
	Steps map[string]string `json:"-" api:"inline" doc:"step_01, step_02 and so on: a line for each step, without detailed=true."`
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
