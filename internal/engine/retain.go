// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Before a value is erased, the engine has run for a share of its retention, an hour at most. A clock that is wrong when
// Vault starts can be corrected in this time.
const (
	settleShare = 24
	settleMost  = time.Hour
)

// RetainOf returns for how long the values of retired versions of a key are retained.
func (s *state) RetainOf(k key.Key) time.Duration { return s.Config().RetainOf(k) }

// Retention says what becomes of the values that leave, or has become of them, by key.
func (v View) Retention() map[string]string { return v.RetentionTexts(v.facts) }

// endVersions returns a key after its rotation: one version stays, and the others are retained or erased.
func (l *locked) endVersions(r rotation.Rotation, k key.Key, c rotation.Change) (key.Key, error) {
	keep, now := l.Retention(r, k, c), l.Now().UTC()
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
			k, err = catalog.Retired(k, number, keep, now)
		}
	}
	if err == nil {
		k, err = k.WithCurrent(r.Staying(c))
	}
	if err != nil {
		return k, err
	}
	return catalog.Uncrowded(k, now)
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
	k := l.Keys[name]
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
	k := l.Keys[name]
	due := slices.DeleteFunc(slices.Clone(k.Versions), func(v key.Version) bool {
		at := l.lapse(k, v)
		return at.IsZero() || at.After(now)
	})
	slices.SortStableFunc(due, func(a, b key.Version) int { return l.lapse(k, a).Compare(l.lapse(k, b)) })
	for _, v := range due {
		k = l.Keys[name]
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
	l.lock(func(m *memory) { m.Keys[k.Name] = k })
	l.planLapse(k.Name)
	l.markDirty(k.Name)
	return nil
}
