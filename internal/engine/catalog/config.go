// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Config is the mount-wide defaults.
type Config struct {
	LeaseTTL time.Duration `json:"lease_ttl"` // of bundles
	// TakeoverAfter is how long nothing must have been heard of an instance before another login of its entity may use its name.
	TakeoverAfter time.Duration `json:"takeover_after"`
	// LoginInstances is how many instances of a workload one login may have; 0: no bound.
	LoginInstances int `json:"max_instances_per_login"`

	Soak      time.Duration `json:"soak"`       // of keys that set none
	Observe   time.Duration `json:"observe"`    // of keys that set none
	Deadline  time.Duration `json:"deadline"`   // of keys that set none; 0: none
	OnFailure string        `json:"on_failure"` // of keys that set none
	Confirm   string        `json:"confirm"`    // of keys that set none
	ConfirmBy string        `json:"confirm_by"` // of keys that set none

	LookEvery time.Duration `json:"look_every"` // between checks of keys and connections at their servers; 0: none

	Retain     time.Duration `json:"retain"`      // of keys that set none and protect no rows
	RetainRows time.Duration `json:"retain_rows"` // of keys that set none and protect rows

	Tripwires time.Duration `json:"tripwire_retention"` // for how long retired versions are looked for; 0: not at all

	CutAfter time.Duration `json:"compromised_deadline"` // of a compromised rotation's steps, unless it sets one

	JournalEntries int           `json:"journal_max_entries"` // 0: no bound; also of ended rotations
	JournalAge     time.Duration `json:"journal_max_age"`     // 0: no bound; also of ended rotations
}

// DefaultConfig is what a fresh mount has.
func DefaultConfig() Config {
	return Config{
		LeaseTTL: 5 * time.Minute, TakeoverAfter: 30 * time.Second, LoginInstances: 100, Soak: 30 * time.Second, Observe: rotation.DenseTime, LookEvery: 5 * time.Minute, OnFailure: rotation.FailurePause, Confirm: rotation.ConfirmAuto, ConfirmBy: rotation.ConfirmByAny, CutAfter: time.Minute, JournalEntries: 100_000,
		Retain: 24 * time.Hour, RetainRows: 30 * 24 * time.Hour, Tripwires: 30 * 24 * time.Hour,
	}
}

// MinTakeover is two signs of life of a sidecar that waits for changes.
const MinTakeover = 2 * fleet.LongestWatch

// LongestTripwire bounds for how long retired versions are looked for.
const LongestTripwire = 10 * 365 * 24 * time.Hour

// MinJournal keeps at least the story of a few rotations.
const MinJournal = 100

// Check refuses what no mount can be configured to.
func (c Config) Check() error {
	switch {
	case c.LeaseTTL < time.Second:
		return rotation.Refusef("lease_ttl %s is too short; use at least 1s (5m is the default)", duration.Text(c.LeaseTTL))
	case c.TakeoverAfter < MinTakeover:
		return rotation.Refusef("takeover_after %s is too short for sidecars, which are heard of every %s; use at least %s (30s is the default)", duration.Text(c.TakeoverAfter), duration.Text(fleet.LongestWatch), duration.Text(MinTakeover))
	case c.LoginInstances < 0:
		return rotation.Refusef("max_instances_per_login %d is negative; use 0 for no bound (100 is the default)", c.LoginInstances)
	case c.Soak < 0:
		return rotation.Refusef("soak %s is negative; use 0s for no soak time", duration.Text(c.Soak))
	case c.Observe < 0:
		return rotation.Refusef("observe %s is negative; use 0s to look at servers for the soak time only (10s is the default)", duration.Text(c.Observe))
	case c.LookEvery < 0 || c.LookEvery > 0 && c.LookEvery < time.Second:
		return rotation.Refusef("look_every %s is too short; use at least 1s (5m is the default), or 0s for no checks", duration.Text(c.LookEvery))
	case c.Deadline < 0:
		return rotation.Refusef("deadline %s is negative; use 0s for none", duration.Text(c.Deadline))
	case c.Retain < 0:
		return rotation.Refusef("retain %s is negative; use 0s to erase retired values at once (24h is the default)", duration.Text(c.Retain))
	case c.RetainRows < 0:
		return rotation.Refusef("retain_rows %s is negative; use 0s to erase retired values of keys that protect rows at once (30 days is the default)", duration.Text(c.RetainRows))
	case c.Tripwires < 0:
		return rotation.Refusef("tripwire_retention %s is negative; use 0s to look for no retired version (30 days is the default)", duration.Text(c.Tripwires))
	case c.Tripwires > LongestTripwire:
		return rotation.Refusef("tripwire_retention %s is too long; use at most %s (30 days is the default)", duration.Text(c.Tripwires), duration.Text(LongestTripwire))
	case c.OnFailure != rotation.FailurePause && c.OnFailure != rotation.FailureRevert:
		return rotation.Refusef("on_failure %q is not known; use pause or revert", c.OnFailure)
	case c.Confirm != rotation.ConfirmAuto && c.Confirm != rotation.ConfirmManual:
		return rotation.Refusef("confirm %q is not known; use auto or manual", c.Confirm)
	case c.ConfirmBy != rotation.ConfirmByAny && c.ConfirmBy != rotation.ConfirmByOther:
		return rotation.Refusef("confirm_by %q is not known; use any or other", c.ConfirmBy)
	case c.CutAfter < time.Second:
		return rotation.Refusef("compromised_deadline %s is too short; use at least 1s (1m is the default)", duration.Text(c.CutAfter))
	case c.JournalEntries != 0 && c.JournalEntries < MinJournal:
		return rotation.Refusef("journal_max_entries %d is too few; use at least %d, or 0 for no bound", c.JournalEntries, MinJournal)
	case c.JournalAge < 0:
		return rotation.Refusef("journal_max_age %s is negative; use 0s for no bound", duration.Text(c.JournalAge))
	}
	return nil
}

// Effective returns a policy with the mount's defaults in the place of what it inherits.
func (c Config) Effective(p key.Policy) key.Policy {
	if p.Soak == key.Inherit {
		p.Soak = c.Soak
	}
	if p.Observe == key.Inherit {
		p.Observe = c.Observe
	}
	if p.Deadline == key.Inherit {
		p.Deadline = c.Deadline
	}
	if p.OnFailure == "" {
		p.OnFailure = c.OnFailure
	}
	if p.Confirm == "" {
		p.Confirm = c.Confirm
	}
	if p.ConfirmBy == "" {
		p.ConfirmBy = c.ConfirmBy
	}
	if p.ConfirmBy == rotation.ConfirmByOther { // nobody's word would be asked for otherwise
		p.Confirm = rotation.ConfirmManual
	}
	return p
}

// RetainOf returns for how long the values of retired versions of a key are retained: as the key says, or as the
// configuration does.
func (c Config) RetainOf(k key.Key) time.Duration {
	switch {
	case k.Policy.Retain != key.Inherit:
		return k.Policy.Retain
	case len(k.Protects) > 0:
		return c.RetainRows
	}
	return c.Retain
}

// CheckPolicyBy refuses a key that rotates by itself and whose rotations another user has to confirm, where nobody knows who has said
// when it does: everybody could be another user than that one.
func (c Config) CheckPolicyBy(k key.Key) error {
	p := c.Effective(k.Policy)
	if p.ConfirmBy != rotation.ConfirmByOther || p.Disabled || p.Period <= 0 && p.Schedule == "" || k.PolicyBy != "" {
		return nil
	}
	return fmt.Errorf("key %s rotates by itself (rotation_period, rotation_schedule), and another user than the one who wrote that has to confirm (confirm_by=other), but the token that wrote it has no entity; write it with a login that has one: vault write hyvve/keys/%s confirm_by=other; %s", k.Name, k.Name, rotation.LoginHint)
}

// Floor is what retention never goes below, whatever the configuration says: a journal entry, or an ended rotation, stays
// while it is among the newest Entries, and while it is not older than Age. Whichever keeps more holds.
type Floor struct {
	Entries int           `json:"min_entries"`
	Age     time.Duration `json:"min_age"`
}

// DefaultFloor is what a mount has until somebody sets another.
func DefaultFloor() Floor { return Floor{Entries: 10_000, Age: 90 * 24 * time.Hour} }

// Check refuses what is no floor.
func (f Floor) Check() error {
	switch {
	case f.Entries < MinJournal:
		return rotation.Refusef("min_entries %d is too few; use at least %d (10000 is the default)", f.Entries, MinJournal)
	case f.Age < 0:
		return rotation.Refusef("min_age %s is negative; use 0s to go by min_entries alone (2160h, which is 90 days, is the default)", duration.Text(f.Age))
	}
	return nil
}

// Admits refuses bounds of the configuration below the floor. Bounds that stay as they are were set before the floor was,
// and are no mistake of a user who changes something else; the floor holds nevertheless.
func (f Floor) Admits(old, c Config) error {
	const remedy = "the floor of hyvve/journal/config, which an auditor may lower"
	switch {
	case c.JournalEntries != old.JournalEntries && c.JournalEntries != 0 && c.JournalEntries < f.Entries:
		return rotation.Refusef("journal_max_entries %d is below %d, %s; use at least that, or 0 for no bound", c.JournalEntries, f.Entries, remedy)
	case c.JournalAge != old.JournalAge && c.JournalAge != 0 && c.JournalAge < f.Age:
		return rotation.Refusef("journal_max_age %s is below %s, %s; use at least that, or 0s for no bound", duration.Text(c.JournalAge), duration.Text(f.Age), remedy)
	}
	return nil
}
