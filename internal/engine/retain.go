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
func (s *state) RetainOf(k key.Key) time.Duration { return s.Config().RetainOf(k) }

// retention returns for how long a rotation retains the version that leaves; 0: it is erased at once.
func (cat *catalog) retention(r rotation.Rotation, k key.Key, c rotation.Change) time.Duration {
	keep := cat.config.RetainOf(k)
	if r.Retain != nil {
		keep = *r.Retain
	}
	server, has := cat.kindOf(k).(kind.Server)
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

// retentionNote says in a plan what becomes of the old version's value, and how it is brought back.
func (cat *catalog) retentionNote(r rotation.Rotation, k key.Key, c rotation.Change) string {
	keep := cat.retention(r, k, c)
	text := r.KeepText(c, rotation.Facts{Keeps: map[string]time.Duration{c.Key: keep}})
	if keep == 0 {
		return text
	}
	return fmt.Sprintf("%s; until then it can be brought back with: vault write hyvve/keys/%s/undelete version=%d", text, k.Name, c.From)
}

// endVersions returns a key after its rotation: one version stays, and the others are retained or erased.
func (l *locked) endVersions(r rotation.Rotation, k key.Key, c rotation.Change) (key.Key, error) {
	keep, now := l.retention(r, k, c), l.Now().UTC()
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
func (cat *catalog) alsoAccepted(k key.Key) []int {
	if _, ok := cat.kindOf(k).(kind.Server); ok {
		return nil
	}
	return k.Undeleted()
}

// steady is now by a clock that cannot jump ahead: since the engine was opened, no more time has passed than by Uptime. A
// value that is erased by mistake is lost.
func (c timing) steady(now time.Time) time.Time {
	most := c.opened.Round(0).Add(c.Uptime() - c.openedUp) // times of the wall are compared
	if now = now.Round(0); now.After(most) {
		return most
	}
	return now
}

// planLapse puts the next end of a key's versions on the agenda, and forgets what failed of those that have ended.
func (l *locked) planLapse(name string) {
	var next time.Time
	k := l.keys[name]
	l.lock(func(m *memory) {
		maps.DeleteFunc(m.lapsing, func(of versionID, _ schedule.Fault) bool {
			v, _ := k.Version(of.number)
			return of.key == name && v.State != key.Undeleted
		})
	})
	for _, v := range k.Versions {
		if at := l.lapse(k, v); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	l.lapses.Set(name, next)
}

// lapseDue erases what has been retained for long enough, retires undeleted versions whose time is over, and returns how
// long until the next one.
func (l *locked) lapseDue(ctx context.Context, now time.Time) time.Duration {
	now = l.steady(now)
	for {
		first, ok := l.lapses.Next()
		if !ok {
			return tickEvery
		}
		if left := first.At.Sub(now); left > 0 {
			return min(tickEvery, left)
		}
		if err := l.lapseOne(ctx, first.Key, now); err != nil {
			l.Observer.Fault("the end of a version of key "+first.Key, err)
			return tickEvery
		}
	}
}

// lapseOne ends what is due of a key, first what has waited longest: one version of it at a time is at the server. The error is
// one of storage.
func (l *locked) lapseOne(ctx context.Context, name string, now time.Time) error {
	k := l.keys[name]
	due := slices.DeleteFunc(slices.Clone(k.Versions), func(v key.Version) bool {
		at := l.lapse(k, v)
		return at.IsZero() || at.After(now)
	})
	slices.SortStableFunc(due, func(a, b key.Version) int { return l.lapse(k, a).Compare(l.lapse(k, b)) })
	for _, v := range due {
		k = l.keys[name]
		if v.State == key.Undeleted {
			if err := l.endUndeleted(ctx, k, v); err != nil {
				return err
			}
			continue
		}
		text := fmt.Sprintf("erased version %d of %s, retained until %s", v.Number, name, rotation.Stamp(v.Until))
		if err := l.eraseVersion(ctx, k, v, text, rotation.Itself, ""); err != nil {
			return err
		}
	}
	l.planLapse(name)
	return nil
}

// eraseVersion erases a retained value. The entry is written before, so that no value goes without one: killed in between,
// it is erased, and journaled, once more.
func (l *locked) eraseVersion(ctx context.Context, k key.Key, v key.Version, what string, by rotation.Actor, reason string) error {
	changed, err := k.WithErased(v.Number)
	if err != nil {
		return err
	}
	return l.storeVersion(ctx, changed, v, what, by, reason)
}

// storeVersion journals what is done to a version, and stores its key.
func (l *locked) storeVersion(ctx context.Context, k key.Key, v key.Version, what string, by rotation.Actor, reason string, changes ...rotation.EntryChange) error {
	err := l.journal.Add(ctx, journal.Entry{
		What: what, By: by.Name, Entity: by.Entity, Reason: reason, Changes: changes,
		Keys: []journal.Key{{Key: k.Name, To: v.Number, Fingerprint: v.Fingerprint}},
	})
	if err != nil {
		return err
	}
	if err := l.put(ctx, pathKeys+k.Name, k); err != nil {
		return err
	}
	l.lock(func(m *memory) { m.keys[k.Name] = k })
	l.planLapse(k.Name)
	l.markDirty(k.Name)
	return nil
}
