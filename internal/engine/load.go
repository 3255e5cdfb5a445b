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
	"sync"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// load reads all records.
func (e *Engine) load(ctx context.Context) error {
	for _, load := range []func(context.Context) error{
		e.loadSecret, e.loadConfig, e.loadFloor, e.loadConnections, e.loadKeys, e.loadWorkloads, e.loadInstances, e.journal.Load, e.loadRotations,
	} {
		if err := load(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) loadSecret(ctx context.Context) error {
	secret, err := e.Store.Get(ctx, pathSecret)
	if err != nil {
		return fmt.Errorf("reading the mount's secret: %w", err)
	}
	if secret == nil {
		secret = make([]byte, secretBytes)
		if _, err := io.ReadFull(e.Random, secret); err != nil {
			return fmt.Errorf("making the mount's secret: %w", err)
		}
		if err := e.Store.Put(ctx, pathSecret, []byte(hex.EncodeToString(secret))); err != nil {
			return fmt.Errorf("storing the mount's secret: %w", err)
		}
	} else if secret, err = hex.DecodeString(string(secret)); err != nil || len(secret) != secretBytes {
		return errors.New("the mount's stored secret is damaged: not 32 hexadecimal bytes")
	}
	e.fingerprints = key.NewFingerprinter(secret)
	return nil
}

func (e *Engine) loadConfig(ctx context.Context) error {
	data, err := e.Store.Get(ctx, pathConfig)
	if err != nil || data == nil {
		return err
	}
	if err := json.Unmarshal(data, &e.config); err != nil {
		return fmt.Errorf("stored config: %w", err)
	}
	return nil
}

// lives is how often the mount was begun before.
func (e *Engine) lives(ctx context.Context) (uint64, error) {
	data, err := e.Store.Get(ctx, pathLives)
	if err != nil || data == nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stored count of lives: %w", err)
	}
	return n, nil
}

func (e *Engine) loadKeys(ctx context.Context) error {
	if err := e.each(ctx, pathKeys, func(data []byte) error {
		k, err := key.Decode(data)
		k.Mount = e.fingerprints.MountID()
		e.keys[k.Name] = k
		return err
	}); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(e.keys)) {
		e.plan(name, e.opened)
	}
	return nil
}

func (e *Engine) loadWorkloads(ctx context.Context) error {
	return e.each(ctx, pathWorkloads, func(data []byte) error {
		w, err := workload.Decode(data)
		e.workloads[w.Name] = w
		e.fleets[w.Name] = newFleet()
		return err
	})
}

func (e *Engine) loadInstances(ctx context.Context) error {
	workloads, err := e.Store.List(ctx, pathInstances)
	if err != nil {
		return fmt.Errorf("listing instances: %w", err)
	}
	for _, w := range workloads {
		w = strings.TrimSuffix(w, "/")
		err := e.each(ctx, pathInstances+w+"/", func(data []byte) error {
			i, err := workload.DecodeInstance(data)
			if f := e.fleets[i.Workload]; err == nil && f != nil {
				f.put(i)
				f.leases[i.ID] = e.oldLease(i)
				e.graceUntil = e.Uptime() + returnTime
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// loadRotations takes up every unfinished rotation.
func (e *Engine) loadRotations(ctx context.Context) error {
	return e.each(ctx, pathActive, func(data []byte) error {
		r, err := rotation.Decode(data)
		e.active[r.ID] = r
		for _, c := range r.Changes {
			e.rotating[c.Key] = r.ID
			e.agenda.Set(c.Key, never)
		}
		return err
	})
}

// catchUp finishes what a crash has interrupted between a rotation's record and the journal, or between its end and its
// leaving active/. turn is held.
func (e *Engine) catchUp(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(e.active)) {
		r := e.active[id]
		data, err := e.Store.Get(ctx, pathRotations+id)
		if err != nil {
			return fmt.Errorf("reading rotation %s: %w", id, err)
		}
		if data != nil {
			if r, err = rotation.Decode(data); err != nil {
				return err
			}
		}
		known, err := e.journaled(ctx, r)
		if err != nil {
			return err
		}
		if err := e.journalEvents(ctx, r, known); err != nil {
			return err
		}
		r.Journaled, r.JournalSeq = r.EventCount(), e.journal.End().Count
		e.lock(func() { e.active[id] = r })
		if r.Finished() {
			if err := e.leave(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// readers is how many records are read at a time: storage answers each after a while.
const readers = 16

// each reads the records below a prefix, and gives them to take one after the other, in their order.
func (e *Engine) each(ctx context.Context, prefix string, take func([]byte) error) error {
	names, err := e.Store.List(ctx, prefix)
	if err != nil {
		return fmt.Errorf("listing %s: %w", prefix, err)
	}
	for len(names) > 0 {
		batch := names[:min(readers, len(names))]
		names = names[len(batch):]
		data, errs := make([][]byte, len(batch)), make([]error, len(batch))
		var group sync.WaitGroup
		for n, name := range batch {
			group.Go(func() { data[n], errs[n] = e.Store.Get(ctx, prefix+name) })
		}
		group.Wait()
		for n, name := range batch {
			if errs[n] != nil {
				return fmt.Errorf("reading %s%s: %w", prefix, name, errs[n])
			}
			if data[n] == nil {
				continue
			}
			if err := take(data[n]); err != nil {
				return fmt.Errorf("%s%s: %w", prefix, name, err)
			}
		}
	}
	return nil
}
