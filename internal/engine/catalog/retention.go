// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Retention returns for how long a rotation retains the version that leaves; 0: it is erased at once.
func (cat *Catalog) Retention(r rotation.Rotation, k key.Key, c rotation.Change) time.Duration {
	keep := cat.Defaults.RetainOf(k)
	if r.Retain != nil {
		keep = *r.Retain
	}
	server, has := cat.KindOf(k).(kind.Server)
	_, undeletes := server.(kind.Undeleter)
	switch {
	case has && (r.Compromised || !undeletes):
		return 0 // it must never log in again, or cannot
	case r.State == rotation.Reverting && (len(c.Protects) == 0 || !r.Presented()):
		return 0 // no row is under it, and nobody relies on it
	}
	return keep
}

// RetentionNote says in a plan what becomes of the old version's value, and how it is brought back.
func (cat *Catalog) RetentionNote(r rotation.Rotation, k key.Key, c rotation.Change) string {
	keep := cat.Retention(r, k, c)
	text := r.KeepText(c, rotation.Facts{Keeps: map[string]time.Duration{c.Key: keep}})
	if keep == 0 {
		return text
	}
	return fmt.Sprintf("%s; until then it can be brought back with: vault write hyvve/keys/%s/undelete version=%d", text, k.Name, c.From)
}

// AlsoAccepted are the undeleted versions of a key that workloads verify. A server verifies logins, and knows nothing of
// accept-lists.
func (cat *Catalog) AlsoAccepted(k key.Key) []int {
	if _, ok := cat.KindOf(k).(kind.Server); ok {
		return nil
	}
	return k.Undeleted()
}

// Retired returns a key with a version retained for a time, or erased where the time is 0. One that was undeleted is retained at
// least until its retention would have ended without that.
func Retired(k key.Key, number int, keep time.Duration, now time.Time) (key.Key, error) {
	v, _ := k.Version(number)
	if v.State == key.Retained {
		return k, nil // by a call that was cut short
	}
	if keep = max(keep, v.RetainedUntil.Sub(now)); keep <= 0 {
		return k.WithErased(number)
	}
	return k.WithRetained(number, now, now.Add(keep))
}

// Uncrowded ends the retention of what is beyond the bounds.
func Uncrowded(k key.Key, now time.Time) (key.Key, error) {
	var err error
	for _, number := range k.Crowded() {
		if v, _ := k.Version(number); v.Until.After(now) && err == nil {
			k, err = k.WithEnd(number, now)
		}
	}
	return k, err
}

// Expired reports whether retention takes away a record of that age, with so many newer ones: one of the configuration's
// bounds says so, and the floor does not keep it.
func (cat *Catalog) Expired(newer uint64, age time.Duration) bool {
	if newer < uint64(cat.JournalFloor.Entries) || age <= cat.JournalFloor.Age { //nolint:gosec // no floor is negative
		return false
	}
	tooMany := cat.Defaults.JournalEntries > 0 && newer >= uint64(cat.Defaults.JournalEntries)
	return tooMany || cat.Defaults.JournalAge > 0 && age > cat.Defaults.JournalAge
}
