// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

const day = 24 * time.Hour

// exactly is a share without jitter.
func exactly(key.Key, string) float64 { return 0 }

// A policy makes up for no time before it was written, and takes nothing back that was due.
func TestPoliciesCountFromWhenTheyWereWritten(t *testing.T) {
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	period := func(days time.Duration) key.Policy { return key.Policy{Period: days * day} }
	nightly := key.Policy{Schedule: "0 3 * * *"}
	tomorrow := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		age      time.Duration // of the current version
		old, new key.Policy
		due      time.Time
	}{
		"a first period, of an old version":          {100 * day, key.Policy{}, period(30), now.Add(30 * day)},
		"a first period, of a young version":         {10 * day, key.Policy{}, period(30), now.Add(20 * day)},
		"a first schedule":                           {100 * day, key.Policy{}, nightly, tomorrow},
		"a longer period":                            {29 * day, period(30), period(60), now.Add(31 * day)},
		"a shorter period":                           {10 * day, period(60), period(30), now.Add(20 * day)},
		"a shorter period, which would be over":      {40 * day, period(60), period(30), now.Add(20 * day)},
		"a much shorter period, which would be over": {40 * day, period(60), period(1), now.Add(1 * day)},
		"a longer period of what is due":             {40 * day, period(30), period(60), now.Add(20 * day)},
		"a shorter period of what is due":            {40 * day, period(30), period(20), now.Add(-20 * day)},
		"a schedule in place of a period":            {40 * day, period(30), nightly, tomorrow},
		"a period in place of a schedule":            {40 * day, nightly, period(30), now.Add(-10 * day)},
		"another schedule":                           {40 * day, nightly, key.Policy{Schedule: "0 9 * * *"}, tomorrow.Add(6 * time.Hour)},
		"a window that would reach back":             {40 * day, key.Policy{Schedule: "0 3 * * *", Window: time.Hour}, key.Policy{Schedule: "0 3 * * *", Window: day}, tomorrow},
		"a longer window of what is due":             {40 * day, key.Policy{Schedule: "0 9 * * *", Window: 2 * time.Hour}, key.Policy{Schedule: "0 9 * * *", Window: 3 * time.Hour}, now.Add(-time.Hour)},
		"the same":                                   {40 * day, period(30), period(30), now.Add(-10 * day)},
		"another soak time":                          {40 * day, period(30), key.Policy{Period: 30 * day, Soak: time.Minute}, now.Add(-10 * day)},
		"the end of a suspension":                    {40 * day, key.Policy{Period: 30 * day, Disabled: true}, period(30), now.Add(-10 * day)},
	} {
		version := key.Version{Number: 1, State: key.Current, Created: now.Add(-c.age)}
		old, k := key.Key{Policy: c.old, Versions: []key.Version{version}}, key.Key{Policy: c.new, Versions: []key.Version{version}}
		k.CountsFrom = CountsFrom(old, k, now, exactly)
		if due := Due(k, now, exactly); !due.Equal(c.due) {
			t.Errorf("%s: due at %s, want %s", name, due, c.due)
		}
	}
}

// A policy that is written while automatic rotation is disabled counts from then, too, when it is enabled.
func TestPolicyIsWrittenWhileDisabled(t *testing.T) {
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	k := key.Key{Versions: []key.Version{{Number: 1, State: key.Current, Created: now.Add(-100 * day)}}}
	write := func(p key.Policy) {
		changed := k
		changed.Policy = p
		changed.CountsFrom = CountsFrom(k, changed, now, exactly)
		k = changed
	}
	write(key.Policy{Period: 30 * day, Disabled: true})
	now = now.Add(day)
	write(key.Policy{Period: 30 * day})
	if due, want := Due(k, now, exactly), now.Add(29*day); !due.Equal(want) {
		t.Errorf("due at %s, want %s", due, want)
	}
	k.Versions = append(k.Versions, key.Version{Number: 2, State: key.Current, Created: now.Add(40 * day)})
	if due, want := Due(k, now, exactly), now.Add(70*day); !due.Equal(want) {
		t.Errorf("the next version is due at %s, want %s", due, want)
	}
}
