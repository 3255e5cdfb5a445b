// SPDX-License-Identifier: Apache-2.0

package api

// RotationRequest names a rotation.
type RotationRequest struct {
	ID string `json:"id" doc:"Id of the rotation, as the answer to rotate gave it." api:"required"`
}

// RotationCommand is the request to pause, resume, confirm or revert a rotation, or to accept its only witness.
type RotationCommand struct {
	RotationRequest
	Reason string `json:"reason,omitempty" doc:"Why; kept in the timeline and the journal. Never put a secret here."`
}

// RotationSummary is the response to a write that starts or changes a rotation.
type RotationSummary struct {
	ID        string                   `json:"id" doc:"Id of the rotation. It begins with the UTC time of its start."`
	State     string                   `json:"state" doc:"State of the rotation (docs/rotation.md)."`
	Step      string                   `json:"step" doc:"Step within the state; empty in states of one step."`
	Keys      []string                 `json:"keys" doc:"Names of the keys that it rotates."`
	Versions  map[string]VersionChange `json:"versions" doc:"By key: the old version and the new one."`
	NextGate  string                   `json:"next_gate" doc:"What the rotation waits for, in words; empty if nothing holds it back."`
	Paused    bool                     `json:"paused" doc:"Whether it is paused."`
	Retention map[string]string        `json:"retention" doc:"By key: what happens to the value of the old version at the end, in words."`
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
	Retain          *Seconds             `json:"retain" doc:"For how long old versions are retained, if the request has set it; otherwise null."`
	Waves           []Wave               `json:"waves" doc:"The next instances that the step lets go."`
	Gates           []Gate               `json:"gates" doc:"Conditions of the present step."`
	Instances       []RotationInstance   `json:"instances" doc:"Instances that take part."`
	Rows            map[string]Rows      `json:"rows" doc:"By key: progress of the re-encryption."`
	Witnesses       map[string][]Witness `json:"witnesses" doc:"By key: who has opened each row without the old version."`
	OneWitness      string               `json:"one_witness" doc:"Display name of the user who has accepted the word of one witness."`
	Timeline        []Event              `json:"timeline" doc:"What has happened, oldest first."`
	TimelineOmitted int                  `json:"timeline_omitted" doc:"Number of events from the middle of the timeline that only the journal has."`
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
}

// RotationInstance is an instance in a rotation.
type RotationInstance struct {
	Workload string `json:"workload" doc:"Name of the workload."`
	Instance string `json:"instance" doc:"Name of the instance."`
	MayGoTo  string `json:"may_go_to" doc:"How far it was let go: old, accept both, present new or new only."`
	Loaded   bool   `json:"loaded" doc:"Whether it runs with what it should hold."`
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
