// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Before a value is erased, the engine has run for a share of its retention, an hour at most. A clock that is wrong when
// Vault starts can be corrected in this time.
const (
	settleShare = 24
	settleMost  = time.Hour
)

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

// RetainOf returns for how long the values of retired versions of a key are retained.
func (e *Engine) RetainOf(k key.Key) time.Duration { return e.Config().RetainOf(k) }

// retention returns for how long a rotation retains the version that leaves; 0: it is erased at once. The writer lock is
// held, or mu.
func (e *Engine) retention(r rotation.Rotation, k key.Key, c rotation.Change) time.Duration {
	keep := e.config.RetainOf(k)
	if r.Retain != nil {
		keep = *r.Retain
	}
	server, has := e.kindOf(k).(kind.Server)
	_, undeletes := server.(kind.Undeleter)
	switch {
	case has && (r.Compromised || !undeletes):
		return 0 // it must never log in again, or cannot
	case r.State == rotation.Reverting && (len(c.Protects) == 0 || !r.Presented()):
		return 0 // no row is under it, and nobody relies on it
	}
	return keep
}

// Retention says what becomes of the values that leave, or has become of them, by key.
func (v View) Retention() map[string]string { return v.RetentionTexts(v.facts) }

// retentionNote says in a plan what becomes of the old version's value, and how it is brought back. The writer lock is held.
func (e *Engine) retentionNote(r rotation.Rotation, k key.Key, c rotation.Change) string {
	keep := e.retention(r, k, c)
	text := r.KeepText(c, rotation.Facts{Keeps: map[string]time.Duration{c.Key: keep}})
	if keep == 0 {
		return text
	}
	return fmt.Sprintf("%s; until then it can be brought back with: vault write hyvve/keys/%s/undelete version=%d", text, k.Name, c.From)
}

// endVersions returns a key after its rotation: one version stays, and the others are retained or erased. The writer lock
// is held.
func (e *Engine) endVersions(r rotation.Rotation, k key.Key, c rotation.Change) (key.Key, error) {
	keep, now := e.retention(r, k, c), e.Now().UTC()
	leaving := []int{r.Leaving(c)}
	v, stored := k.Version(leaving[0])
	var err error
	switch {
	case keep > 0 && stored && (v.State.Live() || v.State == key.Retained):
	case r.State == rotation.Reverting:
		k, err = k.Reverted(c.From, c.To)
		leaving = nil
	default:
		k, err = k.Retired(c.From, c.To)
		leaving = nil
	}
	if r.State == rotation.Retiring {
		leaving = append(leaving, c.Also...)
	}
	for _, number := range leaving {
		if err == nil {
			k, err = retired(k, number, keep, now)
		}
	}
	if err == nil {
		k, err = k.WithCurrent(r.Staying(c))
	}
	if err != nil {
		return k, err
	}
	return uncrowded(k, now)
}

// retired returns a key with a version retained for a time, or erased where the time is 0. One that was undeleted is retained at
// least until its retention would have ended without that.
func retired(k key.Key, number int, keep time.Duration, now time.Time) (key.Key, error) {
	v, _ := k.Version(number)
	if v.State == key.Retained {
		return k, nil // by a call that was cut short
	}
	if keep = max(keep, v.RetainedUntil.Sub(now)); keep <= 0 {
		return k.WithErased(number)
	}
	return k.WithRetained(number, now, now.Add(keep))
}

// uncrowded ends the retention of what is beyond the bounds.
func uncrowded(k key.Key, now time.Time) (key.Key, error) {
	var err error
	for _, number := range k.Crowded() {
		if v, _ := k.Version(number); v.Until.After(now) && err == nil {
			k, err = k.WithEnd(number, now)
		}
	}
	return k, err
}

// alsoAccepted are the undeleted versions of a key that workloads verify. A server verifies logins, and knows nothing of
// accept-lists.
func (e *Engine) alsoAccepted(k key.Key) []int {
	if _, ok := e.kindOf(k).(kind.Server); ok {
		return nil
	}
	return k.Undeleted()
}

// steady is now by a clock that cannot jump ahead: since the engine was opened, no more time has passed than by Uptime. A
// value that is erased by mistake is lost.
func (e *Engine) steady(now time.Time) time.Time {
	most := e.opened.Round(0).Add(e.Uptime() - e.openedUp) // times of the wall are compared
	if now = now.Round(0); now.After(most) {
		return most
	}
	return now
}

// planLapse puts the next end of a key's versions on the agenda, and forgets what failed of those that have ended. The writer
// lock is held.
func (e *Engine) planLapse(name string) {
	var next time.Time
	k := e.keys[name]
	e.lock(func() {
		maps.DeleteFunc(e.lapsing, func(of versionID, _ schedule.Fault) bool {
			v, _ := k.Version(of.number)
			return of.key == name && v.State != key.Undeleted
		})
	})
	for _, v := range k.Versions {
		if at := e.lapse(k, v); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	e.lapses.Set(name, next)
}

// lapseDue erases what has been retained for long enough, retires undeleted versions whose time is over, and returns how
// long until the next one. The writer lock is held.
func (e *Engine) lapseDue(ctx context.Context, now time.Time) time.Duration {
	now = e.steady(now)
	for {
		first, ok := e.lapses.Next()
		if !ok {
			return tickEvery
		}
		if left := first.At.Sub(now); left > 0 {
			return min(tickEvery, left)
		}
		if err := e.lapseOne(ctx, first.Key, now); err != nil {
			e.Observer.Fault("the end of a version of key "+first.Key, err)
			return tickEvery
		}
	}
}

// lapseOne ends what is due of a key, first what has waited longest: one version of it at a time is at the server. The error is
// one of storage.
func (e *Engine) lapseOne(ctx context.Context, name string, now time.Time) error {
	k := e.keys[name]
	due := slices.DeleteFunc(slices.Clone(k.Versions), func(v key.Version) bool {
		at := e.lapse(k, v)
		return at.IsZero() || at.After(now)
	})
	slices.SortStableFunc(due, func(a, b key.Version) int { return e.lapse(k, a).Compare(e.lapse(k, b)) })
	for _, v := range due {
		k = e.keys[name]
		if v.State == key.Undeleted {
			if err := e.endUndeleted(ctx, k, v); err != nil {
				return err
			}
			continue
		}
		text := fmt.Sprintf("erased version %d of %s, retained until %s", v.Number, name, rotation.Stamp(v.Until))
		if err := e.eraseVersion(ctx, k, v, text, rotation.Itself, ""); err != nil {
			return err
		}
	}
	e.planLapse(name)
	return nil
}

// eraseVersion erases a retained value. The entry is written before, so that no value goes without one: killed in between,
// it is erased, and journaled, once more. The writer lock is held.
func (e *Engine) eraseVersion(ctx context.Context, k key.Key, v key.Version, what string, by rotation.Actor, reason string) error {
	changed, err := k.WithErased(v.Number)
	if err != nil {
		return err
	}
	return e.storeVersion(ctx, changed, v, what, by, reason)
}

// storeVersion journals what is done to a version, and stores its key. The writer lock is held.
func (e *Engine) storeVersion(ctx context.Context, k key.Key, v key.Version, what string, by rotation.Actor, reason string, changes ...rotation.EntryChange) error {
	err := e.journal.Add(ctx, journal.Entry{
		What: what, By: by.Name, Entity: by.Entity, Reason: reason, Changes: changes,
		Keys: []journal.Key{{Key: k.Name, To: v.Number, Fingerprint: v.Fingerprint}},
	})
	if err != nil {
		return err
	}
	if err := e.put(ctx, pathKeys+k.Name, k); err != nil {
		return err
	}
	e.lock(func() { e.keys[k.Name] = k })
	e.planLapse(k.Name)
	e.ring(k.Name)
	return nil
}
