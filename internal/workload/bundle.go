// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Bundle is all that one instance should hold now.
type Bundle struct {
	Values         map[string]key.Value   // by environment name: to present, or to encrypt with
	Accepts        map[string][]key.Value // by environment name: to verify against, newest first
	Versions       map[string]int         // by environment name
	Created        map[string]time.Time   // of the version in Versions
	AcceptVersions map[string][]int       // by environment name, parallel to Accepts
	Work           []Work
	Holding        Holding
}

// Summer makes keyed hashes over parts; key.Fingerprinter is one.
type Summer interface{ Sum(parts ...string) string }

// EtagOf is the etag of what is held and the work asked: keyed, so that it tells bundles apart and reveals no value.
// It costs no look at values, since a version's value never changes; identity tells a key from one of the same name that
// was deleted before it.
func EtagOf(sum Summer, workload string, held map[string]Held, work []Work, identity func(keyName string) string) string {
	parts := []string{"etag", workload}
	for _, name := range slices.Sorted(maps.Keys(held)) {
		parts = append(parts, name, identity(name), strconv.Itoa(held[name].Value))
		for _, n := range held[name].Accepts {
			parts = append(parts, strconv.Itoa(n))
		}
		parts = append(parts, "")
	}
	for _, w := range work {
		parts = append(parts, w.ID)
	}
	return sum.Sum(parts...)[:32]
}

// Source is where a bundle's values come from.
type Source interface {
	// Key returns a key by its name.
	Key(name string) (key.Key, bool)
	// Render returns a value to present under each environment name by which workloads know it.
	Render(k key.Key, value key.Value) (map[string]key.Value, error)
}

// Fill makes the bundle of a holding: it looks up the values of the versions held.
func Fill(holding Holding, work []Work, source Source) (Bundle, error) {
	b := Bundle{
		Values: map[string]key.Value{}, Accepts: map[string][]key.Value{},
		Versions: map[string]int{}, Created: map[string]time.Time{}, AcceptVersions: map[string][]int{}, Work: work, Holding: holding,
	}
	for name, held := range holding.Keys {
		k, ok := source.Key(name)
		if !ok {
			return Bundle{}, fmt.Errorf("key %s is gone", name)
		}
		value := func(number int) (key.Value, error) {
			v, ok := k.Version(number)
			if !ok || v.Value.Empty() {
				return key.Value{}, fmt.Errorf("key %s: version %d has no value", name, number)
			}
			return v.Value, nil
		}
		for _, n := range held.Accepts {
			v, err := value(n)
			if err != nil {
				return Bundle{}, err
			}
			b.Accepts[k.Env] = append(b.Accepts[k.Env], v)
			b.AcceptVersions[k.Env] = append(b.AcceptVersions[k.Env], n)
			b.hold(k, k.Env, max(b.Versions[k.Env], n))
		}
		if held.Value == 0 {
			continue
		}
		v, err := value(held.Value)
		if err != nil {
			return Bundle{}, err
		}
		rendered, err := source.Render(k, v)
		if err != nil {
			return Bundle{}, fmt.Errorf("key %s: version %d: %w", name, held.Value, err)
		}
		for env, v := range rendered {
			b.Values[env] = v
			b.hold(k, env, held.Value)
		}
	}
	return b, nil
}

// hold notes which version of a key is held under a name.
func (b *Bundle) hold(k key.Key, env string, number int) {
	b.Versions[env] = number
	if v, ok := k.Version(number); ok {
		b.Created[env] = v.Created
	}
}
