// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"testing"
	"time"
)

// The soonest start comes first, and one that was planned again, or no longer is, does not come at its old time.
func TestAgendaForgetsWhatIsNoLongerPlanned(t *testing.T) {
	at := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	a := NewAgenda()
	if _, ok := a.Next(); ok {
		t.Fatal("nothing is planned")
	}
	a.Set("later", at.Add(time.Hour))
	a.Set("moved", at)
	a.Set("gone", at)
	a.Set("moved", at.Add(2*time.Hour))
	a.Set("gone", time.Time{})
	for _, want := range []Start{{at.Add(time.Hour), "later"}, {at.Add(2 * time.Hour), "moved"}} {
		if next, ok := a.Next(); !ok || next != want || !a.At(want.Key).Equal(want.At) {
			t.Errorf("next is %+v, want %+v", next, want)
		}
		a.Set(want.Key, time.Time{})
	}
	if next, ok := a.Next(); ok {
		t.Errorf("still planned: %+v", next)
	}
}
