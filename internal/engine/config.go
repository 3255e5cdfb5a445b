// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
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

	CutAfter time.Duration `json:"compromised_deadline"` // of a compromised rotation's steps, unless it sets one

	JournalEntries int           `json:"journal_max_entries"` // 0: no bound; also of ended rotations
	JournalAge     time.Duration `json:"journal_max_age"`     // 0: no bound; also of ended rotations
}

// DefaultConfig is what a fresh mount has.
func DefaultConfig() Config {
	return Config{
		LeaseTTL: 5 * time.Minute, TakeoverAfter: 30 * time.Second, LoginInstances: 100, Soak: 30 * time.Second, Observe: rotation.DenseTime, LookEvery: 5 * time.Minute, OnFailure: rotation.FailurePause, Confirm: rotation.ConfirmAuto, ConfirmBy: rotation.ConfirmByAny, CutAfter: time.Minute, JournalEntries: 100_000,
		Retain: 24 * time.Hour, RetainRows: 30 * 24 * time.Hour,
	}
}

// minTakeover is two signs of life of a sidecar that waits for changes.
const minTakeover = 2 * fleet.LongestWatch

// minJournal keeps at least the story of a few rotations.
const minJournal = 100

func (c Config) check() error {
	switch {
	case c.LeaseTTL < time.Second:
		return rotation.Refusef("lease_ttl %s is too short; use at least 1s (5m is the default)", c.LeaseTTL)
	case c.TakeoverAfter < minTakeover:
		return rotation.Refusef("takeover_after %s is too short for sidecars, which are heard of every %s; use at least %s (30s is the default)", c.TakeoverAfter, fleet.LongestWatch, minTakeover)
	case c.LoginInstances < 0:
		return rotation.Refusef("max_instances_per_login %d is negative; use 0 for no bound (100 is the default)", c.LoginInstances)
	case c.Soak < 0:
		return rotation.Refusef("soak %s is negative; use 0s for no soak time", c.Soak)
	case c.Observe < 0:
		return rotation.Refusef("observe %s is negative; use 0s to look at servers for the soak time only (10s is the default)", c.Observe)
	case c.LookEvery < 0 || c.LookEvery > 0 && c.LookEvery < time.Second:
		return rotation.Refusef("look_every %s is too short; use at least 1s (5m is the default), or 0s for no checks", c.LookEvery)
	case c.Deadline < 0:
		return rotation.Refusef("deadline %s is negative; use 0s for none", c.Deadline)
	case c.Retain < 0:
		return rotation.Refusef("retain %s is negative; use 0s to erase retired values at once (24h is the default)", c.Retain)
	case c.RetainRows < 0:
		return rotation.Refusef("retain_rows %s is negative; use 0s to erase retired values of keys that protect rows at once (30 days is the default)", c.RetainRows)
	case c.OnFailure != rotation.FailurePause && c.OnFailure != rotation.FailureRevert:
		return rotation.Refusef("on_failure %q is not known; use pause or revert", c.OnFailure)
	case c.Confirm != rotation.ConfirmAuto && c.Confirm != rotation.ConfirmManual:
		return rotation.Refusef("confirm %q is not known; use auto or manual", c.Confirm)
	case c.ConfirmBy != rotation.ConfirmByAny && c.ConfirmBy != rotation.ConfirmByOther:
		return rotation.Refusef("confirm_by %q is not known; use any or other", c.ConfirmBy)
	case c.CutAfter < time.Second:
		return rotation.Refusef("compromised_deadline %s is too short; use at least 1s (1m is the default)", c.CutAfter)
	case c.JournalEntries != 0 && c.JournalEntries < minJournal:
		return rotation.Refusef("journal_max_entries %d is too few; use at least %d, or 0 for no bound", c.JournalEntries, minJournal)
	case c.JournalAge < 0:
		return rotation.Refusef("journal_max_age %s is negative; use 0s for no bound", c.JournalAge)
	}
	return nil
}

// Config returns the mount-wide defaults.
func (s *state) Config() Config {
	m, unlock := s.memory.Lock()
	defer unlock()
	return m.config
}

// PutConfig replaces them.
func (e *Engine) PutConfig(ctx context.Context, c Config, by rotation.Actor) error {
	c.Confirm, c.ConfirmBy = cmp.Or(c.Confirm, rotation.ConfirmAuto), cmp.Or(c.ConfirmBy, rotation.ConfirmByAny)
	if err := c.check(); err != nil {
		return err
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	l, release := e.acquire()
	defer release()
	if err := l.floor.admits(l.config, c); err != nil {
		return err
	}
	if err := e.journal.Add(ctx, journal.Entry{What: "config written", By: by.Name, Entity: by.Entity, Changes: l.config.fields().changes(c.fields())}); err != nil {
		return err
	}
	if err := e.write(ctx, pathConfig, data); err != nil {
		return err
	}
	again := c.LookEvery != l.config.LookEvery
	e.lock(func(m *memory) { m.config = c })
	if again {
		l.planChecks(e.Now())
	}
	l.needsRetention = true
	l.markDirty()
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
