// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
)

// ConnectionName names a connection.
type ConnectionName struct {
	Name string `json:"name" doc:"Name of the connection: lower-case letters, digits, '-', '_' and '.'." api:"required"`
}

// ConnectionRequest defines a connection, or changes it; fields that are not given stay. Kinds add fields of their own.
type ConnectionRequest struct {
	ConnectionName
	Kind   string `json:"kind" doc:"What kind of server it is: {kinds}."`
	Verify bool   `json:"verify_connection" doc:"Log in and look at the administrator's privileges before anything is stored." default:"true"`
	DryRun bool   `json:"dry_run" doc:"Say what would change and whom that is about, and change nothing. The server is asked."`
}

// Connection is an administrator's login at a server, without passwords and private keys.
type Connection struct {
	Name                   string            `json:"name" doc:"Name of the connection."`
	Kind                   string            `json:"kind" doc:"Kind of server."`
	Notes                  []string          `json:"notes" doc:"What an operator should know of the server, in words."`
	Written                Time              `json:"written_time" doc:"When it was last written."`
	LastRootRotation       Time              `json:"last_root_rotation" doc:"When the administrator's password was last changed by rotate-root."`
	RootRotationUnfinished bool              `json:"root_rotation_unfinished" doc:"Whether rotate-root has begun and not ended: write it again."`
	Checked                *Time             `json:"checked_time,omitempty" doc:"When it was last checked. Only in reads and writes of the connection."`
	Problems               []string          `json:"problems,omitzero" doc:"What the last check found wrong, in words. Only in reads and writes of the connection."`
	Options                map[string]string `json:"-" api:"inline" doc:"Fields of the kind, as in the request. URLs are without passwords."`
}

// MarshalJSON implements [json.Marshaler].
func (c Connection) MarshalJSON() ([]byte, error) { return encode(c) }

// UnmarshalJSON implements [json.Unmarshaler].
func (c *Connection) UnmarshalJSON(data []byte) error {
	type fixed Connection
	if err := json.Unmarshal(data, (*fixed)(c)); err != nil {
		return err
	}
	return decodeInline(data, *c, &c.Options)
}

// WorkloadName names a workload.
type WorkloadName struct {
	Name string `json:"name" doc:"Name of the workload, such as api." api:"required"`
}

// WorkloadDetail is a field of reads and writes that answer with a workload.
type WorkloadDetail struct {
	Detailed bool `json:"detailed,omitempty" doc:"Give instances as a list, for programs, instead of a line each." api:"query"`
}

// WorkloadRequest defines a workload, or changes it; fields that are not given stay.
type WorkloadRequest struct {
	WorkloadName
	WorkloadDetail
	Presents          *[]string `json:"presents" doc:"Keys that it presents (as a client) or encrypts with: the whole list, in place of the one before."`
	Verifies          *[]string `json:"verifies" doc:"Keys that it verifies (as a server) or decrypts with: the whole list, in place of the one before."`
	After             *[]string `json:"after" doc:"Workloads whose instances change before those of this one."`
	MinInstances      *int      `json:"min_instances" doc:"A rotation waits until so many live instances take part. 0 for a workload that may be absent." default:"1"`
	RequireProof      *string   `json:"require_proof" doc:"How each instance must know that its process uses what it has loaded before a rotation continues: etag, health, reload or none." default:"none"`
	MaxInstances      *int      `json:"max_instances" doc:"How many instances it may have at a time, anonymous readers counted, too; reads beyond that are refused." default:"1000"`
	MaxUnavailable    *string   `json:"max_unavailable" doc:"How many instances change at a time: a number, or a percentage of the live ones (rounded down, at least one)." default:"25%"`
	SingleValue       *[]string `json:"single_value" doc:"Those of verifies= of which its processes can hold one value at a time. A rotation has a gap there, and says so. \"none\" for none."`
	AddPresents       *[]string `json:"add_presents" doc:"Keys to add to those that it presents."`
	AddVerifies       *[]string `json:"add_verifies" doc:"Keys to add to those that it verifies."`
	AddAfter          *[]string `json:"add_after" doc:"Workloads to add to those that change before it."`
	AddSingleValue    *[]string `json:"add_single_value" doc:"Keys to add to those of which its processes can hold one value at a time."`
	RemovePresents    *[]string `json:"remove_presents" doc:"Keys to take out of those that it presents."`
	RemoveVerifies    *[]string `json:"remove_verifies" doc:"Keys to take out of those that it verifies."`
	RemoveAfter       *[]string `json:"remove_after" doc:"Workloads to take out of those that change before it."`
	RemoveSingleValue *[]string `json:"remove_single_value" doc:"Keys to take out of those of which its processes can hold one value at a time."`
	Drop              bool      `json:"drop" doc:"Take keys away from live instances that hold them, in waves. Without it, that is refused. Of a delete: although instances are live."`
	DryRun            bool      `json:"dry_run" doc:"Say what would change and whom that is about, and change nothing."`
	Reencrypts        *bool     `json:"reencrypts" doc:"Its sidecars reach the database and re-encrypt rows that its keys protect."`
}

// Workload is a set of identical processes that load keys.
type Workload struct {
	Name           string     `json:"name" doc:"Name of the workload."`
	Presents       []string   `json:"presents" doc:"Keys that it presents, or encrypts with."`
	Verifies       []string   `json:"verifies" doc:"Keys that it verifies, or decrypts with."`
	SingleValue    []string   `json:"single_value" doc:"Those of verifies of which its processes can hold one value at a time."`
	After          []string   `json:"after" doc:"Workloads whose instances change first; null: none."`
	MinInstances   int        `json:"min_instances" doc:"A rotation waits until so many live instances take part."`
	RequireProof   string     `json:"require_proof" doc:"How each instance must know that its process uses what it has loaded before a rotation continues: etag, health, reload or none."`
	MaxInstances   int        `json:"max_instances" doc:"How many instances it may have at a time."`
	MaxUnavailable string     `json:"max_unavailable" doc:"How many instances change at a time: a number or a percentage."`
	Reencrypts     bool       `json:"reencrypts" doc:"Whether its sidecars re-encrypt rows."`
	Change         string     `json:"change" doc:"How far its instances have followed the last change of its keys, in words; empty: all have."`
	Conflicts      []string   `json:"name_conflicts" doc:"Instances whose names two processes use, in words."`
	LimitHit       string     `json:"limit_hit" doc:"That reads were refused in the last day since it, or a login, had too many instances; in words."`
	Instances      []Instance `json:"instances" doc:"Its live instances."`
}

// DefinitionPlan is the response of a write with dry_run=true and detailed=true.
type DefinitionPlan struct {
	DryRun   bool     `json:"dry_run" doc:"true: nothing was changed."`
	Changes  []string `json:"changes" doc:"What would change, in words."`
	Affected []string `json:"affected" doc:"Whom it is about, in words."`
}

// PresetRequest defines the platform's keys and workloads.
type PresetRequest struct {
	Workloads    []string `json:"workloads" doc:"Which of the platform's workloads run here. Default: all of {workloads}."`
	MinInstances int      `json:"min_instances" doc:"min_instances of each workload." default:"1"`
	Database     string   `json:"database" doc:"Connection to the platform's database: DATABASE_URL becomes one of the keys. Default: it is none."`
	Redis        string   `json:"redis" doc:"Connection to the platform's Redis: REDIS_URL becomes one of the keys. Default: it is none."`
	DryRun       bool     `json:"dry_run" doc:"Say what would be made, and change nothing."`
	Generate     bool     `json:"generate" doc:"Make a version 1 of every key that has none. Only for a new platform: rows that are encrypted already would not open under a new key."`
}

// Preset is what the preset defines.
type Preset struct {
	Keys      map[string]PresetKey      `json:"keys" doc:"By name: the keys."`
	Workloads map[string]PresetWorkload `json:"workloads" doc:"By name: the workloads."`
}

// PresetKey is a key of the preset.
type PresetKey struct {
	Env            string            `json:"env" doc:"Environment name under which workloads know it."`
	Kind           string            `json:"kind" doc:"Kind of the key."`
	Options        map[string]string `json:"options" doc:"Fields of the kind."`
	Protects       []string          `json:"protects" doc:"Columns that it encrypts."`
	RotationPeriod Seconds           `json:"rotation_period" doc:"It rotates by itself when a version is so old; 0: only when asked."`
	Defined        bool              `json:"defined" doc:"Whether the mount has it."`
}

// PresetWorkload is a workload of the preset.
type PresetWorkload struct {
	Keys         []string `json:"keys" doc:"Keys that it uses."`
	After        []string `json:"after" doc:"Workloads whose instances change first; null: none."`
	Reencrypts   bool     `json:"reencrypts" doc:"Whether its sidecars re-encrypt rows."`
	RequireProof string   `json:"require_proof" doc:"How each instance must know that its process uses what it has loaded before a rotation continues."`
	Defined      bool     `json:"defined" doc:"Whether the mount has it."`
}

// PresetMade is the response to a write of the preset.
type PresetMade struct {
	Made []string `json:"made" doc:"What was made, in words; empty if all was there."`
}

// PlainLines is a response for people: the fields of its structure, with a line for each element of a list or map, such as version_01 and
// loaded_NAME, and durations as texts. The structure is the response with detailed=true.
type PlainLines map[string]any

// Detail is a field of reads and writes whose responses have durations, lists or maps.
type Detail struct {
	Detailed bool `json:"detailed" doc:"Give lists and maps as such, and durations as numbers of seconds, for programs, instead of lines." api:"query"`
}

// KeyRequest defines a key, or changes it; fields that are not given stay. Kinds add fields of their own.
type KeyRequest struct {
	Name             string         `json:"name" doc:"Name of the key: lower-case letters, digits, '-', '_' and '.'." api:"required"`
	Kind             *string        `json:"kind" doc:"What makes and checks values: {kinds}." default:"token"`
	Env              *string        `json:"env" doc:"Environment name under which workloads know it. Default: the name in upper case."`
	Value            *string        `json:"value" doc:"The value in use today, imported as version 1. Only for a key without versions. Use value=- to read it from standard input." api:"secret"`
	DryRun           bool           `json:"dry_run" doc:"Say what would change and whom that is about, and change nothing. A value is tried at its server."`
	Generate         bool           `json:"generate" doc:"Make version 1 instead of importing it. Only for a key without versions."`
	Protects         *[]string      `json:"protects" doc:"Columns of envelopes that the key encrypts, as [schema.]table.column:layout with layout tag-first or tag-last, and rows where only some have them: \" where column=value and other is null\". \"none\" for none."`
	IgnoreColumns    *[]string      `json:"ignore_columns" doc:"Columns, as [schema.]table.column, in which envelopes of the key may be found that nobody re-encrypts: they are lost with the version that opens them. \"none\" for none."`
	Witness          *string        `json:"witness" doc:"Who else than instances opens every row before a version that rows may need is erased: the name of a connection of kind postgres to their database, whose administrator may SELECT the columns, so that the engine looks itself. \"none\": one instance's word is enough. \"\": two instances with logins of their own are waited for. Default \"\"."`
	RotationPeriod   *Seconds       `json:"rotation_period" doc:"Rotate by itself when a version is so old, counted from when this is written if a version is older already. 0: only when asked."`
	RotationSchedule *string        `json:"rotation_schedule" doc:"Rotate by itself at these times: cron of five fields in UTC, or in a zone, as in \"CRON_TZ=Europe/Berlin 0 3 * * SUN\". Times before it is written are not made up for. Not together with rotation_period. \"\" for none."`
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
	NextRotation     Time              `json:"next_rotation" doc:"When it rotates by itself; empty: it does not, or it is rotating."`
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
	Presented        []Presented       `json:"presented_retired" doc:"Its retired versions that were presented to proxies, newest first."`
	Options          map[string]string `json:"-" api:"inline" doc:"Fields of the kind, as in the request. URLs are without passwords."`
}

// Presented is a retired version that was presented.
type Presented struct {
	Version      int      `json:"version" doc:"Number."`
	Count        int      `json:"count" doc:"How often it was presented since it was retired."`
	First        Time     `json:"first_time" doc:"When it was first presented."`
	Last         Time     `json:"last_time" doc:"When it was last presented."`
	Acknowledged int      `json:"acknowledged" doc:"How much of the count somebody has acknowledged."`
	Clients      []Client `json:"clients" doc:"By whom, the last one first, at most 8."`
}

// Client is who has presented a version.
type Client struct {
	From   string `json:"from" doc:"Its address, as the proxy sees it."`
	SeenBy string `json:"seen_by" doc:"The instance whose proxy has seen it, as WORKLOAD/INSTANCE."`
	Last   Time   `json:"last_time" doc:"When it last did."`
}

// AcknowledgeRequest clears what was seen of retired versions from the status.
type AcknowledgeRequest struct {
	Name    string `json:"name" doc:"Name of the key." api:"required"`
	Version *int   `json:"version" doc:"Number of the version. Default: all retired versions."`
	Reason  string `json:"reason" doc:"Who it was; kept in the journal. Never put a secret here."`
}

// Acknowledged is the response of acknowledge.
type Acknowledged struct {
	Versions []int `json:"versions" doc:"Numbers of the versions that were presented since the last time."`
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
	Conflicts map[string][]string  `json:"name_conflicts" doc:"By workload: instances whose names two processes use, in words."`
	LimitsHit map[string]string    `json:"limits_hit" doc:"By workload: that reads were refused in the last day, in words."`
	LockedOut []LockedOut          `json:"locked_out" doc:"Instances that run with retired versions of keys."`
	Leaving   []Leaving            `json:"leaving" doc:"Instances whose sidecars have stopped beside their processes."`
	Servers   map[string][]string  `json:"connection_problems" doc:"By connection: what the last check of its server found wrong, in words."`
}

// Leaving is an instance whose sidecar has stopped beside its process, which may still run.
type Leaving struct {
	Workload string `json:"workload" doc:"Name of the workload."`
	Instance string `json:"instance" doc:"Name of the instance."`
	Since    Time   `json:"since" doc:"When the sidecar stopped."`
	Until    Time   `json:"until" doc:"Until when the instance counts as live."`
	Text     string `json:"text" doc:"What that means and what to do, in words."`
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
	Cut            string          `json:"cut" doc:"What its newest rotation has cut in the last day, and who was left behind, in words."`
	Tripped        string          `json:"tripped" doc:"Who has presented a retired version to a proxy, until that is acknowledged, in words."`
}

// MetricsRequest reads the metrics.
type MetricsRequest struct {
	Format string `json:"format" doc:"prometheus: the text that Prometheus scrapes, and no JSON. Default: a number for each metric." api:"query"`
}

// Metrics is the response of metrics: a number by the name and the labels of each metric.
type Metrics map[string]float64

// IdentifyRequest asks what a value is that somebody has found.
type IdentifyRequest struct {
	Value    string `json:"value" doc:"What was found: the value, or a line, URL or header that holds it. Use value=- to read it from standard input, so that no shell keeps it." api:"required,secret"`
	Reason   string `json:"reason" doc:"Where it was found; kept in the journal. Never put a secret here."`
	Detailed bool   `json:"detailed" doc:"Give the facts as fields, for programs."`
}

// IdentifiedLines is the response of identify, a line for each fact.
type IdentifiedLines map[string]string

// Identified is the response of identify with detailed=true.
type Identified struct {
	Ours    bool              `json:"ours" doc:"Whether this mount has ever issued the value, or logs in with it."`
	Matches []IdentifiedValue `json:"matches" doc:"What it is: a list, since several keys may have had one value."`
}

// IdentifiedValue is one thing that a value is.
type IdentifiedValue struct {
	Key         string   `json:"key" doc:"Name of the key; empty: it is a secret of a connection."`
	Env         string   `json:"env" doc:"Environment name of the key."`
	Version     int      `json:"version" doc:"Number of the version."`
	Part        string   `json:"part" doc:"password: it is the password in the version's URL; empty: it is the whole value."`
	State       string   `json:"state" doc:"State of the version; empty: the key does not remember it."`
	Created     Time     `json:"created_time" doc:"When the version was made."`
	CreatedBy   string   `json:"created_by" doc:"Who asked for it."`
	Rotation    string   `json:"rotation" doc:"Id of the rotation that brought it; empty: it was imported."`
	Connection  string   `json:"connection" doc:"Connection with which the mount logs in by it; empty: none."`
	Accepted    bool     `json:"accepted" doc:"Whether workloads or a server accept it now."`
	Where       string   `json:"where" doc:"What accepts it, or accepts it no more, in words."`
	Holders     []string `json:"holders" doc:"Instances that hold it, at most 10, as WORKLOAD/INSTANCE."`
	MoreHolders int      `json:"more_holders" doc:"How many more instances hold it."`
	Do          []string `json:"do" doc:"Commands to run next, in their order."`
}

// ConfigRequest changes the mount-wide defaults; fields that are not given stay.
type ConfigRequest struct {
	LeaseTTL             *Seconds `json:"lease_ttl" doc:"How long the lease on a bundle lasts before it must be renewed. An instance that dies without a word counts as live for so long. Default 5m."`
	TakeoverAfter        *Seconds `json:"takeover_after" doc:"For how long nothing must have been heard of an instance before another login of the same entity may read under its name, as a pod that was killed and started again does. Not below 10s. Default 30s."`
	MaxInstancesPerLogin *int     `json:"max_instances_per_login" doc:"How many instances of a workload one login may have at a time; reads beyond that are refused. Default 100; 0: no bound but max_instances of the workload."`
	Soak                 *Seconds `json:"soak" doc:"How long a new version must work everywhere before the old one may be retired, for keys that set no soak of their own. Default 30s."`
	Observe              *Seconds `json:"observe" doc:"For how long servers (PostgreSQL, Redis) must have seen nobody use the old version before it is retired, for keys that set no observe of their own. The soak time counts, and each use starts it again. Logins that are rarer are not seen. Default 10s."`
	LookEvery            *Seconds `json:"look_every" doc:"How often each connection, and each key's current version, is checked at its server: status and connections/NAME show what is wrong. Default 5m; 0s: never."`
	Deadline             *Seconds `json:"deadline" doc:"How long a step of a rotation may take before it has failed, for keys that set none of their own. Default 0s: for as long as it takes."`
	OnFailure            *string  `json:"on_failure" doc:"What happens to a rotation that has failed (an unhealthy instance while it presents, or a deadline passed), for keys that do not say: pause or revert. Default pause."`
	Confirm              *string  `json:"confirm" doc:"Whether somebody must confirm a rotation before the old version is retired, for keys that do not say: manual or auto. Default auto."`
	ConfirmBy            *string  `json:"confirm_by" doc:"other: another user than the one who started a rotation must confirm it, for keys that do not say; it implies confirm=manual. Default any."`
	CompromisedDeadline  *Seconds `json:"compromised_deadline" doc:"How long a rotation with compromised=true waits at each step before it cuts. Default 1m."`
	Retain               *Seconds `json:"retain" doc:"For how long the value of a retired version is retained in quarantine, from which hyvve/keys/NAME/undelete brings it back, for keys that protect no rows and set no retain of their own. Holds for versions that are retired from then on. Default 24h; 0s: it is erased at once."`
	RetainRows           *Seconds `json:"retain_rows" doc:"The same for keys that protect rows. Make it longer than backups of the database are kept: rows that are restored need the key that they were written with. Default 30d; 0s: it is erased at once."`
	TripwireRetention    *Seconds `json:"tripwire_retention" doc:"For how long proxies look for a retired version, and what they have seen is shown. Holds for bundles that are read from then on. Default 30d; 0s: they look for none."`
	JournalMaxEntries    *int     `json:"journal_max_entries" doc:"How many journal entries are kept, and how many ended rotations. Not below min_entries of hyvve/journal/config. Default 100000; 0: all."`
	JournalMaxAge        *Seconds `json:"journal_max_age" doc:"For how long journal entries and ended rotations are kept. Not below min_age of hyvve/journal/config. Default 0s: forever."`
}

// Config is the response of config. Its fields are those of the request, none of which is nil.
type Config struct{ ConfigRequest }
