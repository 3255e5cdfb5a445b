// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
)

// Store keeps the records of a mount by path.
type Store = journal.Store

// Where records are. A rotation is under active/ until it ends and under rotations/ from then on.
const (
	pathSecret      = "mount/secret"
	pathConfig      = "mount/config"
	pathLives       = "mount/lives"
	pathIssued      = "mount/issued" // there: all values are in the index
	pathFloor       = "mount/floor"
	pathVouched     = "mount/vouched" // life of the mount up to which the records under unissued/ are right
	pathKeys        = "keys/"
	pathWorkloads   = "workloads/"
	pathConnections = "connections/"
	pathInstances   = "instances/"
	pathLapsed      = "lapsed/"
	pathActive      = "active/"
	pathFollowing   = "following/"
	pathRotations   = "rotations/"
	pathUnissued    = "unissued/"
	pathTripwires   = "tripwires/"
)

// SealWrapped are the prefixes whose records hold values, or secrets that protect evidence.
func SealWrapped() []string {
	return []string{"mount/", pathKeys, pathInstances, pathLapsed, pathConnections}
}

// storage writes records, and remembers whether a write has failed.
type storage struct {
	Store Store
	ctx   context.Context // ends when the engine is closed
	stale atomic.Bool
	wrote bool // something of what is being done with the writer lock is stored
}

// Stale reports whether a write has failed, so that memory and storage may differ: the engine refuses to continue, and its owner
// should close it and open another.
func (t *storage) Stale() bool { return t.stale.Load() }

var errStale = errors.New("an earlier write to storage failed, and whether it took effect is not known; the engine is reading its records again, try once more")

var errClosed = errors.New("the engine is being closed; try once more")

// failing reports whether nothing can be done any more.
func (t *storage) failing() bool { return t.down() != nil }

// down says why nothing can be done any more; nil: it can.
func (t *storage) down() error {
	switch {
	case t.ctx.Err() != nil:
		return errClosed
	case t.stale.Load():
		return errStale
	}
	return nil
}

// tooLarge is physical.ErrValueTooLarge of Vault's sdk, of which storage backends tell before they write anything. It comes
// through two processes as text.
const tooLarge = "put failed due to value being too large"

// write stores a record. The caller's patience must not decide whether a write is known to have taken effect.
func (t *storage) write(ctx context.Context, path string, data []byte) error {
	if err := t.down(); err != nil {
		return err
	}
	if err := t.Store.Put(context.WithoutCancel(ctx), path, data); err != nil {
		if strings.Contains(err.Error(), tooLarge) { // known to have stored nothing
			if !ofInstance(path) && t.wrote { // it may be the second record of several that belong together
				t.stale.Store(true)
			}
			return rotation.Refusef("storing %s: %d bytes are more than Vault's storage takes in one entry (max_entry_size)", path, len(data))
		}
		t.stale.Store(true)
		return fmt.Errorf("storing %s: %w", path, err)
	}
	t.noteWrite(path)
	return nil
}

// noteWrite notes that storage has changed. Instances are records of their own, and stored without the writer lock, as is that
// somebody has a key's version.
func (t *storage) noteWrite(path string) {
	if !ofInstance(path) && !strings.HasPrefix(path, pathUnissued) {
		t.wrote = true
	}
}

// ofInstance reports whether a record is stored under the lock of an instance.
func ofInstance(path string) bool {
	return strings.HasPrefix(path, pathInstances) || strings.HasPrefix(path, pathLapsed)
}

// remove deletes a record.
func (t *storage) remove(ctx context.Context, path string) error {
	if err := t.down(); err != nil {
		return err
	}
	if err := t.Store.Delete(context.WithoutCancel(ctx), path); err != nil {
		t.stale.Store(true)
		return fmt.Errorf("removing %s: %w", path, err)
	}
	t.noteWrite(path)
	return nil
}

// encoder is a record that has a stored form.
type encoder interface{ Encode() ([]byte, error) }

func (t *storage) put(ctx context.Context, path string, record encoder) error {
	data, err := record.Encode()
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	return t.write(ctx, path, data)
}

// readers is how many records are read at a time: storage answers each after a while.
const readers = 16

// each reads the records below a prefix, and calls take with one after the other, in their order.
func (t *storage) each(ctx context.Context, prefix string, take func([]byte) error) error {
	names, err := t.Store.List(ctx, prefix)
	if err != nil {
		return fmt.Errorf("listing %s: %w", prefix, err)
	}
	for len(names) > 0 {
		batch := names[:min(readers, len(names))]
		names = names[len(batch):]
		data, errs := make([][]byte, len(batch)), make([]error, len(batch))
		var group sync.WaitGroup
		for n, name := range batch {
			group.Go(func() { data[n], errs[n] = t.Store.Get(ctx, prefix+name) })
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

// loadGeneration is how often the mount was begun before.
func (t *storage) loadGeneration(ctx context.Context) (uint64, error) {
	return t.loadCount(ctx, pathLives)
}

// loadCount reads a number that is counted up; 0: there is none yet.
func (t *storage) loadCount(ctx context.Context, path string) (uint64, error) {
	data, err := t.Store.Get(ctx, path)
	if err != nil || data == nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stored count %s: %w", path, err)
	}
	return n, nil
}

// journalStore stores entries as the engine stores its records: a write that fails makes it stale.
type journalStore struct{ *storage }

func (s journalStore) Get(ctx context.Context, path string) ([]byte, error) {
	return s.Store.Get(ctx, path)
}

func (s journalStore) List(ctx context.Context, prefix string) ([]string, error) {
	return s.Store.List(ctx, prefix)
}

func (s journalStore) Put(ctx context.Context, path string, data []byte) error {
	return s.write(ctx, path, data)
}

func (s journalStore) Delete(ctx context.Context, path string) error { return s.remove(ctx, path) }
