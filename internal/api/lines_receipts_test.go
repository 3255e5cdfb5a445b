// SPDX-License-Identifier: Apache-2.0

package api

import (
	"testing"
	"time"
)

// A rotation's evidence is sentences for people, as the receipt has them, and no list of fields.
func TestEvidenceLines(t *testing.T) {
	at := Time{Time: time.Date(2026, 11, 30, 21, 56, 38, 577977804, time.UTC)}
	for want, of := range map[string]any{
		"at the end of accepting load, 2026-11-30T21:56:38Z: 1 of api, proof report etag, login presents 3; token presents 1, accepts 2 1: api-1 (2026-11-30T21:56:38Z)": Proof{
			Time: at, State: "accepting", Step: "load", Workload: "api", Proof: "report", Grade: "etag", Count: 1,
			Holds:     map[string]Held{"token": {Presents: 1, Accepts: []int{2, 1}}, "login": {Presents: 3}},
			Instances: []Proven{{Instance: "api-1", Time: at}},
		},
		"at the end of retiring load, 2026-11-30T21:56:38Z: 9 of api, proof none, nothing of these keys: api-1 and others; SHA-256 over all: abc": Proof{
			Time: at, State: "retiring", Step: "load", Workload: "api", Proof: "none", Count: 9, Instances: []Proven{{Instance: "api-1"}}, Digest: "abc",
		},
		"at the end of reverting load, 2026-11-30T21:56:38Z: no instance of api was live, so that nothing is proved there": Proof{
			Time: at, State: "reverting", Step: "load", Workload: "api", Proof: ProofEmpty,
		},
		"2026-11-30T21:56:38Z: loaded of retiring load: cut, since the key is compromised; 1 instances: api/api-1": Cut{
			Time: at, State: "retiring", Step: "load", Gate: "loaded", Reason: "cut, since the key is compromised", Count: 1, Instances: []string{"api/api-1"},
		},
		"api/api-1, which presents version 1 of TOKEN, which is retained; end it": LockedOut{
			Workload: "api", Instance: "api-1", Text: "presents version 1 of TOKEN, which is retained", Remedy: "end it",
		},
	} {
		if got := Line(of); got != want {
			t.Errorf("%q\nwant %q", got, want)
		}
	}
}
