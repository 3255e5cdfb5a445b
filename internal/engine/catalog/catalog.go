// SPDX-License-Identifier: Apache-2.0

// Package catalog is what operators have defined: keys, workloads, connections and the configuration. It checks what they write,
// and answers what follows from it. It is plain data: its caller has the lock.
package catalog

import (
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/nearest"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Base is what never changes while the engine is open, so that it needs no lock.
type Base struct {
	Kinds        kind.List
	Random       io.Reader
	Now          func() time.Time
	Uptime       func() time.Duration
	Fingerprints key.Fingerprinter
}

// Catalog is what operators have defined: plain data, and what follows from it.
type Catalog struct {
	*Base
	Defaults     Config
	JournalFloor Floor
	Keys         map[string]key.Key
	Workloads    map[string]workload.Workload
	Connections  map[string]kind.Connection
}

// New returns an empty catalog.
func New(b *Base) *Catalog {
	return &Catalog{
		Base: b, Defaults: DefaultConfig(), JournalFloor: DefaultFloor(),
		Keys: map[string]key.Key{}, Workloads: map[string]workload.Workload{}, Connections: map[string]kind.Connection{},
	}
}

// KindOf returns a key's kind, nil where this release does not have it.
func (b *Base) KindOf(k key.Key) kind.Kind {
	kd, err := b.Kinds.Get(k.Kind)
	if err != nil {
		return nil
	}
	return kd
}

// Names are the environment names under which workloads know a key, its own first.
func (b *Base) Names(k key.Key) []string {
	names := []string{k.Env}
	if r, ok := b.KindOf(k).(kind.Renderer); ok {
		names = append(names, r.Names(k.Options)...)
	}
	return names
}

// WithoutOrders returns a key of which no version has a value that its server has yet to make.
func (b *Base) WithoutOrders(k key.Key) key.Key {
	issuer, ok := b.KindOf(k).(kind.Issuer)
	if !ok {
		return k
	}
	k.Versions = slices.Clone(k.Versions)
	for n := range k.Versions {
		if _, order := issuer.Attempt(k.Versions[n].Value); order {
			k.Versions[n].Value = key.Value{}
		}
	}
	return k
}

// Generate makes a value that takes the place of from, which is empty for a first version.
func (b *Base) Generate(k key.Key, from key.Value) (key.Value, error) {
	generator, ok := b.KindOf(k).(kind.Generator)
	if !ok {
		return key.Value{}, rotation.Refusef("key %s is of kind %s, whose values come from elsewhere; give the new one with value=- (it is read from standard input)", k.Name, k.Kind)
	}
	value, err := generator.Generate(b.Random, k, from)
	if err != nil {
		return key.Value{}, rotation.Refusef("key %s: %w", k.Name, err)
	}
	return value, nil
}

// Share is a number from 0 to 1 that differs between keys and versions. It is derived, not drawn, so that a restart
// changes nothing.
func (b *Base) Share(k key.Key, purpose string) float64 {
	current, _ := k.Current()
	n, err := strconv.ParseUint(b.Fingerprints.Sum("jitter", purpose, k.Name, strconv.Itoa(current.Number))[:8], 16, 32)
	if err != nil {
		return 0
	}
	return float64(n) / (1 << 32)
}

// SumEntry returns the keyed hash of an entry of the journal.
func (b *Base) SumEntry(data string) string { return b.Fingerprints.Sum("journal", data) }

// Hex returns n random bytes in hexadecimal.
func (b *Base) Hex(n int) (string, error) {
	buffer := make([]byte, n)
	if _, err := io.ReadFull(b.Random, buffer); err != nil {
		return "", fmt.Errorf("drawing random bytes: %w", err)
	}
	return hex.EncodeToString(buffer), nil
}

// IdTime begins the ids of rotations: UTC to the millisecond.
const IdTime = "20060102t150405.000"

// NewID returns an id that sorts by time: UTC to the millisecond, and six random hexadecimal characters.
func (b *Base) NewID() (string, error) {
	tail, err := b.Hex(3)
	if err != nil {
		return "", err
	}
	return b.Now().UTC().Format(IdTime) + "-" + tail, nil
}

// Revision is a number that no connection had before.
func (b *Base) Revision() (uint64, error) {
	text, err := b.Hex(8)
	if err != nil {
		return 0, err
	}
	var n uint64
	_, err = fmt.Sscanf(text, "%x", &n)
	return n, err
}

// FirstVersion returns a value as the first version of a key, without its number.
func (b *Base) FirstVersion(name string, value key.Value, by rotation.Actor) key.Version {
	return key.Version{Value: value, Created: b.Now().UTC(), CreatedBy: by.String(), Fingerprint: b.Fingerprints.Of(name, value)}
}

// UnknownKey is the refusal of a name that no key has.
func UnknownKey(name string) error {
	if name == key.All {
		return rotation.Refusef("key %q is not known; to rotate every key, write keys=all", name)
	}
	return rotation.Refusef("key %q is not known; list the keys with: vault list hyvve/keys", name)
}

// UnknownKey is [UnknownKey] with the nearest name that a key has.
func (c *Catalog) UnknownKey(name string) error {
	if near := nearest.To(name, slices.Sorted(maps.Keys(c.Keys))); near != "" && name != key.All {
		return rotation.Refusef("key %q is not known; did you mean %s? List the keys with: vault list hyvve/keys", name, near)
	}
	return UnknownKey(name)
}

// UnknownWorkload is the refusal of a name that no workload has.
func UnknownWorkload(name string) error {
	return rotation.Refusef("workload %q is not known; list the workloads with: vault list hyvve/workloads", name)
}

// UnknownConnection is the refusal of a name that no connection has.
func UnknownConnection(name string) error {
	return rotation.Refusef("connection %q is not known; list the connections with: vault list hyvve/connections", name)
}
