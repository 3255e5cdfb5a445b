// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

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
