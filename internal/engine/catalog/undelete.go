// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// undeleteTime is for how long a version is undeleted where nothing says it: the key retains none.
const undeleteTime = 24 * time.Hour

// LongestUndelete bounds for how long a version is undeleted, unless the key retains versions for longer. A time that was
// mistyped would leave an old login valid for years.
const LongestUndelete = 30 * 24 * time.Hour

// UndeletedUntil returns the end of an undeletion that begins now; zero: a rotation ends it.
func (cat *Catalog) UndeletedUntil(k key.Key, long time.Duration) time.Time {
	if len(k.Protects) > 0 {
		return time.Time{}
	}
	if long == 0 {
		long = cat.Defaults.RetainOf(k)
	}
	if long == 0 {
		long = undeleteTime
	}
	return cat.Now().UTC().Add(long)
}

// MayUndelete refuses a version whose login cannot come back, and returns what its server is asked.
func (cat *Catalog) MayUndelete(k key.Key, v key.Version) (kind.Change, error) {
	change := kind.Change{Key: k, To: v, Kept: k.Kept}
	current, ok := k.Current()
	if !ok {
		return change, rotation.Refusef("key %s has no current version, beside which another could be accepted", k.Name)
	}
	change.From = current
	if _, has := cat.KindOf(k).(kind.Server); !has {
		return change, nil
	}
	undeleter, can := cat.KindOf(k).(kind.Undeleter)
	if !can {
		return change, rotation.Refusef("key %s is of kind %s, whose server cannot take a retired version back", k.Name, k.Kind)
	}
	if len(k.Protects) > 0 {
		return change, rotation.Refusef("key %s protects rows, and its values log in at a server, too: such a version cannot be undeleted; make two keys of it", k.Name)
	}
	var err error
	if change.Connection, err = cat.ConnectionOf(k); err != nil {
		return change, rotation.Refusef("%w", err)
	}
	if err := undeleter.CheckUndelete(change); err != nil {
		return change, rotation.Refusef("key %s: %w; nothing was changed", k.Name, err)
	}
	if err := cat.CheckHosts(k, v.Value); err != nil {
		return change, rotation.Refusef("key %s: %w; nothing was changed", k.Name, err)
	}
	if with := cat.Sharers(k, v.Value); len(with) > 0 {
		return change, rotation.Refusef("key %s: %s, the login of version %d, is that of %s now; nothing was changed", k.Name, with[0].Login, v.Number, KeysOf(with))
	}
	mine, named := cat.LoginOf(k, v.Value)
	for _, number := range k.Undeleted() {
		other, _ := k.Version(number)
		if theirs, ok := cat.LoginOf(k, other.Value); named && ok && number != v.Number && theirs.Shares(mine) {
			return change, rotation.Refusef("key %s: %s, the login of version %d, is that of version %d, which is undeleted; end that first: vault write hyvve/keys/%s/retire version=%d", k.Name, mine.Name, v.Number, number, k.Name, number)
		}
	}
	return change, nil
}

// EndsUndeleted refuses other options of a key with which the login of an undeleted version could not be ended.
func (cat *Catalog) EndsUndeleted(changed, old key.Key) error {
	undeleter, ok := cat.KindOf(old).(kind.Undeleter)
	if !ok || maps.Equal(changed.Options, old.Options) {
		return nil
	}
	connection, err := cat.ConnectionOf(changed)
	if err != nil {
		return rotation.Refusef("%w", err)
	}
	changed.Versions = old.Versions
	if number, err := undeletedBy(undeleter, changed, connection); err != nil {
		return rotation.Refusef("key %s: version %d is undeleted, and could not be ended after this change (%w); end it first: vault write hyvve/keys/%s/retire version=%d", old.Name, number, err, old.Name, number)
	}
	return nil
}

// undeletedBy returns an undeleted version of a key whose login could not be ended by way of a connection, and why.
func undeletedBy(undeleter kind.Undeleter, k key.Key, connection kind.Connection) (number int, err error) {
	current, _ := k.Current()
	for _, number := range k.Undeleted() {
		v, _ := k.Version(number)
		if err := undeleter.CheckUndelete(kind.Change{Key: k, From: current, To: v, Connection: connection}); err != nil {
			return number, err
		}
	}
	return 0, nil
}

// ConnectionEndsUndeleted refuses a change of a connection with which the login of an undeleted version could not be ended: it is the
// new administrator's, say. What could not be ended before is no reason.
func (cat *Catalog) ConnectionEndsUndeleted(changed, old kind.Connection) error {
	for _, name := range slices.Sorted(maps.Keys(cat.Keys)) {
		k := cat.Keys[name]
		undeleter, ok := cat.KindOf(k).(kind.Undeleter)
		if c, err := cat.ConnectionOf(k); !ok || err != nil || c.Name != changed.Name {
			continue
		}
		if _, err := undeletedBy(undeleter, k, old); err != nil {
			continue
		}
		if number, err := undeletedBy(undeleter, k, changed); err != nil {
			return rotation.Refusef("connection %s: version %d of key %s is undeleted, and could not be ended after this change (%w); end it first: vault write hyvve/keys/%s/retire version=%d; nothing was stored", changed.Name, number, name, err, name, number)
		}
	}
	return nil
}

// Leaked are the undeleted versions of a key that a compromised rotation ends at the server, with the one that it retires.
func (cat *Catalog) Leaked(r rotation.Rotation, k key.Key) []int {
	if _, ok := cat.KindOf(k).(kind.Server); !ok || !r.Compromised {
		return nil
	}
	return k.Undeleted()
}

// UndeleteWarnings say what an undeletion does not do by itself.
func (cat *Catalog) UndeleteWarnings(k key.Key, v key.Version) (warnings []string) {
	if len(k.Protects) > 0 {
		warnings = append(warnings, fmt.Sprintf("rows under version %d can be read again by instances that have loaded it; bring them under a new version with: vault write hyvve/rotate key=%s", v.Number, k.Name))
	}
	if _, ok := cat.KindOf(k).(kind.Server); ok {
		return warnings
	}
	verified := false
	for _, name := range slices.Sorted(maps.Keys(cat.Workloads)) {
		role := cat.Workloads[name].Keys[k.Name]
		verified = verified || role.AcceptsBoth()
		if role.Single {
			warnings = append(warnings, fmt.Sprintf("workload %s verifies %s against one value at a time (single_value): it does not accept version %d", name, k.Env, v.Number))
		}
	}
	if !verified {
		warnings = append(warnings, fmt.Sprintf("no workload has several values of %s at a time, so that none accepts version %d", k.Env, v.Number))
	}
	return warnings
}

// UndeletedClash says that the login of a new version is that of one which is undeleted; empty: it is not.
func (cat *Catalog) UndeletedClash(c rotation.Change, k key.Key, from, to key.Version) string {
	mine, ok := cat.LoginOf(k, to.Value)
	if current, has := cat.LoginOf(k, from.Value); !ok || has && current.Shares(mine) {
		return ""
	}
	for _, number := range k.Undeleted() {
		v, _ := k.Version(number)
		if theirs, ok := cat.LoginOf(k, v.Value); ok && theirs.Shares(mine) {
			return fmt.Sprintf("%s: %s, the login of the new version, is that of version %d, which is undeleted until %s; end that first: vault write hyvve/keys/%s/retire version=%d", c.Env, mine.Name, number, rotation.Stamp(v.Until), k.Name, number)
		}
	}
	return ""
}

// RetainedText says which versions there are to undelete, and which are undeleted.
func RetainedText(k key.Key) string {
	var words []string
	for _, number := range k.Retained() {
		v, _ := k.Version(number)
		words = append(words, fmt.Sprintf("%d (until %s)", number, rotation.Stamp(v.Until)))
	}
	text := "retained are: " + strings.Join(words, ", ")
	if len(words) == 0 {
		text = "no version of it is retained"
	}
	words = nil
	for _, number := range k.Undeleted() {
		v, _ := k.Version(number)
		words = append(words, fmt.Sprintf("%d (%s)", number, v.UndeletedText()))
	}
	switch {
	case len(words) > 0:
		return text + "; undeleted are: " + strings.Join(words, ", ")
	case len(k.Retained()) == 0:
		return text + ": the values of earlier versions are erased"
	}
	return text
}

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
