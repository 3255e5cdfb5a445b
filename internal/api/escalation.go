// SPDX-License-Identifier: Apache-2.0

package api

// EscalateRequest says that a version of a running rotation has leaked.
type EscalateRequest struct {
	RotationRequest
	RotationDetail
	Which    string  `json:"which,omitempty" doc:"Which version has leaked. old (default): the one that the rotation replaces. new: the one that it brings in. both: either of them; the rotation is cut, and a compromised one follows."`
	Deadline Seconds `json:"deadline,omitempty" doc:"After how long what holds a step back is cut. Default: compromised_deadline of hyvve/config."`
	Reason   string  `json:"reason,omitempty" doc:"Why; kept in the timeline and the journal. Never put a secret here."`
}

// TuneRequest changes settings of a running rotation. What is absent stays.
type TuneRequest struct {
	RotationRequest
	RotationDetail
	Soak      *Seconds `json:"soak,omitempty" doc:"Soak time, counted from when it began; 0s: none."`
	Observe   *Seconds `json:"observe,omitempty" doc:"For how long servers must have seen nobody use the old version; 0s: not at all."`
	Deadline  *Seconds `json:"deadline,omitempty" doc:"How long a step may take, counted from its start; 0s: as long as it takes. Of a compromised rotation: after how long what holds a step back is cut."`
	OnFailure string   `json:"on_failure,omitempty" doc:"pause or revert, when the rotation has failed."`
	Reason    string   `json:"reason,omitempty" doc:"Why; kept in the timeline and the journal. Never put a secret here."`
}
