// SPDX-License-Identifier: Apache-2.0

package key

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// schema is the number of the stored form below. A release reads its own schema and all older ones:
//   - 1 had only period and soak of the policy
//   - 2 had no columns to ignore
//   - 3 had no observe in the policy, no kept, no above, and no policy_by
//   - 4 had no witness and retained no versions; a release that knows no more must not read one that does, since it knows
//     neither the states nor when a value is to be erased
//   - 5 had ignore_columns under an older name
//   - 6 had no counts_from: each policy counted from when the current version was made
//   - 7 had no handles; a release that knows no more could not revoke what a provider has made
const schema = 8

type record struct {
	Schema        int               `json:"schema"`
	Name          string            `json:"name"`
	Env           string            `json:"env"`
	Kind          string            `json:"kind"`
	Options       map[string]string `json:"options,omitempty"`
	Protects      []Column          `json:"protects,omitempty"`
	IgnoreColumns []string          `json:"ignore_columns,omitempty"`
	Waives        []string          `json:"waives,omitempty"` // the name of IgnoreColumns before schema 6
	Witness       string            `json:"witness,omitempty"`
	Policy        Policy            `json:"policy"`
	PolicyBy      string            `json:"policy_by,omitempty"`
	CountsFrom    time.Time         `json:"counts_from,omitzero"`
	Created       time.Time         `json:"created"`
	Versions      []recordVersion   `json:"versions,omitempty"`
	Kept          string            `json:"kept,omitempty"`
	Above         int               `json:"above,omitempty"`
}

type recordVersion struct {
	Number      int       `json:"number"`
	State       State     `json:"state"`
	Value       string    `json:"value,omitempty"`
	Fingerprint string    `json:"fingerprint"`
	Created     time.Time `json:"created"`
	CreatedBy   string    `json:"created_by,omitempty"`
	Rotation    string    `json:"rotation,omitempty"`
	Handle      string    `json:"handle,omitempty"`
	Login       string    `json:"login,omitempty"`
	Retired     time.Time `json:"retired,omitzero"`
	Sealed      string    `json:"sealed,omitempty"`
	Until       time.Time `json:"until,omitzero"`

	RetainedUntil time.Time `json:"retained_until,omitzero"`
	Ending        bool      `json:"ending,omitempty"`
	Cut           bool      `json:"cut,omitempty"`
}

// Encode returns the stored form, values included: for the barrier-encrypted storage only.
func (k Key) Encode() ([]byte, error) {
	r := record{
		Schema: schema, Name: k.Name, Env: k.Env, Kind: k.Kind, Options: k.Options,
		Protects: k.Protects, IgnoreColumns: k.IgnoreColumns, Witness: k.Witness, Policy: k.Policy, PolicyBy: k.PolicyBy, CountsFrom: k.CountsFrom, Created: k.Created, Kept: k.Kept, Above: k.Above,
	}
	for _, v := range k.Versions {
		r.Versions = append(r.Versions, recordVersion{
			v.Number, v.State, v.Value.Reveal(), v.Fingerprint, v.Created, v.CreatedBy, v.Rotation, v.Handle, v.Login, v.Retired, v.Sealed.Reveal(), v.Until, v.RetainedUntil, v.Ending, v.Cut,
		})
	}
	return json.Marshal(r)
}

// Decode reads the stored form and refuses what no Encode can have written. Errors never hold a value.
func Decode(data []byte) (Key, error) {
	var r record
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return Key{}, errors.New("stored key: not a record of this schema") // the JSON error may quote a value
	}
	if r.Schema < 1 || r.Schema > schema {
		return Key{}, fmt.Errorf("stored key %q has schema %d, this release reads 1 to %d; use the release that wrote it or a newer one", r.Name, r.Schema, schema)
	}
	k := Key{
		Name: r.Name, Env: r.Env, Kind: r.Kind, Options: r.Options,
		Protects: r.Protects, IgnoreColumns: r.IgnoreColumns, Witness: r.Witness, Policy: r.Policy, PolicyBy: r.PolicyBy, CountsFrom: r.CountsFrom, Created: r.Created, Kept: r.Kept, Above: r.Above,
	}
	if r.Schema < 6 {
		k.IgnoreColumns = r.Waives
	}
	if r.Schema == 1 {
		k.Policy.Deadline = Inherit
	}
	if r.Schema < 4 {
		k.Policy.Observe = Inherit
	}
	if r.Schema < 5 {
		k.Policy.Retain = Inherit
	}
	last := 0
	for _, v := range r.Versions {
		if v.Number <= last {
			return Key{}, fmt.Errorf("stored key %q: version %d stands after version %d", r.Name, v.Number, last)
		}
		last = v.Number
		if err := v.check(); err != nil {
			return Key{}, fmt.Errorf("stored key %q: version %d %w", r.Name, v.Number, err)
		}
		k.Versions = append(k.Versions, Version{
			v.Number, v.State, NewValue(v.Value), v.Fingerprint, v.Created, v.CreatedBy, v.Rotation, v.Handle, v.Login, v.Retired, sealed(v.Sealed), v.Until, v.RetainedUntil, v.Ending, v.Cut,
		})
	}
	return k, ValidateName("stored key", k.Name)
}

// check refuses a version whose value is not where its state says.
func (v recordVersion) check() error {
	if (v.Ending || v.Cut) && v.State != Undeleted {
		return fmt.Errorf("is %s, and ends as an undeleted one", v.State)
	}
	switch v.State {
	case Staged, Current, Previous, Undeleted:
		if v.Value == "" {
			return fmt.Errorf("is %s but has no value", v.State)
		}
	case Retained:
		if v.Sealed == "" || v.Value != "" {
			return errors.New("is retained, and its value is not in quarantine")
		}
	case Destroyed, Aborted:
	default:
		return fmt.Errorf("has unknown state %q", v.State)
	}
	return nil
}

// sealed is the zero Value where there is none.
func sealed(text string) Value {
	if text == "" {
		return Value{}
	}
	return NewValue(text)
}

// Live reports whether a version of this state is in use, or may be: its value is at hand, and its login is needed.
func (s State) Live() bool {
	return s == Staged || s == Current || s == Previous || s == Undeleted
}

// Bounds of what a key retains, so that its record does not grow forever. What is beyond them is erased, the oldest first.
const (
	MaxRetained      = 100       // versions
	MaxRetainedBytes = 256 << 10 // of their values together
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

// WithRotation returns the key with a version that another rotation brings, and whether that is news.
func (k Key) WithRotation(number int, id string) (Key, bool) {
	news := false
	changed, err := k.changed(number, func(v *Version) error {
		news, v.Rotation = v.Rotation != id, id
		return nil
	})
	return changed, news && err == nil
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
		if count > 1 && (count > MaxRetained || bytes > MaxRetainedBytes) {
			over = append(over, number)
		}
	}
	return over
}
