// SPDX-License-Identifier: Apache-2.0

package api

// ReceiptRequest asks for the receipt of a rotation.
type ReceiptRequest struct {
	RotationRequest
	Detailed bool `json:"detailed" doc:"Give the facts as fields, for programs and archives, instead of lines." api:"query"`
}

// RotationEvidence is what a rotation keeps of how it went.
type RotationEvidence struct {
	HeldBack  []HeldBack   `json:"held_back" doc:"For how long each gate has held the rotation back, and why."`
	Proofs    []Proof      `json:"proofs" doc:"What instances held at the end of each step, and how that is known."`
	Uses      []VersionUse `json:"uses" doc:"Uses of the old version that were seen at servers, pools and proxies."`
	Cuts      []Cut        `json:"cuts" doc:"Gates that were not waited for, since the key is compromised."`
	LockedOut []LockedOut  `json:"locked_out" doc:"Instances that run with a retired version of the keys now."`
}

// HeldBack is for how long a gate has held a rotation back in a step.
type HeldBack struct {
	State  string  `json:"state" doc:"State of the rotation."`
	Step   string  `json:"step" doc:"Step within the state."`
	Gate   string  `json:"gate" doc:"Name of the gate (docs/rotation.md); unknown: the engine was restarted meanwhile."`
	Held   float64 `json:"held_seconds" doc:"For how long, in seconds."`
	Last   Time    `json:"last" doc:"When it last did."`
	Reason string  `json:"reason" doc:"Why it last did, in words."`
}

// Proof is what instances of a workload held at the end of a step.
type Proof struct {
	Time      Time            `json:"time" doc:"When the step ended."`
	State     string          `json:"state" doc:"State of the rotation."`
	Step      string          `json:"step" doc:"Step within the state."`
	Workload  string          `json:"workload" doc:"Name of the workload."`
	Holds     map[string]Held `json:"holds" doc:"By key: what they held."`
	Proof     string          `json:"proof" doc:"How that is known: report (the sidecar has reported it as loaded), lease (it was given to a reader without a name), none (the instance was cut: it is what it had before), or empty (the workload had no live instance, so that nothing is proved)."`
	Grade     string          `json:"grade" doc:"If a sidecar has reported it, how it knew that the workload uses it: etag, health, reload or none; empty: nobody has reported."`
	Count     int             `json:"count" doc:"How many instances."`
	Instances []Proven        `json:"instances" doc:"The instances, or a sample of them."`
	Digest    string          `json:"digest" doc:"If some are not listed: SHA-256 of a line for each, sorted: its name, a space and its time, if it has one."`
}

// Proven is an instance that has proved what it holds.
type Proven struct {
	Instance string `json:"instance" doc:"Name of the instance."`
	Time     Time   `json:"time" doc:"When it has proved that; empty: never, or to an earlier release."`
}

// VersionUse is a use of an old version.
type VersionUse struct {
	Text  string `json:"text" doc:"Who has used it where, in words."`
	First Time   `json:"first_seen" doc:"When it was first seen."`
	Last  Time   `json:"last_seen" doc:"When it was last seen."`
	Times int    `json:"times" doc:"How often it was seen."`
}

// Cut is a gate that was not waited for.
type Cut struct {
	Time      Time     `json:"time" doc:"When it was cut."`
	State     string   `json:"state" doc:"State of the rotation."`
	Step      string   `json:"step" doc:"Step within the state."`
	Gate      string   `json:"gate" doc:"Name of the gate."`
	Reason    string   `json:"reason" doc:"Why it did not hold, in words."`
	Count     int      `json:"count" doc:"For how many instances it did not hold."`
	Instances []string `json:"instances" doc:"Those, as WORKLOAD/INSTANCE, or a sample of them."`
	Digest    string   `json:"digest" doc:"If some are not listed: SHA-256 of a line for each, sorted."`
}

// LockedOut is an instance that runs with a retired version.
type LockedOut struct {
	Workload string `json:"workload" doc:"Name of the workload."`
	Instance string `json:"instance" doc:"Name of the instance."`
	Text     string `json:"text" doc:"What it runs with, in words."`
	Remedy   string `json:"remedy" doc:"What to do, in words."`
}

// Receipt is the response of rotations/ID/receipt with detailed=true.
type Receipt struct {
	ID          string        `json:"id" doc:"Id of the rotation."`
	State       string        `json:"state" doc:"State of the rotation."`
	Finished    bool          `json:"finished" doc:"Whether it has ended. The receipt of one that runs is unfinished."`
	Read        Time          `json:"read_time" doc:"When this was read."`
	Keys        []ReceiptKey  `json:"keys" doc:"The keys and their versions."`
	Trigger     string        `json:"trigger" doc:"Why it started: operator, period or schedule."`
	Reason      string        `json:"reason" doc:"Reason that the request gave."`
	By          string        `json:"by" doc:"Display name of the user who started it."`
	EntityID    string        `json:"entity_id" doc:"Id of that user's entity."`
	Created     Time          `json:"created_time" doc:"When it started."`
	Ended       Time          `json:"ended_time" doc:"When it ended; empty: it has not."`
	Asked       []EntryChange `json:"asked" doc:"What the request set in place of what the keys say."`
	Compromised bool          `json:"compromised" doc:"Whether gates that did not hold at the deadline were cut."`
	Confirm     bool          `json:"confirm" doc:"Whether somebody had to confirm it."`
	ConfirmBy   string        `json:"confirm_by" doc:"Who might confirm it: any user, or other than the one who started it."`
	ConfirmedBy string        `json:"confirmed_by" doc:"Display name of the user who has confirmed it."`
	OneWitness  string        `json:"one_witness" doc:"Display name of the user who has accepted the word of one witness."`
	AllKeys
	RotationEvidence
	Rows            map[string]Rows      `json:"rows" doc:"By key: rows that were re-encrypted, as last counted."`
	Witnesses       map[string][]Witness `json:"witnesses" doc:"By key: who has opened each row without the old version."`
	Presented       []ReceiptPresented   `json:"presented_retired" doc:"Versions that it has ended and that were presented to proxies since. It is no part of the evidence."`
	Timeline        []Event              `json:"timeline" doc:"What has happened, oldest first."`
	TimelineOmitted int                  `json:"timeline_omitted" doc:"Number of events from the middle of the timeline that only the journal has."`
	Journal         []Entry              `json:"journal" doc:"The journal's entries on the rotation, as journal/export has them."`
	JournalMissing  int                  `json:"journal_missing" doc:"Number of events whose entries the journal does not have any more."`
	JournalHead
	Evidence string `json:"evidence_json" doc:"What the rotation has recorded of how it went, in JSON, as it is stored."`
	Digest   string `json:"evidence_sha256" doc:"SHA-256 of evidence_json. Of a rotation that has ended, the journal's last entry has it, too, as receipt_sha256."`
}

// ReceiptPresented is a retired version that was presented.
type ReceiptPresented struct {
	Key string `json:"key" doc:"Name of the key."`
	Presented
}

// ReceiptKey is a key in a receipt.
type ReceiptKey struct {
	Key             string `json:"key" doc:"Name of the key."`
	Env             string `json:"env" doc:"Environment name of the key."`
	From            int    `json:"from" doc:"Number of the old version."`
	FromFingerprint string `json:"from_fingerprint" doc:"Keyed hash of its value; empty: not known any more."`
	To              int    `json:"to" doc:"Number of the new version."`
	ToFingerprint   string `json:"to_fingerprint" doc:"Keyed hash of its value; empty: not known any more."`
	Retention       string `json:"retention" doc:"What happens to the value that leaves, in words."`
}

// ReceiptLines is the response of rotations/ID/receipt: line_001, line_002 and so on, with more digits where there are more lines.
type ReceiptLines map[string]string
