// SPDX-License-Identifier: Apache-2.0

package api

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
	ID string `json:"id" doc:"Id of the entry, or its number." api:"required"`
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
