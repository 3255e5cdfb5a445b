// SPDX-License-Identifier: Apache-2.0

package key

import (
	"fmt"
	"slices"
	"time"
)

// Live reports whether a version of this state is in use, or may be: its value is at hand, and its login is needed.
func (s State) Live() bool {
	return s == Staged || s == Current || s == Previous || s == Undeleted
}

// Bounds of what a key retains, so that its record does not grow forever. What is beyond them is erased, the oldest first.
const (
	MostRetained      = 100       // versions
	MostRetainedBytes = 256 << 10 // of their values together
)

// WithRetained returns the key with the value of a version moved into quarantine until a time. The version is in no bundle
// from then on. One that is there already stays as it is.
func (k Key) WithRetained(number int, now, until time.Time) (Key, error) {
	return k.changed(number, func(v *Version) error {
		switch {
		case v.State == Retained:
			return nil
		case v.Value.Empty():
			return fmt.Errorf("key %s: version %d is %s, and there is no value to retain", k.Name, number, v.State)
		}
		v.State, v.Value, v.Sealed, v.Retired, v.Until, v.RetainedUntil = Retained, Value{}, v.Value, now, until, time.Time{}
		v.Ending, v.Cut = false, false
		return nil
	})
}

// WithCurrent returns the key with a version as its current one.
func (k Key) WithCurrent(number int) (Key, error) {
	return k.changed(number, func(v *Version) error {
		v.State = Current
		return nil
	})
}

// WithUndeleted returns the key with a retained version accepted again, until a time; the zero time: until a rotation has
// ended that retires it. Doing it to one that is undeleted changes the time, and takes back that it is ending.
func (k Key) WithUndeleted(number int, now, until time.Time) (Key, error) {
	return k.changed(number, func(v *Version) error {
		switch {
		case v.State == Retained:
			v.State, v.Value, v.Sealed, v.Retired, v.RetainedUntil = Undeleted, v.Sealed, Value{}, now, v.Until
		case v.State != Undeleted:
			return fmt.Errorf("key %s: version %d is %s, and not retained", k.Name, number, v.State)
		}
		v.Until, v.Ending, v.Cut = until, false, false
		return nil
	})
}

// WithEnding returns the key with an undeleted version whose end was decided; cut: with its sessions.
func (k Key) WithEnding(number int, cut bool) (Key, error) {
	return k.changed(number, func(v *Version) error {
		if v.State != Undeleted {
			return fmt.Errorf("key %s: version %d is %s, and not undeleted", k.Name, number, v.State)
		}
		v.Ending, v.Cut = true, v.Cut || cut
		return nil
	})
}

// UndeletedText says until when an undeleted version is accepted.
func (v Version) UndeletedText() string {
	switch {
	case v.Ending:
		return "until its server has ended it, which is under way"
	case v.Until.IsZero():
		return "until a rotation retires it"
	}
	return "until " + v.Until.UTC().Format(time.RFC3339)
}

// WithErased returns the key with the value of a version erased, wherever it was.
func (k Key) WithErased(number int) (Key, error) {
	return k.changed(number, func(v *Version) error {
		v.State, v.Value, v.Sealed, v.Until, v.RetainedUntil = Destroyed, Value{}, Value{}, time.Time{}, time.Time{}
		v.Ending, v.Cut = false, false
		return nil
	})
}

// WithEnd returns the key with another time at which the retention of a version ends.
func (k Key) WithEnd(number int, until time.Time) (Key, error) {
	return k.changed(number, func(v *Version) error {
		v.Until = until
		return nil
	})
}

func (k Key) changed(number int, change func(*Version) error) (Key, error) {
	versions := slices.Clone(k.Versions)
	for i := range versions {
		if versions[i].Number == number {
			if err := change(&versions[i]); err != nil {
				return k, err
			}
			k.Versions = versions
			return k, nil
		}
	}
	return k, fmt.Errorf("key %s, version %d: %w", k.Name, number, errNoSuchVersion)
}

// Undeleted returns the numbers of the versions that are accepted again, newest first.
func (k Key) Undeleted() []int { return k.numbers(Undeleted) }

// Retained returns the numbers of the versions in quarantine, newest first.
func (k Key) Retained() []int { return k.numbers(Retained) }

func (k Key) numbers(state State) []int {
	var all []int
	for _, v := range slices.Backward(k.Versions) {
		if v.State == state {
			all = append(all, v.Number)
		}
	}
	return all
}

// Crowded returns the numbers of the retained versions that are beyond the bounds, which leave the newest.
func (k Key) Crowded() []int {
	var over []int
	count, bytes := 0, 0
	for _, number := range k.Retained() {
		v, _ := k.Version(number)
		count, bytes = count+1, bytes+v.Sealed.Len()
		if count > 1 && (count > MostRetained || bytes > MostRetainedBytes) {
			over = append(over, number)
		}
	}
	return over
}
