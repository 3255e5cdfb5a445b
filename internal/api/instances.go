// SPDX-License-Identifier: Apache-2.0

package api

import (
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// CredsRequest asks for what one instance should hold now.
type CredsRequest struct {
	Workload string   `json:"workload,omitempty" doc:"Name of the workload." api:"required"`
	Instance string   `json:"instance" doc:"Name of the instance that reads, such as a pod's name. A newer read of an instance supersedes its older lease. Without it the reader counts as one instance per lease." api:"query"`
	Secret   string   `json:"instance_secret" doc:"What the instance's newest read gave: with it another login may read under the instance's name. Give it in a write only; in a URL it would be in logs." api:"secret"`
	Pod      string   `json:"pod" doc:"Pod of Kubernetes that the reader runs in, as it says itself."`
	Node     string   `json:"node" doc:"Node of Kubernetes that it runs on, as it says itself."`
	OneLine  []string `json:"one_line,omitempty" doc:"Environment names of the keys whose values this reader can carry only if they have one line, \"none\" or \"all\". A value of several lines is not handed to a reader that cannot carry it. Default: all." default:"all" api:"query"`
}

// Bundle is what of a bundle stands in JSON, with its values revealed: in the response of creds/, in files of the format
// bundle, and, encrypted, in last-good copies.
type Bundle struct {
	AcceptVersions map[string][]int    `json:"accept_versions" doc:"By environment name: version numbers of accepts."`
	Accepts        map[string][]string `json:"accepts" doc:"By environment name: values to verify against, newest first."`
	Etag           string              `json:"etag" doc:"Changes when any of this should change; give it to hyvve/watch."`
	Values         map[string]string   `json:"values" doc:"By environment name: values to present, or to encrypt with."`
	Versions       map[string]int      `json:"versions" doc:"By environment name: version numbers of values."`
}

// Creds is the response of creds/.
type Creds struct {
	Bundle
	Created map[string]string `json:"created_times" doc:"By environment name: when that version was made (RFC 3339)."`
	Work    []workload.Work   `json:"work" doc:"Re-encryption that is asked of this instance."`

	Tripwires map[string][]Tripwire `json:"tripwires,omitzero" doc:"By environment name, of keys that the workload verifies: digests by which a proxy recognizes retired versions. For sidecars only; absent if there are none."`

	Instance string `json:"instance" doc:"Name of the instance."`
	Secret   string `json:"instance_secret" doc:"Proves this instance's reports, until its next read."`
}

// Tripwire recognizes a retired version.
type Tripwire struct {
	Version int    `json:"version" doc:"Number of the version."`
	Salt    string `json:"salt" doc:"Key of the digest. Each version has its own."`
	Digest  string `json:"digest" doc:"HMAC-SHA256 by the salt, as it stands here, over the SHA-256 of the value, in hexadecimal."`
	Until   Time   `json:"until" doc:"When it is not looked for any more."`
}

// WatchRequest waits until an instance should hold another bundle.
type WatchRequest struct {
	Workload string   `json:"workload" doc:"Name of the workload." api:"required"`
	Instance string   `json:"instance" doc:"Name of the instance, as in its read of hyvve/creds." api:"required,query"`
	Etag     string   `json:"etag" doc:"The etag that the instance has." api:"query"`
	Wait     *Seconds `json:"wait" doc:"How long to wait for another one; 0s to ask only. The answer comes after 5s at the latest, which is the default." api:"query"`
}

// Watched is the response of watch/.
type Watched struct {
	Etag       string  `json:"etag" doc:"Etag that the instance should have; empty: it is not known, or is another login's."`
	Changed    bool    `json:"changed" doc:"Whether to read the bundle again."`
	Superseded bool    `json:"superseded" doc:"Whether somebody else watches as the same instance."`
	Conflict   string  `json:"name_conflict" doc:"That two processes use the name of the instance, in words; empty: nothing shows that."`
	RetryAfter Seconds `json:"retry_after" doc:"Watch again after between half of so many seconds and all of them; 0: at once."`
}

// SignOfLife is a report that extends the lease of an instance, and says nothing else.
type SignOfLife struct {
	Workload    string `json:"workload,omitempty" doc:"Name of the workload." api:"required"`
	Instance    string `json:"instance" doc:"Name of the instance." api:"required"`
	Secret      string `json:"instance_secret" doc:"What the instance's newest read of hyvve/creds gave." api:"required,secret"`
	ExtendLease bool   `json:"extend_lease" doc:"Let the instance count as live for another lease from now on, whatever becomes of the lease of its read."`
}

// ReportRequest says what an instance has loaded, and whether it is healthy.
type ReportRequest struct {
	SignOfLife
	Etag      string                `json:"etag" doc:"Etag of the bundle that the workload has loaded; empty if none."`
	Proof     string                `json:"proof" doc:"How the sidecar knows that the workload uses that bundle: etag (the workload names it), health (a check has passed after the load), reload (it was made to load it), or none." default:"none"`
	Healthy   *bool                 `json:"healthy,omitempty" doc:"Whether the workload is healthy with it. Left out: nothing is reported, and extend_lease=true is all that is asked."`
	Last      bool                  `json:"last" doc:"The process ends now, and its instance counts as live until its lease ends: the next process may read under its name at once, with another token of the same entity, too."`
	Leaving   bool                  `json:"leaving" doc:"The sidecar stops, and its workload may run on: the instance counts as live for one more lease, and proves nothing until it reads hyvve/creds again. The next sidecar may read under its name at once, with another token of the same entity, too. All else in the report is ignored."`
	Reason    string                `json:"reason" doc:"Why it is not. Never put a secret here."`
	Work      []workload.WorkReport `json:"work" doc:"Reports on re-encryption: a list of {id, done, error, columns}."`
	Sightings []Sighting            `json:"sightings" doc:"Accepted versions other than the newest that clients presented to the instance's proxy: a list of {env, version, count, last_seen, from}; last_seen in seconds ago, from the address of the last client."`
	Tripped   []Trip                `json:"tripped" doc:"Retired versions that clients presented to the instance's proxy: a list of {env, version, run, count, first_seen, last_seen, from}; first_seen and last_seen in seconds ago, from the addresses of clients, the last one first."`
}

// Trip says how often a retired version was presented.
type Trip struct {
	Env       string   `json:"env" doc:"Environment name of the key."`
	Version   int      `json:"version" doc:"Number of the version."`
	Run       string   `json:"run" doc:"Run of the proxy that counts: each run counts from 0."`
	Count     int      `json:"count" doc:"How often it was presented in this run."`
	From      []string `json:"from" doc:"IP addresses of clients, at most 4, the last one first."`
	FirstSeen float64  `json:"first_seen" doc:"How many seconds ago it was first presented: clocks differ."`
	LastSeen  float64  `json:"last_seen" doc:"How many seconds ago it was last presented."`
}

// Sighting is a use of an accepted version that is not the newest.
type Sighting struct {
	Env      string  `json:"env" doc:"Environment name of the key."`
	Version  int     `json:"version" doc:"Number of the version."`
	Count    int     `json:"count" doc:"How often it was used."`
	From     string  `json:"from" doc:"Address of the last client."`
	LastSeen float64 `json:"last_seen" doc:"How many seconds ago it was last used: clocks differ."`
}

// Reported is the response of report/.
type Reported struct {
	Accepted      bool     `json:"accepted" doc:"true."`
	Etag          string   `json:"etag" doc:"Etag that the instance should have."`
	LeaseDuration *Seconds `json:"lease_duration,omitempty" doc:"Seconds until the next report at the latest. Only with extend_lease=true."`
}

// Lease returns how long the instance counts as live; 0: its lease was not extended.
func (r Reported) Lease() time.Duration {
	if r.LeaseDuration == nil {
		return 0
	}
	return r.LeaseDuration.Duration()
}

// LeaveRequest says that an instance has ended.
type LeaveRequest struct {
	Workload string `json:"workload,omitempty" doc:"Name of the workload." api:"required"`
	Instance string `json:"instance" doc:"Name of the instance." api:"required"`
	Secret   string `json:"instance_secret" doc:"What the instance's newest read of hyvve/creds gave." api:"required,secret"`
}

// InstanceRequest names an instance.
type InstanceRequest struct {
	Name     string `json:"name" doc:"Name of the workload." api:"required"`
	Instance string `json:"instance" doc:"Name of the instance." api:"required"`
}

// InstanceList is the list of a workload's instances.
type InstanceList struct {
	List
	Info map[string]InstanceInfo `json:"key_info,omitempty" doc:"By name: an instance at a glance."`
}

// InstanceInfo is an instance at a glance.
type InstanceInfo struct {
	Login   string `json:"login" doc:"Display name of its login."`
	Healthy bool   `json:"healthy" doc:"Whether it has reported to be healthy, and is not locked out."`
	Seen    Time   `json:"seen" doc:"When it last read its bundle or reported."`
}

// Instance is a live instance of a workload.
type Instance struct {
	Instance   string          `json:"instance" doc:"Name of the instance."`
	Healthy    bool            `json:"healthy" doc:"Whether it has reported to be healthy, and is not locked out."`
	LockedOut  string          `json:"locked_out" doc:"Retired versions that it runs with, in words, until it has loaded something else; empty: none."`
	Reason     string          `json:"reason" doc:"Why it is not healthy, in its own words."`
	Seen       Time            `json:"seen" doc:"When it last read its bundle or reported."`
	Leaving    Time            `json:"leaving" doc:"When its sidecar stopped beside its process, which may still run; empty: it did not."`
	Counts     Time            `json:"counts_until" doc:"Until when it counts as live, if its sidecar has stopped and does not come back; empty: it has not."`
	Login      string          `json:"login" doc:"Display name of its login."`
	OneLine    []string        `json:"one_line" doc:"Environment names whose values it can carry only if they have one line, or all."`
	EtagIssued string          `json:"etag_issued" doc:"Etag of the bundle that it was given last."`
	EtagLoaded string          `json:"etag_loaded" doc:"Etag of the bundle that it has loaded; empty: none."`
	Proof      string          `json:"proof" doc:"How its sidecar knows that the workload uses what it has loaded: etag, health, reload or none."`
	Loaded     map[string]Held `json:"loaded" doc:"By key: what it has loaded."`
}

// InstanceDetails is all that is known of a live instance.
type InstanceDetails struct {
	Instance
	Workload   string          `json:"workload" doc:"Name of the workload."`
	Anonymous  bool            `json:"anonymous" doc:"Whether it has read without a name; it never reports."`
	Login      Login           `json:"login" doc:"Whose token it reads with."`
	LoginSince Time            `json:"login_since" doc:"Since when it reads with that token."`
	SaysPod    string          `json:"says_pod" doc:"Pod that it runs in, as it says itself."`
	SaysNode   string          `json:"says_node" doc:"Node that it runs on, as it says itself."`
	Sidecar    bool            `json:"sidecar" doc:"Whether it sends signs of life."`
	LastHeard  Seconds         `json:"last_heard" doc:"Time since its last sign of life."`
	Conflict   string          `json:"name_conflict" doc:"That two processes use its name, in words; empty: nothing shows that."`
	FreeIn     Seconds         `json:"free_in" doc:"Time until another login of the same entity may use its name."`
	Lease      Seconds         `json:"lease" doc:"Time until it is removed if nothing is heard of it."`
	Issued     map[string]Held `json:"issued" doc:"By key: what it was given last."`
}

// Held is what an instance holds of a key.
type Held struct {
	Presents int   `json:"presents" doc:"Number of the version that it presents; 0: none."`
	Accepts  []int `json:"accepts" doc:"Numbers of the versions that it verifies against, newest first; null: none."`
}

// Login is a login at Vault.
type Login struct {
	DisplayName         string   `json:"display_name" doc:"Display name of the token."`
	Entity              string   `json:"entity" doc:"Id of the entity; empty: the token has none."`
	EntityName          string   `json:"entity_name" doc:"Name of the entity."`
	AccessorFingerprint string   `json:"accessor_fingerprint" doc:"Keyed hash of the token's accessor, shortened."`
	ServiceAccounts     []string `json:"service_accounts" doc:"Service accounts of Kubernetes that the entity has, as namespace/name."`
}

// JournalRequest asks for entries of the journal.
type JournalRequest struct {
	After    string `json:"after" doc:"Id of the entry before the first, or its number. Default: from the beginning." api:"query"`
	Limit    int    `json:"limit" doc:"At most so many entries, and at most 1000." default:"100" api:"query"`
	Newest   bool   `json:"newest" doc:"Newest first; after= is then the entry behind the first." api:"query"`
	Key      string `json:"key" doc:"Only entries on this key." api:"query"`
	Rotation string `json:"rotation" doc:"Only entries on the rotation of this id." api:"query"`
	Actor    string `json:"actor" doc:"Only what this user did: by display name, such as userpass-ann, or entity id." api:"query"`
}

// ExportRequest asks for entries of the journal as JSON lines, each an [Entry].
type ExportRequest struct {
	After string `json:"after" doc:"Id of the entry before the first. Default: from the beginning." api:"query"`
	Limit int    `json:"limit" doc:"At most so many entries, and at most 1000." default:"1000" api:"query"`
}

// EntryRequest names an entry of the journal.
type EntryRequest struct {
	ID string `json:"id" doc:"Id of the entry, its number, or latest." api:"required"`
}

// JournalList is the list of the journal's entries.
type JournalList struct {
	List
	Info map[string]EntryInfo `json:"key_info,omitempty" doc:"By id: what the entry is about. Only with after, limit or a filter."`
	Next *string              `json:"next,omitempty" doc:"after= of the next page; empty: there is none. Only with after, limit or a filter."`
}

// EntryInfo is what an entry of the journal is about.
type EntryInfo struct {
	Time     Time     `json:"time" doc:"When it was written."`
	What     string   `json:"what" doc:"What happened, in words."`
	By       string   `json:"by" doc:"Display name of the user."`
	Rotation string   `json:"rotation" doc:"Id of the rotation."`
	Keys     []string `json:"keys" doc:"Names of the keys."`
}

// Journal is a page of the journal.
type Journal struct {
	Entries []Entry `json:"entries" doc:"The entries."`
	Next    string  `json:"next" doc:"after= of the next page; empty: there is none."`
}

// Entry is an entry of the journal.
type Entry struct {
	ID          string        `json:"id" doc:"Id of the entry. Ids count up."`
	Time        Time          `json:"time" doc:"When it was written."`
	What        string        `json:"what" doc:"What happened, in words."`
	By          string        `json:"by" doc:"Display name of the user."`
	EntityID    string        `json:"entity_id" doc:"Id of the user's entity."`
	Reason      string        `json:"reason" doc:"Reason that the user gave."`
	Rotation    string        `json:"rotation" doc:"Id of the rotation."`
	State       string        `json:"state" doc:"State of the rotation."`
	Step        string        `json:"step" doc:"Step of the rotation."`
	Keys        []EntryKey    `json:"keys" doc:"The keys and versions."`
	Workload    string        `json:"workload" doc:"Name of the workload."`
	Connection  string        `json:"connection" doc:"Name of the connection."`
	Changes     []EntryChange `json:"changes" doc:"Fields that the write has changed, or would have changed."`
	Refused     string        `json:"refused" doc:"Why the write was refused."`
	Failed      string        `json:"failed" doc:"Why the write failed; it may have taken effect."`
	KeptForGood bool          `json:"kept_for_good" doc:"Whether retention leaves the entry."`
	Prev        string        `json:"prev" doc:"Keyed hash of the entry before."`
	Hash        string        `json:"hash" doc:"Keyed hash of this entry."`
}

// EntryKey is a key in an entry of the journal.
type EntryKey struct {
	Key         string `json:"key" doc:"Name of the key."`
	From        int    `json:"from" doc:"Number of the old version; 0: none."`
	To          int    `json:"to" doc:"Number of the new version; 0: none."`
	Fingerprint string `json:"fingerprint" doc:"Keyed hash of the new version's value."`
}

// EntryChange is a field that a write changes. Secrets are not shown.
type EntryChange struct {
	Field string `json:"field" doc:"Name of the field."`
	From  string `json:"from" doc:"Value before."`
	To    string `json:"to" doc:"Value after."`
}

// JournalHead is the newest entry of the journal.
type JournalHead struct {
	Count uint64 `json:"count" doc:"How many entries were ever written."`
	Head  string `json:"head" doc:"Hash of the newest."`
}

// JournalVerified is the result of a check of the journal's chain.
type JournalVerified struct {
	JournalHead
	Whole               bool     `json:"whole" doc:"Whether no entry was changed or taken out."`
	Entries             int      `json:"entries" doc:"How many entries were looked at."`
	First               uint64   `json:"first" doc:"Number of the oldest of them."`
	Last                uint64   `json:"last" doc:"Number of the newest of them."`
	Faults              []string `json:"faults" doc:"What does not fit, in words."`
	EntriesKeptForGood  int      `json:"entries_kept_for_good" doc:"How many entries retention leaves."`
	EntriesWithoutChain int      `json:"entries_without_chain" doc:"How many entries of earlier releases have no hashes."`
}

// JournalConfigRequest changes what retention never goes below; fields that are not given stay.
type JournalConfigRequest struct {
	MinEntries *int     `json:"min_entries" doc:"So many of the newest journal entries are kept in any case, and so many ended rotations. At least 100. Default 10000."`
	MinAge     *Seconds `json:"min_age" doc:"Journal entries and ended rotations are kept for so long in any case. Default 2160h, which is 90 days."`
}

// JournalConfig is what retention never goes below. Its fields are those of the request, none of which is nil.
type JournalConfig struct{ JournalConfigRequest }
