// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"slices"
)

// Proof is how a sidecar knows that its workload uses the bundle that it reports as loaded. The zero value is [ProofNone].
type Proof string

// The proofs. Each is more than those before it.
const (
	ProofNone   Proof = "none"   // files were written, if that; or the sidecar does not say
	ProofReload Proof = "reload" // the workload was made to load it, and took that
	ProofHealth Proof = "health" // a health check has passed after that
	ProofEtag   Proof = "etag"   // the workload itself has named the bundle
)

// proofs are all, the least first.
var proofs = []Proof{ProofNone, ProofReload, ProofHealth, ProofEtag}

// ParseProof reads a proof; empty is [ProofNone].
func ParseProof(text string) (Proof, error) {
	if text == "" {
		return ProofNone, nil
	}
	if !slices.Contains(proofs, Proof(text)) {
		return ProofNone, fmt.Errorf("%q is not known; use etag, health, reload or none", text)
	}
	return Proof(text), nil
}

// String returns the proof in a word.
func (p Proof) String() string { return string(proofs[p.rank()]) }

// AtLeast reports whether the proof is as much as another one, or more.
func (p Proof) AtLeast(least Proof) bool { return p.rank() >= least.rank() }

// rank is the place of a proof among all. One that is not known is none.
func (p Proof) rank() int { return max(slices.Index(proofs, p), 0) }
