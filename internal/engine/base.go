// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// base is what never changes while the engine is open, so that it needs no lock.
type base struct {
	Kinds        kind.List
	Random       io.Reader
	Now          func() time.Time
	Uptime       func() time.Duration
	fingerprints key.Fingerprinter
}

// kindOf returns a key's kind, nil where this release does not have it.
func (b *base) kindOf(k key.Key) kind.Kind {
	kd, err := b.Kinds.Get(k.Kind)
	if err != nil {
		return nil
	}
	return kd
}

// names are the environment names under which workloads know a key, its own first.
func (b *base) names(k key.Key) []string {
	names := []string{k.Env}
	if r, ok := b.kindOf(k).(kind.Renderer); ok {
		names = append(names, r.Names(k.Options)...)
	}
	return names
}

// generate makes a value that takes the place of from, which is empty for a first version.
func (b *base) generate(k key.Key, from key.Value) (key.Value, error) {
	generator, ok := b.kindOf(k).(kind.Generator)
	if !ok {
		return key.Value{}, rotation.Refusef("key %s is of kind %s, whose values come from elsewhere; give the new one with value=- (it is read from standard input)", k.Name, k.Kind)
	}
	value, err := generator.Generate(b.Random, k, from)
	if err != nil {
		return key.Value{}, rotation.Refusef("key %s: %w", k.Name, err)
	}
	return value, nil
}

// share is a number from 0 to 1 that differs between keys and versions. It is derived, not drawn, so that a restart
// changes nothing.
func (b *base) share(k key.Key, purpose string) float64 {
	current, _ := k.Current()
	n, err := strconv.ParseUint(b.fingerprints.Sum("jitter", purpose, k.Name, strconv.Itoa(current.Number))[:8], 16, 32)
	if err != nil {
		return 0
	}
	return float64(n) / (1 << 32)
}

// random returns n random bytes in hexadecimal.
func (b *base) random(n int) (string, error) {
	buffer := make([]byte, n)
	if _, err := io.ReadFull(b.Random, buffer); err != nil {
		return "", fmt.Errorf("drawing random bytes: %w", err)
	}
	return hex.EncodeToString(buffer), nil
}

// idTime begins the ids of rotations: UTC to the millisecond.
const idTime = "20060102t150405.000"

// newID returns an id that sorts by time: UTC to the millisecond, and six random hexadecimal characters.
func (b *base) newID() (string, error) {
	tail, err := b.random(3)
	if err != nil {
		return "", err
	}
	return b.Now().UTC().Format(idTime) + "-" + tail, nil
}
