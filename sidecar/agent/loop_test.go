// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/agent/machine"
)

// Every effect of the machine is performed, in one way.
func TestEveryEffectIsPerformed(t *testing.T) {
	for _, do := range machine.Effects {
		ways := 0
		for _, has := range []bool{acts[do] != nil, requests[do] != nil, lasts[do] != nil, does[do] != nil, says[do] != nil} {
			if has {
				ways++
			}
		}
		if ways != 1 {
			t.Errorf("there are %d ways to %s", ways, do)
		}
	}
	if all := len(acts) + len(requests) + len(lasts) + len(does) + len(says); all != len(machine.Effects) {
		t.Errorf("%d effects are performed, and there are %d", all, len(machine.Effects))
	}
}
