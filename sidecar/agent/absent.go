// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/client"
)

// absent gives the names that keys = [...] of a render or exec block has and a bundle lacks, sorted.
func (c *Config) absent(b client.Bundle) []string {
	var names []string
	for _, r := range c.Render {
		names = append(names, r.Keys...)
	}
	if c.Exec != nil {
		names = append(names, c.Exec.Keys...)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, present := b.Values[name]
		return present || len(b.Accepts[name]) > 0
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// sayWhatIsAbsent warns of keys that are asked for and not there, when they become others. Nothing is held back for them: a
// workload may have lost a key on purpose, or get it soon.
func (a *Agent) sayWhatIsAbsent() {
	absent := a.config.absent(a.bundle)
	if len(absent) > 0 && !slices.Equal(absent, a.absent) {
		a.log.Warn("keys that the configuration names are not in the bundle, and left out; are they misspelt, or in neither presents= nor verifies= of the workload?", "keys", absent)
	}
	a.absent = absent
}
