// SPDX-License-Identifier: Apache-2.0

// Package schedule says when keys rotate by themselves: by period, or by cron expression and window, and again after a
// failure. It is pure: time is an argument.
package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/duration"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Limits of what a policy may say.
const (
	// MinPeriod is the shortest rotation_period: below it a rotation would begin before the last one can have ended.
	MinPeriod = 10 * time.Second
	// MinWindow is the shortest rotation_window: a restart of Vault must fit in.
	MinWindow = time.Minute
)

// cronForm is the field's usual five fields; CRON_TZ=Area/City before them sets the zone, which is UTC otherwise.
var cronForm = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// parse refuses what is no schedule, and what never comes.
func parse(text string, now time.Time) (cron.Schedule, error) {
	if strings.HasPrefix(text, "@every") {
		return nil, fmt.Errorf("rotation_schedule %q: use rotation_period for that", text)
	}
	schedule, err := cronForm.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("rotation_schedule %q is not a cron expression of five fields, such as \"0 3 * * SUN\" or \"CRON_TZ=Europe/Berlin 0 3 * * SUN\": %w", text, err)
	}
	if schedule.Next(now.UTC()).IsZero() {
		return nil, fmt.Errorf("rotation_schedule %q never comes in the next five years; look at its day and month", text)
	}
	return schedule, nil
}

// Check names what is wrong with when a key is to rotate by itself.
func Check(p key.Policy, now time.Time) error {
	switch {
	case p.Period != 0 && p.Schedule != "":
		return errors.New("rotation_period and rotation_schedule exclude each other; set one of them to 0 or \"\"")
	case p.Period != 0 && p.Period < MinPeriod:
		return fmt.Errorf("rotation_period %s is too short; use at least %s, or 0 to rotate only when asked", duration.Text(p.Period), duration.Text(MinPeriod))
	case p.Window != 0 && p.Schedule == "":
		return errors.New("rotation_window needs a rotation_schedule that opens it; set one, or set rotation_window=0")
	case p.Window != 0 && p.Window < MinWindow:
		return fmt.Errorf("rotation_window %s is too short; use at least %s, or 0 for none", duration.Text(p.Window), duration.Text(MinWindow))
	}
	if p.Schedule != "" {
		if _, err := parse(p.Schedule, now); err != nil {
			return err
		}
	}
	return nil
}

// Jitter, so that keys made together do not rotate together: up to a share of the period, or of the window.
const (
	jitterShare = 20
	jitterMost  = 10 * time.Minute
	// Spread is over how long those are started that came due while the engine was away.
	Spread = time.Minute
)

func part(d time.Duration, share float64) time.Duration { return time.Duration(float64(d) * share) }

// Due is when a key rotates by itself, zero where it does not. A version is leased for its period: it rotates before the
// end, by up to a twentieth of it. A time of the schedule that was missed counts as long as its window is open, or for
// ever where it has none. share is how much of the jitter the key has, from 0 to 1.
func Due(k key.Key, now time.Time, share func(key.Key, string) float64) time.Time {
	current, ok := k.Current()
	switch {
	case !ok || k.Policy.Disabled:
		return time.Time{}
	case k.Policy.Period > 0:
		most := min(k.Policy.Period/jitterShare, jitterMost)
		return PeriodEnd(k).Add(-part(most, share(k, "period")))
	case k.Policy.Schedule == "":
		return time.Time{}
	}
	after := later(current.Created, k.CountsFrom)
	schedule, err := parse(k.Policy.Schedule, after)
	if err != nil {
		return time.Time{} // refused on write
	}
	if window := k.Policy.Window; window > 0 && now.Add(-window).After(after) {
		after = now.Add(-window)
	}
	at := schedule.Next(after.UTC())
	if at.IsZero() {
		return at
	}
	return at.Add(part(min(k.Policy.Window/jitterShare, jitterMost), share(k, "schedule")))
}

// PeriodEnd is when the current version is as old as rotation_period allows; zero: never.
func PeriodEnd(k key.Key) time.Time {
	current, ok := k.Current()
	if !ok || k.Policy.Disabled || k.Policy.Period <= 0 {
		return time.Time{}
	}
	return later(current.Created, k.CountsFrom).Add(k.Policy.Period)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// CountsFrom returns from when a policy counts that is written now over that of old (key.Key.CountsFrom). It makes up for no
// time before it was written:
//
//   - A schedule counts from now. So does a window, but for a time that has come and whose rotation has not begun.
//   - A period counts from when the current version was made. Where it would be over already, it counts from now; but the
//     rotation is not later than it was planned before, and what was due before stays due.
func CountsFrom(old, k key.Key, now time.Time, share func(key.Key, string) float64) time.Time {
	before, after := old.Policy, k.Policy
	if before.Period == after.Period && before.Schedule == after.Schedule && before.Window == after.Window {
		return old.CountsFrom
	}
	planned := Due(old, now, share)
	pending := !planned.IsZero() && !planned.After(now)
	if after.Schedule != "" {
		if pending && before.Schedule == after.Schedule {
			return old.CountsFrom
		}
		return now
	}
	k.CountsFrom, k.Policy.Disabled = old.CountsFrom, false
	if due := Due(k, now, share); due.IsZero() || due.After(now) || pending {
		return old.CountsFrom
	}
	k.CountsFrom = now
	if late := Due(k, now, share).Sub(planned); !planned.IsZero() && late > 0 {
		return now.Add(-late)
	}
	return now
}

// SpreadOver returns a share of the time over which those are started that came due while the engine was away, at most
// of another time.
func SpreadOver(most time.Duration, share float64) time.Duration {
	return part(min(most, Spread), share)
}
