// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/api"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

// Opaque returns a bundle with its values opaque. It refuses names that are none: they become paths, lines, labels and
// variables, and one with a line break would write a second one.
func Opaque(p api.Bundle) (Bundle, error) {
	for _, names := range [][]string{
		slices.Sorted(maps.Keys(p.Values)), slices.Sorted(maps.Keys(p.Accepts)), slices.Sorted(maps.Keys(p.Versions)), slices.Sorted(maps.Keys(p.AcceptVersions)),
	} {
		for _, name := range names {
			if err := key.ValidateEnv(name); err != nil {
				return Bundle{}, fmt.Errorf("nothing of the bundle is taken: %w", err)
			}
		}
	}
	b := Bundle{
		Values: map[string]key.Value{}, Accepts: map[string][]key.Value{}, Versions: p.Versions, AcceptVersions: p.AcceptVersions, Etag: p.Etag,
	}
	for env, v := range p.Values {
		b.Values[env] = key.NewValue(v)
	}
	for env, list := range p.Accepts {
		for _, v := range list {
			b.Accepts[env] = append(b.Accepts[env], key.NewValue(v))
		}
	}
	return b, nil
}

// Plain returns a bundle with its values revealed.
func (b Bundle) Plain() api.Bundle {
	p := api.Bundle{
		Values: map[string]string{}, Accepts: map[string][]string{}, Versions: b.Versions, AcceptVersions: b.AcceptVersions, Etag: b.Etag,
	}
	for env, v := range b.Values {
		p.Values[env] = v.Reveal()
	}
	for env, list := range b.Accepts {
		for _, v := range list {
			p.Accepts[env] = append(p.Accepts[env], v.Reveal())
		}
	}
	return p
}
