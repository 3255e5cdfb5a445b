// SPDX-License-Identifier: Apache-2.0

package rotation

import "github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"

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

// Positions: how far an instance is taken. What it holds of a key there depends on its role alone (heldAt).
const (
	atOld     = 0 // presents old, accepts old
	atAccept  = 1 // presents old, accepts both
	atPresent = 2 // presents new, accepts both
	atNew     = 3 // presents new, accepts new
)

// Action is what the engine does at a place, once, idempotently, before the place can be left.
type Action string

const (
	NoAction   Action = ""
	ActStage   Action = "stage"   // Server.Stage and Verify
	ActPromote Action = "promote" // mark the new version current, the old one previous
	ActRetire  Action = "retire"  // Server.Retire
	ActUnstage Action = "unstage" // Server.Unstage
	ActErase   Action = "erase"   // erase the value of the version that goes, once the gate rows holds
	ActSample  Action = "sample"  // Server.InUse or Sampler.Sample: of no place, see observe.go
)

// place is a row of the transition table.
type place struct {
	state State
	step  Step
	// Every live instance is taken from one position to the other here, in waves. One that joins starts at target;
	// nobody is outside of the two.
	from, target int
	phase        workload.Phase // of re-encryption, asked of those that re-encrypt
	action       Action
	samples      bool // servers are sampled for use of the old version while the rotation is here
	gates        []gate
	next         goal   // what follows when all gates hold
	revert       goal   // where a revert goes to from here; zero: there is no way back
	left         goal   // where it goes when a report says that rows are left; zero: it waits here
	enter        string // the timeline's words on entering
}

// table is every place there is and every legal transition. docs/rotation.md draws it.
var table = []place{
	{
		state: Planned, from: atOld, target: atOld,
		next: goal{Accepting, StepStage}, revert: goal{Reverting, StepUnstage},
		enter: "values stored",
	},
	{
		state: Accepting, step: StepStage, from: atOld, target: atOld, action: ActStage,
		gates: []gate{gateAction, gateMultiline, gateDeadline},
		next:  goal{Accepting, StepLoad}, revert: goal{Reverting, StepUnstage},
		enter: "making the new version valid beside the old",
	},
	{
		state: Accepting, step: StepLoad, from: atOld, target: atAccept,
		gates: []gate{gateMinInstances, gateLoaded, gateHealthy, gateDeadline},
		next:  goal{Presenting, StepStageRows}, revert: goal{Reverting, StepLoad},
		enter: "those that verify load both versions",
	},
	{
		state: Presenting, step: StepStageRows, from: atAccept, target: atAccept, phase: workload.PhaseStage,
		gates: []gate{gateRows, gateDeadline},
		next:  goal{Presenting, StepSwitch}, revert: goal{Reverting, StepRows},
		enter: "new ciphertexts are staged beside protected rows",
	},
	{
		state: Presenting, step: StepSwitch, from: atAccept, target: atPresent,
		gates: []gate{gateMinInstances, gateLoaded, gateHealthy, gateDeadline},
		next:  goal{Presenting, StepFlipRows}, revert: goal{Reverting, StepSwitch},
		enter: "those that present switch to the new version",
	},
	{
		state: Presenting, step: StepFlipRows, from: atPresent, target: atPresent, phase: workload.PhaseFlip,
		gates: []gate{gateRows, gateDeadline},
		next:  goal{Soaking, StepSoak}, revert: goal{Reverting, StepSwitch},
		enter: "protected rows are replaced by their staged copies",
	},
	{
		state: Soaking, step: StepSoak, from: atPresent, target: atPresent, action: ActPromote,
		samples: true,
		gates:   []gate{gateAction, gateHealthy, gateSoak, gateDeadline},
		next:    goal{Soaking, StepUnused}, revert: goal{Reverting, StepSwitch},
		enter: "the new version is presented everywhere; the soak time runs",
	},
	{
		state: Soaking, step: StepUnused, from: atPresent, target: atPresent, phase: workload.PhaseSweep, samples: true,
		gates: []gate{gateMinInstances, gateLoaded, gateHealthy, gateUnused, gateRows, gateConfirmed, gateObserved, gateDeadline},
		next:  goal{Retiring, StepLoad}, revert: goal{Reverting, StepSwitch},
		enter: "looking for any use of the old version",
	},
	{
		state: Retiring, step: StepLoad, from: atPresent, target: atNew,
		gates: []gate{gateMinInstances, gateLoaded, gateHealthy},
		next:  goal{Retiring, StepWipeRows},
		enter: "nobody uses the old version; those that verify drop it",
	},
	{
		state: Retiring, step: StepWipeRows, from: atNew, target: atNew, phase: workload.PhaseWipe,
		gates: []gate{gateWriters, gateRows},
		next:  goal{Retiring, StepRetire}, left: goal{Retiring, StepAcceptBoth},
		enter: "kept ciphertexts of the old version are dropped",
	},
	{
		state: Retiring, step: StepRetire, from: atNew, target: atNew, action: ActRetire,
		gates: []gate{gateAction},
		next:  goal{Retiring, StepErase},
		enter: "the old version is made invalid",
	},
	{
		state: Retiring, step: StepErase, from: atNew, target: atNew, phase: workload.PhaseCheck, action: ActErase,
		gates: []gate{gateRows, gateAction},
		next:  goal{Done, ""}, left: goal{Retiring, StepAcceptBoth},
		enter: "the value of the old version is retained, or erased",
	},
	{
		state: Retiring, step: StepAcceptBoth, from: atNew, target: atPresent,
		gates: []gate{gateMinInstances, gateLoaded},
		next:  goal{Retiring, StepRows},
		enter: "rows of the old version are left; those that verify accept both versions again",
	},
	{
		state: Retiring, step: StepRows, from: atPresent, target: atPresent, phase: workload.PhaseFlip,
		gates: []gate{gateRows, gatePace},
		next:  goal{Retiring, StepLoad},
		enter: "rows that were left are brought under the new version",
	},
	{state: Done, from: atNew, target: atNew, enter: "done"},
	{
		state: Reverting, step: StepSwitch, from: atPresent, target: atAccept,
		gates: []gate{gateMinInstances, gateLoaded},
		next:  goal{Reverting, StepRows},
		enter: "those that present go back to the old version",
	},
	{
		state: Reverting, step: StepRows, from: atAccept, target: atAccept, phase: workload.PhaseRevert,
		gates: []gate{gateRows, gatePace},
		next:  goal{Reverting, StepLoad},
		enter: "protected rows go back to the old version",
	},
	{
		state: Reverting, step: StepLoad, from: atAccept, target: atOld,
		gates: []gate{gateMinInstances, gateLoaded},
		next:  goal{Reverting, StepWipeRows},
		enter: "those that verify forget the new version",
	},
	{
		state: Reverting, step: StepWipeRows, from: atOld, target: atOld, phase: workload.PhaseWipe,
		gates: []gate{gateWriters, gateRows},
		next:  goal{Reverting, StepUnstage}, left: goal{Reverting, StepAcceptBoth},
		enter: "staged ciphertexts of the new version are dropped",
	},
	{
		state: Reverting, step: StepUnstage, from: atOld, target: atOld, action: ActUnstage,
		gates: []gate{gateAction},
		next:  goal{Reverting, StepErase},
		enter: "the new version is made invalid",
	},
	{
		state: Reverting, step: StepErase, from: atOld, target: atOld, phase: workload.PhaseCheck, action: ActErase,
		gates: []gate{gateRows, gateAction},
		next:  goal{Reverted, ""}, left: goal{Reverting, StepAcceptBoth},
		enter: "the value of the new version is retained, or erased",
	},
	{
		state: Reverting, step: StepAcceptBoth, from: atOld, target: atAccept,
		gates: []gate{gateMinInstances, gateLoaded},
		next:  goal{Reverting, StepRows},
		enter: "rows of the new version are left; those that verify accept both versions again",
	},
	{state: Reverted, from: atOld, target: atOld, enter: "reverted"},
}

// find returns the row of a state and step.
func find(state State, step Step) (place, bool) {
	for _, p := range table {
		if p.state == state && p.step == step {
			return p, true
		}
	}
	return place{}, false
}

// at returns the row of the rotation. Decode and moved let no other place in.
func (r Rotation) at() place {
	p, _ := find(r.State, r.Step)
	return p
}

// goal names a place.
type goal struct {
	state State
	step  Step
}

// row returns the place that a goal names.
func (g goal) row() (place, bool) { return find(g.state, g.step) }

// onlyRows reports whether there is nothing to do at a place but to re-encrypt rows.
func (p place) onlyRows() bool { return p.phase != "" && p.action == NoAction && !p.samples }

// towards returns the place that a goal names, or the one after it where that is about rows and the rotation has none.
func (r Rotation) towards(g goal) (place, bool) {
	p, ok := g.row()
	for ok && p.onlyRows() && !r.protects() {
		p, ok = p.next.row()
	}
	return p, ok
}

// Action is what the engine does where the rotation is.
func (r Rotation) Action() Action { return r.at().action }

// Phase is what is asked where the rotation is of those that re-encrypt; empty: nothing.
func (r Rotation) Phase() workload.Phase { return r.at().phase }

// StepSamples reports whether servers may be sampled where the rotation is; Samples, whether they are now.
func (r Rotation) StepSamples() bool { return r.at().samples }
