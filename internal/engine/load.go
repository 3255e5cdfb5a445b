// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// load reads all records.
func (l *locked) load(ctx context.Context) error {
	for _, load := range []func(context.Context) error{
		l.loadSecret, l.loadConfig, l.loadFloor, l.loadConnections, l.loadKeys, l.loadWorkloads, l.loadInstances, l.journal.Load, l.loadRotations,
	} {
		if err := load(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (l *locked) loadSecret(ctx context.Context) error {
	secret, err := l.Store.Get(ctx, pathSecret)
	if err != nil {
		return fmt.Errorf("reading the mount's secret: %w", err)
	}
	if secret == nil {
		secret = make([]byte, secretBytes)
		if _, err := io.ReadFull(l.Random, secret); err != nil {
			return fmt.Errorf("making the mount's secret: %w", err)
		}
		if err := l.Store.Put(ctx, pathSecret, []byte(hex.EncodeToString(secret))); err != nil {
			return fmt.Errorf("storing the mount's secret: %w", err)
		}
	} else if secret, err = hex.DecodeString(string(secret)); err != nil || len(secret) != secretBytes {
		return errors.New("the mount's stored secret is damaged: not 32 hexadecimal bytes")
	}
	l.Fingerprints = key.NewFingerprinter(secret)
	return nil
}

func (l *locked) loadConfig(ctx context.Context) error {
	data, err := l.Store.Get(ctx, pathConfig)
	if err != nil || data == nil {
		return err
	}
	if err := json.Unmarshal(data, &l.Defaults); err != nil {
		return fmt.Errorf("stored config: %w", err)
	}
	return nil
}

// loadGeneration is how often the mount was begun before.
func (l *locked) loadGeneration(ctx context.Context) (uint64, error) {
	data, err := l.Store.Get(ctx, pathLives)
	if err != nil || data == nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stored count of lives: %w", err)
	}
	return n, nil
}

func (l *locked) loadKeys(ctx context.Context) error {
	if err := l.each(ctx, pathKeys, func(data []byte) error {
		k, err := key.Decode(data)
		k.Mount = l.Fingerprints.MountID()
		l.Keys[k.Name] = k
		return err
	}); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(l.Keys)) {
		l.plan(name, l.opened)
	}
	return nil
}

func (l *locked) loadWorkloads(ctx context.Context) error {
	return l.each(ctx, pathWorkloads, func(data []byte) error {
		w, err := workload.Decode(data)
		l.Workloads[w.Name] = w
		l.lock(func(m *memory) { m.fleets[w.Name] = fleet.New(l.secrets(), l.Uptime) })
		return err
	})
}

func (l *locked) loadInstances(ctx context.Context) error {
	workloads, err := l.Store.List(ctx, pathInstances)
	if err != nil {
		return fmt.Errorf("listing instances: %w", err)
	}
	for _, w := range workloads {
		w = strings.TrimSuffix(w, "/")
		err := l.each(ctx, pathInstances+w+"/", func(data []byte) error {
			i, err := workload.DecodeInstance(data)
			l.lock(func(m *memory) {
				if f := m.fleets[i.Workload]; err == nil && f != nil {
					f.Load(i, m.Defaults.LeaseTTL, m.Defaults.TakeoverAfter)
					m.graceUntil = m.Uptime() + fleet.ReturnTime
				}
			})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// loadRotations takes up every unfinished rotation.
func (l *locked) loadRotations(ctx context.Context) error {
	return l.each(ctx, pathActive, func(data []byte) error {
		r, err := rotation.Decode(data)
		l.active[r.ID] = r
		for _, c := range r.Changes {
			l.rotating[c.Key] = r.ID
			l.agenda.Set(c.Key, never)
		}
		return err
	})
}

// catchUp finishes what a crash has interrupted between a rotation's record and the journal, or between its end and its
// leaving active/.
func (l *locked) catchUp(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(l.active)) {
		r := l.active[id]
		data, err := l.Store.Get(ctx, pathRotations+id)
		if err != nil {
			return fmt.Errorf("reading rotation %s: %w", id, err)
		}
		if data != nil {
			if r, err = rotation.Decode(data); err != nil {
				return err
			}
		}
		known, err := l.journaled(ctx, r)
		if err != nil {
			return err
		}
		if err := l.journalEvents(ctx, r, known); err != nil {
			return err
		}
		r.Journaled, r.JournalSeq = r.EventCount(), l.journal.End().Count
		l.lock(func(m *memory) { m.active[id] = r })
		if r.Finished() {
			if err := l.leave(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *locked) loadFloor(ctx context.Context) error {
	data, err := l.Store.Get(ctx, pathFloor)
	if err != nil || data == nil {
		return err
	}
	if err := json.Unmarshal(data, &l.JournalFloor); err != nil {
		return fmt.Errorf("stored floor of the journal: %w", err)
	}
	return nil
}

func (l *locked) loadConnections(ctx context.Context) error {
	return l.each(ctx, pathConnections, func(data []byte) error {
		c, err := kind.DecodeConnection(data)
		l.Connections[c.Name] = c
		l.planCheck(checksConnection+c.Name, l.opened)
		return err
	})
}
