// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// unissued is the record of a key of which no version was ever given to anybody: its first value can be replaced. It is stored
// before the key's first version, and removed before a read answers with one. Where there is no record, somebody may have a version.
//
// A release that does not know these records leaves them, whatever it answers. So each life of the mount that keeps them says so, after
// it has begun. If the last life did not, another release has written in between, and all records go before the next life begins. They
// also go if Vault was killed in that moment: an import that cannot be replaced is a lesser harm.
type unissued struct {
	Schema int    `json:"schema"`
	Key    string `json:"key"`
}

const unissuedSchema = 1

// Encode implements encoder.
func (u unissued) Encode() ([]byte, error) { return json.Marshal(u) }

func (l *locked) loadUnissued(ctx context.Context) error {
	lives, err := l.loadGeneration(ctx)
	if err != nil {
		return err
	}
	if vouched, err := l.loadCount(ctx, pathVouched); err != nil || vouched != lives {
		return err
	}
	return l.each(ctx, pathUnissued, func(data []byte) error {
		var u unissued
		if err := json.Unmarshal(data, &u); err != nil {
			return fmt.Errorf("stored record of a key that was not issued: %w", err)
		}
		if u.Schema == unissuedSchema { // that of a newer release proves nothing here
			l.lock(func(m *memory) { m.unissued[u.Key] = notIssued })
		}
		return nil
	})
}

// dropUnvouched removes all records if the last life of the mount did not keep them.
func (l *locked) dropUnvouched(ctx context.Context, lives uint64) error {
	vouched, err := l.loadCount(ctx, pathVouched)
	if err != nil || vouched == lives {
		return err
	}
	l.lock(func(m *memory) { clear(m.unissued) })
	names, err := l.Store.List(ctx, pathUnissued)
	if err != nil {
		return fmt.Errorf("listing %s: %w", pathUnissued, err)
	}
	return l.markIssued(ctx, names...)
}

// vouch stores that this life of the mount keeps the records.
func (l *locked) vouch(ctx context.Context, life uint64) error {
	return l.write(ctx, pathVouched, strconv.AppendUint(nil, life, 10))
}

// noteUnissued stores that nobody has a version of a key, which has none.
func (l *locked) noteUnissued(ctx context.Context, name string) error {
	if err := l.put(ctx, pathUnissued+name, unissued{unissuedSchema, name}); err != nil {
		return err
	}
	l.lock(func(m *memory) { m.unissued[name] = notIssued })
	return nil
}

// forgetUnissued removes the record of a key that is deleted.
func (l *locked) forgetUnissued(ctx context.Context, name string) error {
	if get(l.state, func(m *memory) issuing { return m.unissued[name] }) == mayBeIssued {
		return nil
	}
	return l.markIssued(ctx, name)
}

// issues notes that a bundle is about to be given to somebody. It returns the keys whose records have to be removed before that.
func (m *memory) issues(held map[string]workload.Held) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(held)) {
		if m.unissued[name] != mayBeIssued {
			m.unissued[name] = beingIssued
			names = append(names, name)
		}
	}
	return names
}

// markIssued removes the record of a key: from now on somebody may have a version of it.
func (s *state) markIssued(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := s.remove(ctx, pathUnissued+name); err != nil {
			return err
		}
		s.lock(func(m *memory) { delete(m.unissued, name) })
	}
	return nil
}
