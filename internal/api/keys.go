// SPDX-License-Identifier: Apache-2.0

package api

import "encoding/json"

// KeyRequest defines a key, or changes it; fields that are not given stay. Kinds add fields of their own.
type KeyRequest struct {
	Name             string         `json:"name" doc:"Name of the key: lower-case letters, digits, '-', '_' and '.'." api:"required"`
	Kind             *string        `json:"kind" doc:"What makes and checks values: {kinds}." default:"token"`
	Env              *string        `json:"env" doc:"Environment name under which workloads know it. Default: the name in upper case."`
	Value            *string        `json:"value" doc:"The value in use today, imported as version 1. Only for a key without versions. Use value=- to read it from standard input." api:"secret"`
	Generate         bool           `json:"generate" doc:"Make version 1 instead of importing it. Only for a key without versions."`
	Protects         *[]string      `json:"protects" doc:"Columns of envelopes that the key encrypts, as [schema.]table.column:layout with layout tag-first or tag-last, and rows where only some have them: \" where column=value and other is null\". \"none\" for none."`
	IgnoreColumns    *[]string      `json:"ignore_columns" doc:"Columns, as [schema.]table.column, in which envelopes of the key may be found that nobody re-encrypts: they are lost with the version that opens them. \"none\" for none."`
	Witness          *string        `json:"witness" doc:"Who else than instances opens every row before a version that rows may need is erased: the name of a connection of kind postgres to their database, whose administrator may SELECT the columns, so that the engine looks itself. \"none\": one instance's word is enough. \"\": two instances with logins of their own are waited for. Default \"\"."`
	RotationPeriod   *Seconds       `json:"rotation_period" doc:"Rotate by itself when a version is so old. 0: only when asked."`
	RotationSchedule *string        `json:"rotation_schedule" doc:"Rotate by itself at these times: cron of five fields in UTC, or in a zone, as in \"CRON_TZ=Europe/Berlin 0 3 * * SUN\". Not together with rotation_period. \"\" for none."`
	RotationWindow   *Seconds       `json:"rotation_window" doc:"For how long after a time of rotation_schedule a rotation may start; a time missed for longer waits for the next. 0: it is made up for whenever."`
	Disabled         *bool          `json:"disable_automated_rotation" doc:"Rotate only when asked, whatever rotation_period and rotation_schedule say."`
	Soak             *SignedSeconds `json:"soak" doc:"How long a new version must work everywhere before the old one may be retired. Default: that of hyvve/config; -1 goes back to it."`
	Observe          *SignedSeconds `json:"observe" doc:"For how long the key's server must have seen nobody use the old version before it is retired; each use starts it again. Make it longer than the pause between the rarest logins: 25h for a daily job. Default: that of hyvve/config; -1 goes back to it."`
	Deadline         *SignedSeconds `json:"deadline" doc:"How long a step of a rotation may take before it has failed. 0: for as long as it takes. Default: that of hyvve/config; -1 goes back to it."`
	OnFailure        *string        `json:"on_failure" doc:"What happens to a rotation that has failed (an unhealthy instance while it presents, or the deadline passed): pause or revert. Default: that of hyvve/config."`
	Confirm          *string        `json:"confirm" doc:"manual: somebody must confirm a rotation before the old version is retired. auto: evidence is enough. Default: that of hyvve/config."`
	ConfirmBy        *string        `json:"confirm_by" doc:"other: another user than the one who started the rotation must confirm it, even where it is compromised; it implies confirm=manual. any: every user with the right to. Default: that of hyvve/config; \"\" goes back to it."`
	Retain           *SignedSeconds `json:"retain" doc:"For how long the value of a retired version is retained in quarantine, in no bundle; hyvve/keys/NAME/undelete brings it back until then. Holds for versions that are retired from then on. 0s: it is erased at once. Default: that of hyvve/config; -1 goes back to it."`
}

// Key is a key's definition and its versions, without values.
type Key struct {
	Name             string            `json:"name" doc:"Name of the key."`
	Kind             string            `json:"kind" doc:"What makes and checks values."`
	Env              string            `json:"env" doc:"Environment name under which workloads know it."`
	Protects         []string          `json:"protects" doc:"Columns of envelopes that it encrypts."`
	IgnoreColumns    []string          `json:"ignore_columns" doc:"Columns in which envelopes may be lost."`
	Witness          string            `json:"witness" doc:"Who else than instances opens every row before a version is erased."`
	Versions         []KeyVersion      `json:"versions" doc:"Its versions, newest first."`
	Created          Time              `json:"created_time" doc:"When it was defined."`
	CurrentVersion   int               `json:"current_version" doc:"Number of the version that workloads present; 0: none yet."`
	RotationPeriod   Seconds           `json:"rotation_period" doc:"It rotates by itself when a version is so old; 0: it does not."`
	RotationSchedule string            `json:"rotation_schedule" doc:"It rotates by itself at these times; empty: it does not."`
	RotationWindow   Seconds           `json:"rotation_window" doc:"For how long after such a time a rotation may start; 0: whenever."`
	Disabled         bool              `json:"disable_automated_rotation" doc:"Whether it rotates only when asked."`
	Soak             Seconds           `json:"soak" doc:"Soak time that holds for it."`
	Observe          Seconds           `json:"observe" doc:"Observation of its server that holds for it."`
	Deadline         Seconds           `json:"deadline" doc:"Deadline of a step that holds for it; 0: none."`
	OnFailure        string            `json:"on_failure" doc:"What happens to a rotation that has failed: pause or revert."`
	Confirm          string            `json:"confirm" doc:"manual or auto."`
	ConfirmBy        string            `json:"confirm_by" doc:"any or other."`
	Retain           Seconds           `json:"retain" doc:"Retention that holds for it."`
	Options          map[string]string `json:"-" api:"inline" doc:"Fields of the kind, as in the request. URLs are without passwords."`
}

// KeyVersion is a version of a key.
type KeyVersion struct {
	Version     int    `json:"version" doc:"Number."`
	State       string `json:"state" doc:"State of the version (docs/rotation.md)."`
	Created     Time   `json:"created_time" doc:"When it was made."`
	CreatedBy   string `json:"created_by" doc:"Display name of the user by whom it was made."`
	Fingerprint string `json:"fingerprint" doc:"Keyed hash, which tells values apart."`
	Rotation    string `json:"rotation" doc:"Id of the rotation that has made it."`
	Until       Time   `json:"until" doc:"When it ends, if it is retained or undeleted."`
}

// MarshalJSON implements [json.Marshaler].
func (k Key) MarshalJSON() ([]byte, error) { return encode(k) }

// UnmarshalJSON implements [json.Unmarshaler].
func (k *Key) UnmarshalJSON(data []byte) error {
	type fixed Key
	if err := json.Unmarshal(data, (*fixed)(k)); err != nil {
		return err
	}
	return decodeInline(data, *k, &k.Options)
}

// VersionRequest names a version of a key.
type VersionRequest struct {
	Name    string `json:"name" doc:"Name of the key." api:"required"`
	Version *int   `json:"version" doc:"Number of the version." api:"required"`
	Reason  string `json:"reason" doc:"Why; kept in the journal. Never put a secret here."`
}

// UndeleteRequest asks to make a retained version accepted again.
type UndeleteRequest struct {
	VersionRequest
	For Seconds `json:"for" doc:"For how long. Default, and 0s: as long as the key retains versions, or 24h where it retains none. At most 30 days, or as long as the key retains versions. Not for a key that protects rows: a rotation ends it there."`
}

// RetireRequest asks to end an undeleted version before its time.
type RetireRequest struct {
	VersionRequest
	Force bool `json:"force" doc:"End it although it is in use, or rows may need it. Its sessions at a server are ended."`
}

// Version is what has become of a version.
type Version struct {
	Version int    `json:"version" doc:"Number."`
	State   string `json:"state" doc:"State of the version."`
	Until   Time   `json:"until" doc:"When it ends; empty: a rotation ends it, or it has ended."`
}

// ReconcileRequest asks to make a key's current version valid again at its server.
type ReconcileRequest struct {
	Name   string `json:"name" doc:"Name of the key." api:"required"`
	DryRun bool   `json:"dry_run" doc:"Say what would be restored, and change nothing."`
}

// Reconciled is the response of reconcile.
type Reconciled struct {
	Done     []string `json:"done" doc:"What was restored, in words."`
	WouldDo  []string `json:"would_do" doc:"With dry_run=true: what would be restored."`
	Problems []string `json:"problems" doc:"What is wrong still, in words."`
	Notes    []string `json:"notes" doc:"What else is valid at the server, in words."`
	Checked  Time     `json:"checked_time" doc:"When the server was looked at."`
}

// StatusRequest asks for all keys at a glance.
type StatusRequest struct {
	Busy     bool `json:"busy" doc:"Only keys that a rotation runs for, or that something blocks." api:"query"`
	Detailed bool `json:"detailed" doc:"Give each key's facts as fields, for programs." api:"query"`
}

// StatusLines is the response of status: a line for each key, and for each workload that has hit a limit.
type StatusLines map[string]string

// Status is the response of status with detailed=true.
type Status struct {
	Keys      map[string]KeyStatus `json:"keys" doc:"By name: the keys."`
	LimitsHit map[string]string    `json:"limits_hit" doc:"By workload: that reads were refused in the last day, in words."`
}

// KeyStatus is a key at a glance.
type KeyStatus struct {
	Env            string          `json:"env" doc:"Environment name of the key."`
	Kind           string          `json:"kind" doc:"Kind of the key."`
	CurrentVersion int             `json:"current_version" doc:"Number of the version that workloads present; 0: none yet."`
	Age            Seconds         `json:"age" doc:"Age of that version."`
	State          string          `json:"state" doc:"State of the rotation that runs; idle: none."`
	Step           string          `json:"step" doc:"Step of that rotation."`
	Rotation       string          `json:"rotation" doc:"Id of that rotation."`
	Paused         bool            `json:"paused" doc:"Whether it is paused."`
	WaitsFor       string          `json:"waits_for" doc:"What holds it back, or why none could start, in words."`
	Orphan         bool            `json:"orphan" doc:"Whether it has failed so often that waiting does not mend it."`
	NextRotation   Time            `json:"next_rotation" doc:"When it rotates by itself; empty: it does not."`
	Problems       []string        `json:"problems" doc:"What the last check of its server found wrong, in words."`
	RefusedLogins  string          `json:"refused_logins" doc:"Who still tries a retired version, in words."`
	Notes          []string        `json:"notes" doc:"What else is valid at its server, in words."`
	Retained       map[string]Time `json:"retained" doc:"By number: when the retained versions end."`
	Undeleted      map[string]Time `json:"undeleted" doc:"By number: when the undeleted versions end; empty: a rotation ends it."`
	RetireFault    string          `json:"retire_fault" doc:"Why an undeleted version could not be retired, in words."`
}
