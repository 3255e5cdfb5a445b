// SPDX-License-Identifier: Apache-2.0

package untrusted

import (
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Sightings are stored in steps. One in the future, as after the clock was set back, gives way to the truth.
func TestNewsOfSightings(t *testing.T) {
	now := time.Date(2026, 11, 30, 16, 0, 0, 0, time.UTC)
	at := func(after ...time.Duration) (all []workload.Sighting) {
		for _, d := range after {
			all = append(all, workload.Sighting{Env: "TOKEN", Version: 1, Last: now.Add(d)})
		}
		return all
	}
	for name, c := range map[string]struct {
		before, now []workload.Sighting
		want        bool
	}{
		"none":                {nil, nil, false},
		"the first":           {nil, at(0), true},
		"the same":            {at(0), at(0), false},
		"a step later":        {at(0), at(rotation.SightingStep), true},
		"less than that":      {at(0), at(rotation.SightingStep - 1), false},
		"of two proxies":      {at(0, -time.Hour), at(0, -time.Hour), false},
		"known in the future": {at(time.Hour), at(0), true},
	} {
		if got := News(c.before, c.now); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
