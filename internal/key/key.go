// SPDX-License-Identifier: Apache-2.0

// Package key holds what the system rotates: keys, their versions, opaque values and the columns they protect. It uses
// the standard library only, takes time and randomness as arguments, and logs nothing.
package key

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// State is where a version is in its life.
type State string

// The states of a version. A version ends as Destroyed or Aborted, and its value is gone then. Before that it is Retained
// for a time, in quarantine, from which an operator may bring it back as Undeleted.
const (
	Staged    State = "staged"    // stored, on its way; not yet what the platform relies on
	Current   State = "current"   // the one to present
	Previous  State = "previous"  // still accepted, until evidence says that nobody uses it
	Retained  State = "retained"  // retired; the value is kept in quarantine, and in no bundle
	Undeleted State = "undeleted" // accepted again beside the current one, since an operator brought it back
	Destroyed State = "destroyed" // retired; the value is erased
	Aborted   State = "aborted"   // its rotation was reverted; the value is erased
)

// Version is one value of a key.
type Version struct {
	Number      int
	State       State
	Value       Value
	Fingerprint string // of a Fingerprinter; tells values apart and reveals none
	Created     time.Time
	CreatedBy   string // display name of who asked for it
	Rotation    string // id of the rotation that brought it, empty where it was imported
	// Handle is what a server that has made the value itself calls the version, as its kind writes it. It is no secret. A Staged
	// version whose server makes it has an order in place of its value until then (kind.Issuer).
	Handle string

	// Login is as whom a version logged in that a server has retired. Retired is when it was retired last, or undeleted.
	Login   string
	Retired time.Time

	// Sealed is the value of a Retained version. It is not in Value, so that nothing takes it for one that may be used.
	Sealed Value
	// Until is when the retention of a Retained version ends, or the time for which an Undeleted one is accepted. The zero
	// time: an Undeleted version is accepted until a rotation has retired it.
	Until time.Time
	// RetainedUntil is when the retention of an Undeleted version would have ended.
	RetainedUntil time.Time
	// Ending says of an Undeleted version that its end was decided: its server is about to lock its login. Cut: with its
	// sessions, although it is in use.
	Ending, Cut bool
}

// Inherit as Policy.Soak, Policy.Observe, Policy.Deadline or Policy.Retain stands for the mount's default.
const Inherit = -1

// Policy says when a key rotates by itself and how careful a rotation of it is. With neither Period nor Schedule it
// rotates only when asked.
type Policy struct {
	Period   time.Duration `json:"period"`             // between rotations
	Schedule string        `json:"schedule,omitempty"` // cron, five fields, with an optional CRON_TZ=Area/City before
	Window   time.Duration `json:"window,omitempty"`   // after a time of Schedule, in which a rotation may start
	Disabled bool          `json:"disabled,omitempty"` // automatic rotation is off, whatever Period and Schedule say

	Soak      time.Duration `json:"soak"`                 // how long the new version must work before the old one may go
	Observe   time.Duration `json:"observe"`              // for how long no server may see the old version used before it may go
	Deadline  time.Duration `json:"deadline,omitempty"`   // how long a step may take before the rotation has failed
	OnFailure string        `json:"on_failure,omitempty"` // pause or revert
	Confirm   string        `json:"confirm,omitempty"`    // auto, or manual: somebody confirms before the old version goes
	ConfirmBy string        `json:"confirm_by,omitempty"` // any, or other: never the user who started the rotation
	Retain    time.Duration `json:"retain"`               // for how long the value of a retired version is kept in quarantine; 0: not at all
}

// Key is a named secret of the platform.
type Key struct {
	Name          string
	Env           string // environment name, such as DATABASE_URL
	Kind          string
	Options       map[string]string // of its kind
	Protects      []Column
	IgnoreColumns []string // columns in which envelopes may stay that nobody re-encrypts, as Column.String writes them
	Witness       string   // the connection by which the engine looks at the rows itself before a value is erased; "none": one instance's word is enough
	Policy        Policy
	PolicyBy      string // entity id of the user who last changed Policy, empty where that is not known
	// CountsFrom is from when Period and Schedule count, where they were written after the current version was made and
	// would have been due before.
	CountsFrom time.Time
	Created    time.Time
	Versions   []Version // ascending by number
	Kept       string    // what its kind keeps of its server, without secrets, for the day when the server has forgotten it
	Above      int       // versions get numbers above this one, which a server has seen

	// Mount is a short id of the mount that the key belongs to, six characters of [a-z2-7]. It is part of what kinds name
	// at servers, so that two mounts never use one login. It is derived from the mount's secret and never stored.
	Mount string
}

// Current returns the version to present, if there is one.
func (k Key) Current() (Version, bool) {
	for _, v := range slices.Backward(k.Versions) {
		if v.State == Current {
			return v, true
		}
	}
	return Version{}, false
}

// Version returns the version of that number.
func (k Key) Version(number int) (Version, bool) {
	for _, v := range k.Versions {
		if v.Number == number {
			return v, true
		}
	}
	return Version{}, false
}

// NextNumber is the number that the next version takes. Numbers are never used again.
func (k Key) NextNumber() int {
	if len(k.Versions) == 0 {
		return 1
	}
	return max(k.Versions[len(k.Versions)-1].Number, k.Above) + 1
}

// keptEnded is how many versions that have ended a key remembers, so that its record does not grow forever.
const keptEnded = 50

// trimmed forgets the oldest of the versions that have ended. The newest is always kept: numbers go on from it.
func trimmed(versions []Version) []Version {
	ended := 0
	for _, v := range versions {
		if v.State == Destroyed || v.State == Aborted {
			ended++
		}
	}
	return slices.DeleteFunc(versions, func(v Version) bool {
		over := (v.State == Destroyed || v.State == Aborted) && ended > keptEnded
		if over {
			ended--
		}
		return over
	})
}

// WithFirst returns the key with v as its current version 1. It is an error if the key has versions.
func (k Key) WithFirst(v Version) (Key, error) {
	if len(k.Versions) > 0 {
		return k, fmt.Errorf("key %s has %d versions already", k.Name, len(k.Versions))
	}
	v.Number, v.State = 1, Current
	k.Versions = []Version{v}
	return k, nil
}

// Bare returns the key without its versions.
func (k Key) Bare() Key {
	k.Versions = nil
	return k
}

// WithReplaced returns the key with v as its current version in place of the one before, which is aborted.
func (k Key) WithReplaced(v Version) (Key, error) {
	old, ok := k.Current()
	if !ok {
		return k, fmt.Errorf("key %s has no current version to replace", k.Name)
	}
	v.Number, v.State = k.NextNumber(), Current
	k.Versions = append(trimmed(slices.Clone(k.Versions)), v)
	return k.moved(old.Number, Aborted, v.Number, Current)
}

// WithFirstStaged returns the key with v as its version 1, staged: a server has to learn of it before it is current.
func (k Key) WithFirstStaged(v Version) (Key, error) {
	k, err := k.WithFirst(v)
	if err == nil {
		k.Versions[0].State = Staged
	}
	return k, err
}

// FirstStaged returns the version that is staged to be the first, if there is one.
func (k Key) FirstStaged() (Version, bool) {
	if len(k.Versions) == 1 && k.Versions[0].State == Staged {
		return k.Versions[0], true
	}
	return Version{}, false
}

// FirstPromoted returns the key with the version that was staged to be the first as its current one.
func (k Key) FirstPromoted() Key {
	if _, ok := k.FirstStaged(); ok {
		k.Versions = slices.Clone(k.Versions)
		k.Versions[0].State = Current
	}
	return k
}

// WithStaged returns the key with v as a staged version. Doing it again with the same number changes nothing.
func (k Key) WithStaged(v Version) (Key, error) {
	if _, ok := k.Version(v.Number); ok {
		return k, nil
	}
	if _, ok := k.Current(); !ok {
		return k, fmt.Errorf("key %s has no current version to rotate from", k.Name)
	}
	if v.Number < k.NextNumber() {
		return k, fmt.Errorf("key %s: version %d is older than the newest", k.Name, v.Number)
	}
	v.State = Staged
	k.Versions = append(trimmed(slices.Clone(k.Versions)), v)
	return k, nil
}

// WithIssued returns the key with a staged version whose order is replaced: by the next one, or by the value that the server has
// made, with the server's name of it. It is an error if the version has another order by now, since then somebody else asks for it.
func (k Key) WithIssued(number int, order Value, to Version) (Key, error) {
	return k.changed(number, func(v *Version) error {
		if v.State != Staged || !v.Value.Equal(order) {
			return fmt.Errorf("key %s: version %d is not waiting for this value any more", k.Name, number)
		}
		v.Value, v.Handle, v.Fingerprint = to.Value, to.Handle, to.Fingerprint
		return nil
	})
}

// errNoSuchVersion is internal: a rotation names versions that its key has.
var errNoSuchVersion = errors.New("no such version")

// Promoted returns the key with version to as current and version from as previous.
func (k Key) Promoted(from, to int) (Key, error) { return k.moved(from, Previous, to, Current) }

// Retired returns the key with version from destroyed, its value erased, and version to as current.
func (k Key) Retired(from, to int) (Key, error) { return k.moved(from, Destroyed, to, Current) }

// WithLogin returns the key with a note of whom a retired version logged in as, so that those who still try are recognized.
func (k Key) WithLogin(number int, login string, retired time.Time) Key {
	k.Versions = slices.Clone(k.Versions)
	for i := range k.Versions {
		if k.Versions[i].Number == number {
			k.Versions[i].Login, k.Versions[i].Retired = login, retired
		}
	}
	return k
}

// Reverted returns the key with version to aborted, its value erased, and version from as current.
func (k Key) Reverted(from, to int) (Key, error) {
	if _, ok := k.Version(to); !ok { // never stored: nothing to abort
		return k.moved(from, Current, from, Current)
	}
	return k.moved(to, Aborted, from, Current)
}

func (k Key) moved(a int, aState State, b int, bState State) (Key, error) {
	versions := slices.Clone(k.Versions)
	found := 0
	for i := range versions {
		switch versions[i].Number {
		case b:
			versions[i].State = bState
		case a:
			versions[i].State = aState
		default:
			continue
		}
		found++
		if s := versions[i].State; s == Destroyed || s == Aborted {
			versions[i].Value = Value{}
			versions[i].Sealed = Value{}
			versions[i].Until = time.Time{}
		}
	}
	if found == 0 || (a != b && found < 2) {
		return k, fmt.Errorf("key %s, versions %d and %d: %w", k.Name, a, b, errNoSuchVersion)
	}
	k.Versions = versions
	return k, nil
}

const redacted = "[redacted]"

// Value is an opaque secret. It prints, logs and marshals as "[redacted]" whichever way it is asked; only Reveal gives
// what is in it. The zero Value is empty.
type Value struct {
	// A pointer, since fmt prints unexported fields of other structs without asking their methods: there it prints an
	// address.
	secret *string
}

var (
	_ fmt.Stringer   = Value{}
	_ fmt.GoStringer = Value{}
	_ fmt.Formatter  = Value{}
	_ slog.LogValuer = Value{}
)

// NewValue wraps a secret.
func NewValue(secret string) Value { return Value{secret: &secret} }

// Reveal returns the secret itself. Hand it only to code that must present or check it.
func (v Value) Reveal() string {
	if v.secret == nil {
		return ""
	}
	return *v.secret
}

// Empty reports whether there is no secret.
func (v Value) Empty() bool { return v.Reveal() == "" }

// Len is the length of the secret in bytes.
func (v Value) Len() int { return len(v.Reveal()) }

// MultiLine reports whether it has several lines: not every file, and no header, can carry it.
func (v Value) MultiLine() bool { return strings.ContainsAny(v.Reveal(), "\r\n") }

// Equal compares in time that depends on the lengths only.
func (v Value) Equal(other Value) bool {
	return subtle.ConstantTimeCompare([]byte(v.Reveal()), []byte(other.Reveal())) == 1
}

// String never returns the secret.
func (v Value) String() string { return redacted }

// GoString never returns the secret.
func (v Value) GoString() string { return redacted }

// Format never returns the secret, whatever the verb.
func (v Value) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// LogValue never returns the secret.
func (v Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON never returns the secret: a record that must hold it reveals it on purpose.
func (v Value) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText never returns the secret.
func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Fingerprinter makes keyed hashes. Its secret is the mount's own, so that a fingerprint can neither be reversed by
// guessing values nor compared between mounts.
type Fingerprinter struct{ secret []byte }

// NewFingerprinter takes the mount's secret, 32 random bytes.
func NewFingerprinter(secret []byte) Fingerprinter { return Fingerprinter{secret: secret} }

// Of returns 16 hexadecimal characters: HMAC-SHA256 over domain and value, cut to 64 bits.
func (f Fingerprinter) Of(domain string, v Value) string {
	return f.Sum("value", domain, v.Reveal())[:16]
}

// MountID returns the mount's short id, six characters of [a-z2-7]. It reveals nothing of the secret.
func (f Fingerprinter) MountID() string { return ShortHash(f.Sum("mount")) }

// ShortHash returns six characters of [a-z2-7] that depend on text: 30 bits of SHA-256.
func ShortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))[:6]
}

// Sum is the whole keyed hash, hexadecimal, over parts that cannot run into each other.
func (f Fingerprinter) Sum(parts ...string) string {
	mac := hmac.New(sha256.New, f.secret)
	for _, part := range parts {
		length := len(part)
		mac.Write([]byte{byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)}) //nolint:gosec // byte by byte; stored sums depend on it
		mac.Write([]byte(part))
	}
	return hex.EncodeToString(mac.Sum(nil))
}
