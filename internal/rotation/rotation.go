// SPDX-License-Identifier: Apache-2.0

// Package rotation is the machine that changes keys. A rotation is a record that goes through the steps of one
// transition table (table.go). [Next] is a pure function from a rotation and the facts to the rotation that follows, with
// the gates that hold it back (gates.go) and the instances that may change now (wave.go). Nothing in this package stores,
// locks, waits or asks for the time: package engine does.
package rotation

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// State is where a rotation is.
type State string

// The states of a rotation.
const (
	Planned    State = "planned"    // values are stored; no workload has them yet
	Accepting  State = "accepting"  // verifiers learn to accept the new version beside the old
	Presenting State = "presenting" // presenters switch to the new version; rows are re-encrypted
	Soaking    State = "soaking"    // both are still accepted; evidence that the old one is unused is gathered
	Retiring   State = "retiring"   // the old version ceases to be accepted: from here there is no way back
	Done       State = "done"
	Reverting  State = "reverting" // the moves are undone, backwards
	Reverted   State = "reverted"
)

// Trigger is what started a rotation.
type Trigger string

// The triggers.
const (
	ByOperator Trigger = "operator" // a write to rotate
	ByPeriod   Trigger = "period"   // the version's life of rotation_period was over
	BySchedule Trigger = "schedule" // a time of rotation_schedule had come
)

// Automatic reports whether nobody asked for it.
func (t Trigger) Automatic() bool { return t == ByPeriod || t == BySchedule }

// What happens to a rotation that has failed: one with an unhealthy instance while it presents, or a step that has taken
// longer than the deadline.
const (
	FailurePause  = "pause"
	FailureRevert = "revert"
)

// Whether a rotation waits for somebody to confirm it before the old version goes.
const (
	ConfirmAuto   = "auto"
	ConfirmManual = "manual"
)

// Who may confirm a rotation that waits for it.
const (
	ConfirmByAny   = "any"
	ConfirmByOther = "other" // four eyes: not the user who started it
)

// Actor is who asks for something, as Vault knows them.
type Actor struct {
	Name   string `json:"name"`             // display name
	Entity string `json:"entity,omitempty"` // id, empty where there is none
}

// String returns both.
func (a Actor) String() string {
	if a.Entity == "" {
		return a.Name
	}
	return a.Name + " (entity " + a.Entity + ")"
}

// Itself is the engine, as an actor.
var Itself = Actor{Name: "hyvve"}

// Pause is why a rotation stands still. Nobody's bundle changes meanwhile.
type Pause struct {
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
}

// Change is one key in a rotation.
type Change struct {
	Key      string       `json:"key"`
	Env      string       `json:"env"`
	From     int          `json:"from"` // version numbers
	To       int          `json:"to"`
	Protects []key.Column `json:"protects,omitempty"`

	MultiLine bool `json:"multi_line,omitempty"` // the new value has several lines

	// Also are undeleted versions, newest first. Those that verify accept them beside From, and the rotation retires them
	// with it.
	Also []int `json:"also,omitempty"`
}

// Event is one entry of the timeline.
type Event struct {
	At    time.Time `json:"at"`
	State State     `json:"state"`
	Step  Step      `json:"step,omitempty"`
	Text  string    `json:"text"`

	By     string `json:"by,omitempty"` // display name, empty where the rotation went on by itself
	Entity string `json:"entity,omitempty"`
	Reason string `json:"reason,omitempty"` // in the user's own words

	Changes []EntryChange `json:"changes,omitempty"` // of settings
}

// Evidence is the last report on a piece of work.
type Evidence struct {
	Report   workload.WorkReport `json:"report"`
	At       time.Time           `json:"at"`
	Instance string              `json:"instance,omitempty"`

	Login      workload.Login `json:"login,omitzero"`       // of the instance
	Connection string         `json:"connection,omitempty"` // by which the engine itself has looked, in place of an instance
	Revision   uint64         `json:"revision,omitempty"`   // of the connection, as it looked
}

// Rotation is one change of one or several keys together. It holds version numbers and never a value.
type Rotation struct {
	ID      string    `json:"id"` // sorts by time of creation
	Changes []Change  `json:"changes"`
	Trigger Trigger   `json:"trigger"`
	Reason  string    `json:"reason,omitempty"`
	By      string    `json:"by,omitempty"` // display name
	Entity  string    `json:"entity,omitempty"`
	Created time.Time `json:"created"`

	Soak        time.Duration `json:"soak"`
	Observe     time.Duration `json:"observe,omitempty"`  // nobody may be seen using an old version for so long, or for Soak if that is longer
	Deadline    time.Duration `json:"deadline,omitempty"` // of a step; 0: none
	OnFailure   string        `json:"on_failure,omitempty"`
	Confirm     bool          `json:"confirm,omitempty"`     // somebody has to, before the old version goes
	ConfirmBy   string        `json:"confirm_by,omitempty"`  // any or other
	NotBy       string        `json:"not_by,omitempty"`      // entity id of the user who must not confirm it, where ConfirmBy is other
	Confirmed   string        `json:"confirmed,omitempty"`   // by whom
	Compromised bool          `json:"compromised,omitempty"` // gates that do not hold at the deadline are cut
	Upgrade     bool          `json:"upgrade,omitempty"`     // rows of other keys in the same columns are brought under the new version

	Retain *time.Duration `json:"retain,omitempty"` // of the versions that it retires; nil: as the keys say

	// Ends says what has become of the values that left, by key: retained, and until when, or erased. Empty before that.
	Ends map[string]string `json:"ends,omitempty"`

	Asked []EntryChange `json:"asked,omitempty"` // what the request set in place of what the keys' policies say

	// ChangedBy has made it end the old version on less evidence than it started with, so that NotBy is that user.
	ChangedBy *Actor `json:"changed_by,omitempty"`

	Follow  *Follow `json:"follow,omitempty"`  // the rotation that starts when this one has ended
	Follows string  `json:"follows,omitempty"` // id of the rotation that this one had to wait for

	PartOf string `json:"part_of,omitempty"` // id of the rotation of more keys that this one was part of; see Part

	All   bool   `json:"all,omitempty"`   // it was asked for as part of all keys
	Whole *Whole `json:"whole,omitempty"` // of the main rotation of a request for all keys

	State    State     `json:"state"`
	Step     Step      `json:"step,omitempty"`
	Since    time.Time `json:"since"` // when this step began
	Clock    time.Time `json:"clock"` // when its deadline began to run: Since, or the last resumption
	SoakFrom time.Time `json:"soak_from,omitzero"`
	Paused   *Pause    `json:"paused,omitempty"`

	// Stages is how far each instance may go, by Instance.Name; see step. An instance that is not in it came later
	// and starts at the target of the step.
	Stages map[string]Stage `json:"positions,omitempty"`

	// Reached are the workloads of which an instance may have been given something else than before the rotation; nil in
	// records of earlier releases: not known. A revert waits for these only.
	Reached []string `json:"reached"`

	// Pass counts how often it has gone back for rows that were left; see workID.
	Pass int `json:"pass,omitempty"`

	// Of the current step's action.
	Acted     bool      `json:"acted,omitempty"`
	Attempts  int       `json:"attempts,omitempty"`
	RetryAt   time.Time `json:"retry_at,omitzero"`
	Fault     string    `json:"fault,omitempty"`  // why the last attempt failed
	StillUsed bool      `json:"in_use,omitempty"` // it did because of use that ends by itself

	Work     map[string]Evidence `json:"work,omitempty"` // by Work.ID
	Timeline []Event             `json:"timeline"`
	Omitted  int                 `json:"omitted,omitempty"` // events from the middle of Timeline that the journal alone has

	// Witnesses are all who have checked rows before a value is erased, by Work.ID; see witness.go.
	Witnesses  map[string][]Evidence `json:"witnesses,omitempty"`
	OneWitness string                `json:"one_witness,omitempty"` // who has accepted the word of one of them

	Receipt Receipt `json:"receipt,omitzero"`

	// Journaled is how many events the journal was known to have, and JournalSeq its newest entry, when this
	// record was stored. Events beyond are looked for from there after a crash, and written if they lack.
	Journaled  int    `json:"journaled"`
	JournalSeq uint64 `json:"journal_seq"`

	// JournalFrom is the journal's newest entry before the first of this rotation. Records of earlier releases have none.
	JournalFrom uint64 `json:"journal_from,omitempty"`
}

// Finished reports whether nothing will happen any more.
func (r Rotation) Finished() bool { return r.State == Done || r.State == Reverted }

// Outcome is what has come of a rotation so far, in a word.
type Outcome string

// The outcomes.
const (
	OutcomeDone         Outcome = "done"
	OutcomeDoneWithCuts Outcome = "done_with_cuts" // somebody may have been locked out
	OutcomeRunning      Outcome = "running"
	OutcomePaused       Outcome = "paused"
	OutcomeReverting    Outcome = "reverting"
	OutcomeReverted     Outcome = "reverted"
)

// Outcome returns that of a rotation.
func (r Rotation) Outcome() Outcome {
	switch {
	case r.State == Done && r.WasCut():
		return OutcomeDoneWithCuts
	case r.State == Done:
		return OutcomeDone
	case r.State == Reverted:
		return OutcomeReverted
	case r.Paused != nil:
		return OutcomePaused
	case r.State == Reverting:
		return OutcomeReverting
	default:
		return OutcomeRunning
	}
}

// OutcomeText says what an outcome other than done means, and what to do; empty for done.
func (r Rotation) OutcomeText(results []GateResult) string {
	command := "vault write -f hyvve/rotations/" + r.ID
	switch r.Outcome() {
	case OutcomeDone:
		return ""
	case OutcomeDoneWithCuts:
		return r.CutText()
	case OutcomePaused:
		return fmt.Sprintf("rotation %s is paused at %s by %s: %s; mend that and continue it with: %s/resume; or take it back with: %s/revert", r.ID, r.where(), r.Paused.By, r.Paused.Reason, command, command)
	case OutcomeReverted:
		return fmt.Sprintf("rotation %s is reverted: the old version is in use; see why with: vault read hyvve/rotations/%s", r.ID, r.ID)
	case OutcomeReverting, OutcomeRunning:
	}
	text := fmt.Sprintf("rotation %s has not ended, it is %s", r.ID, r.where())
	if waits := Waits(results); waits != "" {
		text += " and waits for: " + waits
	}
	return text + fmt.Sprintf("; follow it with: vault read hyvve/rotations/%s wait=5s", r.ID)
}

// where returns state and step.
func (r Rotation) where() string { return strings.TrimSpace(string(r.State) + " " + string(r.Step)) }

// KeyNames returns the names of the keys that change.
func (r Rotation) KeyNames() []string {
	names := make([]string, 0, len(r.Changes))
	for _, c := range r.Changes {
		names = append(names, c.Key)
	}
	return names
}

// Change returns the change of that key.
func (r Rotation) Change(keyName string) (Change, bool) {
	for _, c := range r.Changes {
		if c.Key == keyName {
			return c, true
		}
	}
	return Change{}, false
}

// LastRows is the newest evidence on the rows of a key. That of a wipe, which counts none, does not replace it.
func (r Rotation) LastRows(c Change) (report workload.WorkReport, ok bool) {
	var at time.Time
	for id, evidence := range r.Work {
		if strings.HasPrefix(id, r.ID+"/"+c.Key+"/") && evidence.At.After(at) && len(evidence.Report.Columns) > 0 {
			report, at, ok = evidence.Report, evidence.At, true
		}
	}
	if looked, at := r.lastLook(c); !at.IsZero() {
		report.Finds, report.MoreFinds, report.Unseen = looked.Finds, looked.MoreFinds, looked.Unseen
	}
	return report, ok
}

// lastLook is the newest evidence from a phase that has looked for envelopes in columns which nobody has configured.
func (r Rotation) lastLook(c Change) (report workload.WorkReport, at time.Time) {
	for _, p := range table {
		if !looks(p.phase) {
			continue
		}
		there := r // which is never gone back to
		there.State, there.Step, there.Pass = p.state, p.name, 0
		if evidence, ok := r.Work[there.WorkID(c)]; ok && evidence.Report.Done && evidence.At.After(at) {
			report, at = evidence.Report, evidence.At
		}
	}
	return report, at
}

// protects reports whether any key of it has rows to re-encrypt.
func (r Rotation) protects() bool {
	return slices.ContainsFunc(r.Changes, func(c Change) bool { return len(c.Protects) > 0 })
}

// Clone copies what Next may write to.
func (r Rotation) Clone() Rotation {
	r.Stages = maps.Clone(r.Stages)
	if r.Stages == nil {
		r.Stages = map[string]Stage{}
	}
	r.Work = maps.Clone(r.Work)
	if r.Work == nil {
		r.Work = map[string]Evidence{}
	}
	r.Witnesses = maps.Clone(r.Witnesses)
	if r.Witnesses == nil {
		r.Witnesses = map[string][]Evidence{}
	}
	r.Timeline = slices.Clone(r.Timeline)
	r.Reached = slices.Clone(r.Reached)
	return r
}

// moved returns the rotation in another step, with an event.
func (r Rotation) moved(to step, now time.Time, e Event) Rotation {
	r = r.Clone()
	r.State, r.Step, r.Since, r.Clock = to.state, to.name, now, now
	r.Acted, r.Attempts, r.Fault, r.StillUsed, r.RetryAt, r.SoakFrom = false, 0, "", false, time.Time{}, time.Time{}
	if !r.Finished() {
		r.Ends = nil
	}
	return r.told(now, e)
}

// said is an event that somebody brought about.
func said(text, reason string, by Actor) Event {
	return Event{Text: text, By: by.Name, Entity: by.Entity, Reason: reason}
}

// rotationSchema is the number of the stored form. Schema 1 knew no deadline, no pause and no journal sequence: its
// events are in journal entries of a form of their own. Schema 2 knew no confirm_by: a release that reads it would let the
// user confirm who started the rotation. Schema 3 knew no rotation that follows: a release that reads it would start none.
const rotationSchema = 4

type rotationRecord struct {
	Schema int `json:"schema"`
	Rotation
}

// Encode returns the stored form.
func (r Rotation) Encode() ([]byte, error) { return encode(rotationRecord{rotationSchema, r}) }

// Decode reads the stored form, of this schema and of those before, and refuses what the table does not know.
func Decode(data []byte) (Rotation, error) {
	var r rotationRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return Rotation{}, fmt.Errorf("stored rotation: %w", err)
	}
	switch r.Schema {
	case 1:
		r.Clock, r.Journaled = r.Since, r.EventCount()
	case 2, 3, rotationSchema:
	default:
		return Rotation{}, fmt.Errorf("stored rotation %q has schema %d, this release reads 1 to %d; use the release that wrote it or a newer one", r.ID, r.Schema, rotationSchema)
	}
	if r.ID == "" || len(r.Changes) == 0 {
		return Rotation{}, fmt.Errorf("stored rotation %q: id or changes are missing", r.ID)
	}
	if _, ok := find(r.State, r.Step); !ok {
		return Rotation{}, fmt.Errorf("stored rotation %s: step %s/%s is not known", r.ID, r.State, r.Step)
	}
	return r.Rotation, nil
}

// EnvNames joins environment names for people.
func (r Rotation) EnvNames() string {
	names := make([]string, 0, len(r.Changes))
	for _, c := range r.Changes {
		names = append(names, c.Env)
	}
	return strings.Join(names, ", ")
}

// EntryChange is a field that a write has changed, or would have changed. It holds no secret.
type EntryChange struct {
	Field string `json:"field"`
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
}

// Bounds of a rotation's timeline. The journal has all events.
const (
	MaxEvents    = 128
	firstEvents  = 32   // that stay
	maxEventText = 1024 // bytes of a text, and of a reason
)

// told returns the rotation with an event in its step.
func (r Rotation) told(now time.Time, e Event) Rotation {
	r = r.Clone()
	e.At, e.State, e.Step = now, r.State, r.Step
	e.Text, e.Reason = kind.CutText(e.Text, maxEventText), kind.CutText(e.Reason, maxEventText)
	r.Timeline = append(r.Timeline, e)
	for len(r.Timeline) > MaxEvents {
		r.Timeline = slices.Delete(r.Timeline, r.spare(), r.spare()+1)
		r.Omitted++
	}
	return r
}

// spare is the oldest event that the timeline can do without: not one of the first, nor the first of its state.
func (r Rotation) spare() int {
	seen := map[State]bool{}
	for n, e := range r.Timeline {
		if n >= firstEvents && seen[e.State] {
			return n
		}
		seen[e.State] = true
	}
	return firstEvents
}

// EventCount is how many events there were. One that the journal may lack is among the newest, so that number n of it is at
// n-r.Omitted of Timeline.
func (r Rotation) EventCount() int { return len(r.Timeline) + r.Omitted }

// CarryRemedy says what lets a workload carry values of several lines.
const CarryRemedy = "render the key as json, bundle or files, or use exec; take it out of keys of all that cannot, and restart the sidecars. Readers that are none say one_line=none when they read"

// CannotCarry says that instances of a workload cannot carry a value of several lines under a name; empty if all can.
func CannotCarry(keyName, env, workloadName string, instances []workload.Instance) string {
	var cannot firstThree
	for _, i := range instances {
		if !i.Carries(env) {
			cannot.add(func() string { return i.ID })
		}
	}
	if cannot.n == 0 {
		return ""
	}
	return fmt.Sprintf(
		"key %s: the value of %s has several lines, which %d of %d instances of workload %s cannot carry: %s; %s",
		keyName, env, cannot.n, len(instances), workloadName, cannot, CarryRemedy,
	)
}

// CheckMultiline is the gate that keeps a value of several lines from those who cannot carry it.
func CheckMultiline(r Rotation, f Facts) []string {
	var reasons []string
	for _, c := range r.Changes {
		for _, w := range f.Workloads {
			if _, uses := w.Keys[c.Key]; !uses || !c.MultiLine {
				continue
			}
			if why := CannotCarry(c.Key, c.Env, w.Name, w.Instances); why != "" {
				reasons = append(reasons, why)
			}
		}
	}
	return reasons
}
