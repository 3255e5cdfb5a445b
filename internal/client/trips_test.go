// SPDX-License-Identifier: Apache-2.0

package client

import (
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// A report is not refused for what it says of retired versions: evidence on the rest would be missing.
func TestReportedTripsAreWithinBounds(t *testing.T) {
	all := []workload.Trip{
		{Env: "X", Version: 1, Count: 1, First: time.Unix(0, 0), Last: time.Unix(60, 0)}, // wrong clock
		{Env: "X", Version: 2, Count: 1},
		{Env: "X", Version: 3, Count: 1, First: time.Now().Add(-time.Hour), Last: time.Now().Add(time.Hour)},
	}
	for n := range workload.MaxTrips {
		all = append(all, workload.Trip{Env: "X", Version: 4 + n, Count: 1, First: time.Now(), Last: time.Now()})
	}
	for _, some := range [][]workload.Trip{all, all[:3]} {
		wire := trips(some)
		if len(wire) > workload.MaxTrips || wire[0].Version != 3 {
			t.Errorf("%d trips, the newest of version %d", len(wire), wire[0].Version)
		}
		for _, w := range wire {
			if !(w.LastSeen >= 0 && w.LastSeen <= w.FirstSeen && w.FirstSeen <= workload.LongestAgo.Seconds()) {
				t.Errorf("%+v", w)
			}
		}
	}
}
