// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"strconv"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Step is where within a state a rotation is.
type Step string

// The steps.
const (
	StepStage     Step = "stage"      // accepting: the server learns the new version
	StepLoad      Step = "load"       // instances load other accept-lists
	StepStageRows Step = "stage-rows" // presenting: new ciphertexts are computed beside the rows
	StepSwitch    Step = "switch"     // instances present another version
	StepFlipRows  Step = "flip-rows"  // presenting: the new ciphertexts take the place of the old
	StepSoak      Step = "soak"       // soaking: the clock runs
	StepUnused    Step = "unused"     // soaking: evidence that nobody uses the old version
	StepRows      Step = "rows"       // reverting: the old ciphertexts take their place again; retiring: rows that were left follow
	StepWipeRows  Step = "wipe-rows"  // staged and kept ciphertexts are dropped
	StepRetire    Step = "retire"     // retiring: the server forgets the old version
	StepUnstage   Step = "unstage"    // reverting: the server forgets the new version
	StepErase     Step = "erase"      // rows are checked once more, then the value of the version that goes is erased

	StepAcceptBoth Step = "accept-both" // rows were left: those that verify accept both versions again
)

// Stage is how far an instance may go in a rotation. What it then holds of a key depends only on its role (heldAt).
type Stage int

const (
	stageOld     Stage = iota // presents old, accepts old
	stageAccept               // presents old, accepts both
	stagePresent              // presents new, accepts both
	stageNew                  // presents new, accepts new
)

// String returns the words that operators read.
func (s Stage) String() string {
	names := [...]string{"old", "accept both", "present new", "new only"}
	if s < 0 || int(s) >= len(names) {
		return strconv.Itoa(int(s))
	}
	return names[s]
}

// Action is what the engine does in a step, once and idempotently, before the step can end.
type Action string

// The actions.
const (
	NoAction   Action = ""
	ActStage   Action = "stage"   // Server.Stage and Verify
	ActPromote Action = "promote" // mark the new version current, the old one previous
	ActRetire  Action = "retire"  // Server.Retire
	ActUnstage Action = "unstage" // Server.Unstage
	ActErase   Action = "erase"   // erase the value of the version that goes, once the gate rows holds
	ActSample  Action = "sample"  // Server.InUse or Sampler.Sample: of no step, see observe.go
)

// step is a row of the transition table.
type step struct {
	state State
	name  Step
	// The step takes every live instance from one stage to the other, in waves. An instance that joins starts at target;
	// none is outside of the two.
	from, target Stage
	phase        workload.Phase // of re-encryption, asked of those that re-encrypt
	action       Action
	samples      bool // servers are sampled for use of the old version while the rotation is here
	gates        []gate
	next         transition // when all gates hold
	revert       transition // of a revert from here; zero: there is no way back
	left         transition // when a report says that rows are left; zero: the rotation waits here
	escalated    transition // when the old version is said to be compromised; zero: the rotation stays here
	enter        string     // the timeline's words on entering
}

// table has every step and every legal transition. docs/rotation.md draws it.
var table = []step{
	{
		state: Planned, from: stageOld, target: stageOld,
		next: transition{Accepting, StepStage}, revert: transition{Reverting, StepUnstage},
		enter: "values stored",
	},
	{
		state: Accepting, name: StepStage, from: stageOld, target: stageOld, action: ActStage,
		gates: []gate{gateAction, gateMultiline, gateDeadline},
		next:  transition{Accepting, StepLoad}, revert: transition{Reverting, StepUnstage},
		enter: "making the new version valid beside the old",
	},
	{
		state: Accepting, name: StepLoad, from: stageOld, target: stageAccept,
		gates: []gate{gateMinInstances, gateLoaded, gateProof, gateHealthy, gateDeadline},
		next:  transition{Presenting, StepStageRows}, revert: transition{Reverting, StepLoad},
		enter: "those that verify load both versions",
	},
	{
		state: Presenting, name: StepStageRows, from: stageAccept, target: stageAccept, phase: workload.PhaseStage,
		gates: []gate{gateRows, gateDeadline},
		next:  transition{Presenting, StepSwitch}, revert: transition{Reverting, StepRows},
		enter: "new ciphertexts are staged beside protected rows",
	},
	{
		state: Presenting, name: StepSwitch, from: stageAccept, target: stagePresent,
		gates: []gate{gateMinInstances, gateLoaded, gateProof, gateHealthy, gateDeadline},
		next:  transition{Presenting, StepFlipRows}, revert: transition{Reverting, StepSwitch},
		enter: "those that present switch to the new version",
	},
	{
		state: Presenting, name: StepFlipRows, from: stagePresent, target: stagePresent, phase: workload.PhaseFlip,
		gates: []gate{gateRows, gateDeadline},
		next:  transition{Soaking, StepSoak}, revert: transition{Reverting, StepSwitch},
		enter: "protected rows are replaced by their staged copies",
	},
	{
		state: Soaking, name: StepSoak, from: stagePresent, target: stagePresent, action: ActPromote,
		samples: true,
		gates:   []gate{gateAction, gateHealthy, gateSoak, gateDeadline},
		next:    transition{Soaking, StepUnused}, revert: transition{Reverting, StepSwitch},
		enter: "the new version is presented everywhere; the soak time runs",
	},
	{
		state: Soaking, name: StepUnused, from: stagePresent, target: stagePresent, phase: workload.PhaseSweep, samples: true,
		gates: []gate{gateMinInstances, gateLoaded, gateProof, gateHealthy, gateUnused, gateRows, gateConfirmed, gateObserved, gateDeadline},
		next:  transition{Retiring, StepLoad}, revert: transition{Reverting, StepSwitch},
		enter: "looking for any use of the old version",
	},
	{
		state: Retiring, name: StepLoad, from: stagePresent, target: stageNew,
		gates: []gate{gateMinInstances, gateLoaded, gateProof, gateHealthy},
		next:  transition{Retiring, StepWipeRows},
		enter: enterUnused,
	},
	{
		state: Retiring, name: StepWipeRows, from: stageNew, target: stageNew, phase: workload.PhaseWipe,
		gates: []gate{gateWriters, gateRows},
		next:  transition{Retiring, StepRetire}, left: transition{Retiring, StepAcceptBoth},
		enter: "kept ciphertexts of the old version are dropped",
	},
	{
		state: Retiring, name: StepRetire, from: stageNew, target: stageNew, action: ActRetire,
		gates: []gate{gateAction},
		next:  transition{Retiring, StepErase},
		enter: "the old version is made invalid",
	},
	{
		state: Retiring, name: StepErase, from: stageNew, target: stageNew, phase: workload.PhaseCheck, action: ActErase,
		gates: []gate{gateRows, gateAction},
		next:  transition{Done, ""}, left: transition{Retiring, StepAcceptBoth}, escalated: transition{Retiring, StepRetire},
		enter: "the value of the old version is retained, or erased",
	},
	{
		state: Retiring, name: StepAcceptBoth, from: stageNew, target: stagePresent,
		gates: []gate{gateMinInstances, gateLoaded, gateProof},
		next:  transition{Retiring, StepRows},
		enter: "rows of the old version are left; those that verify accept both versions again",
	},
	{
		state: Retiring, name: StepRows, from: stagePresent, target: stagePresent, phase: workload.PhaseFlip,
		gates: []gate{gateRows, gatePace},
		next:  transition{Retiring, StepLoad},
		enter: "rows that were left are brought under the new version",
	},
	{state: Done, from: stageNew, target: stageNew, enter: "done"},
	{
		state: Reverting, name: StepSwitch, from: stagePresent, target: stageAccept,
		gates: []gate{gateMinInstances, gateLoaded, gateProof},
		next:  transition{Reverting, StepRows},
		enter: "those that present go back to the old version",
	},
	{
		state: Reverting, name: StepRows, from: stageAccept, target: stageAccept, phase: workload.PhaseRevert,
		gates: []gate{gateRows, gatePace},
		next:  transition{Reverting, StepLoad},
		enter: "protected rows go back to the old version",
	},
	{
		state: Reverting, name: StepLoad, from: stageAccept, target: stageOld,
		gates: []gate{gateMinInstances, gateLoaded, gateProof},
		next:  transition{Reverting, StepWipeRows},
		enter: "those that verify forget the new version",
	},
	{
		state: Reverting, name: StepWipeRows, from: stageOld, target: stageOld, phase: workload.PhaseWipe,
		gates: []gate{gateWriters, gateRows},
		next:  transition{Reverting, StepUnstage}, left: transition{Reverting, StepAcceptBoth},
		enter: "staged ciphertexts of the new version are dropped",
	},
	{
		state: Reverting, name: StepUnstage, from: stageOld, target: stageOld, action: ActUnstage,
		gates: []gate{gateAction},
		next:  transition{Reverting, StepErase},
		enter: "the new version is made invalid",
	},
	{
		state: Reverting, name: StepErase, from: stageOld, target: stageOld, phase: workload.PhaseCheck, action: ActErase,
		gates: []gate{gateRows, gateAction},
		next:  transition{Reverted, ""}, left: transition{Reverting, StepAcceptBoth},
		enter: "the value of the new version is retained, or erased",
	},
	{
		state: Reverting, name: StepAcceptBoth, from: stageOld, target: stageAccept,
		gates: []gate{gateMinInstances, gateLoaded, gateProof},
		next:  transition{Reverting, StepRows},
		enter: "rows of the new version are left; those that verify accept both versions again",
	},
	{state: Reverted, from: stageOld, target: stageOld, enter: "reverted"},
}

// find returns the row of a state and step.
func find(state State, name Step) (step, bool) {
	for _, p := range table {
		if p.state == state && p.name == name {
			return p, true
		}
	}
	return step{}, false
}

// at returns the row of the rotation. Decode and moved accept no step that the table does not have.
func (r Rotation) at() step {
	p, _ := find(r.State, r.Step)
	return p
}

// transition names the step that it leads to. The zero transition leads nowhere.
type transition struct {
	state State
	name  Step
}

// to returns the row of the step that a transition leads to.
func (t transition) to() (step, bool) { return find(t.state, t.name) }

// onlyRows reports whether a step does nothing but re-encrypt rows.
func (p step) onlyRows() bool { return p.phase != "" && p.action == NoAction && !p.samples }

// towards returns the step that a transition leads to, or the one after it if that is about rows and the rotation has none, or
// is reverted before it has asked for any to be staged.
func (r Rotation) towards(t transition) (step, bool) {
	p, ok := t.to()
	for ok && p.onlyRows() && (!r.protects() || p.state == Reverting && !r.stagedRows()) {
		p, ok = p.next.to()
	}
	return p, ok
}

// Action is what the engine does where the rotation is.
func (r Rotation) Action() Action { return r.at().action }

// Phase is what is asked where the rotation is of those that re-encrypt; empty: nothing.
func (r Rotation) Phase() workload.Phase { return r.at().phase }

// StepSamples reports whether servers may be sampled where the rotation is; Samples, whether they are now.
func (r Rotation) StepSamples() bool { return r.at().samples }
