// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Store keeps records by path. Get gives nil, nil for what is not there; List gives names below a prefix.
type Store interface {
	Get(ctx context.Context, path string) ([]byte, error)
	Put(ctx context.Context, path string, data []byte) error
	Delete(ctx context.Context, path string) error
	List(ctx context.Context, prefix string) ([]string, error)
}

// Observer hears what happens, for logs and events; nothing it hears holds a value.
type Observer interface {
	Moved(r Rotation, e Event)
	Fault(what string, err error)
}

// Where records are. A rotation is under active/ until it ends and under rotations/ from then on.
const (
	pathSecret     = "mount/secret"
	pathConfig     = "mount/config"
	pathKeys       = "keys/"
	pathWorkloads  = "workloads/"
	pathInstances  = "instances/"
	pathActive     = "active/"
	pathRotations  = "rotations/"
	pathJournal    = "journal/"
	secretBytes    = 32
	tickEvery      = time.Second // the longest that a due time is overslept, and the pace of retries of storage
	actionDeadline = time.Minute // for one call to a server
	returnTime     = time.Minute // for instances to come back after a start: their back-off is at most 15 s
)

// SealWrapped are the prefixes whose records hold values, or secrets that protect evidence.
func SealWrapped() []string { return []string{"mount/", pathKeys, pathInstances} }

// Config is the mount-wide defaults.
type Config struct {
	LeaseTTL time.Duration `json:"lease_ttl"` // of bundles
	Soak     time.Duration `json:"soak"`      // of keys that set none
}

// DefaultConfig is what a fresh mount has.
func DefaultConfig() Config { return Config{LeaseTTL: 5 * time.Minute, Soak: 30 * time.Second} }

// Options make an Engine.
type Options struct {
	Store    Store
	Kinds    kind.List
	Observer Observer
	Now      func() time.Time
	Random   io.Reader
}

// Engine keeps keys, workloads, instances and rotations, and moves rotations on. What it has in memory is what storage
// has: every change is persisted before it is swapped in. Its methods may be called from any goroutine.
type Engine struct {
	Options
	fingerprints key.Fingerprinter

	mu        sync.Mutex
	config    Config
	keys      map[string]key.Key
	workloads map[string]workload.Workload
	instances map[string]workload.Instance // by Instance.Name
	active    map[string]Rotation          // by id
	progress  map[string]workload.WorkReport
	busy      map[string]bool       // rotations with a call to a server under way
	starts    map[string]startFault // keys whose automatic rotation could not start
	changed   chan struct{}         // closed when some bundle may have changed, then replaced
	closed    bool
	waitUntil time.Time // see Facts.WaitUntil

	kick    chan struct{} // there is something to do
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

type startFault struct {
	attempts int
	next     time.Time
	reason   string
}

// Open reads all records and is ready to serve; Start then moves rotations on. A mount's first Open makes its secret.
func Open(ctx context.Context, o Options) (*Engine, error) {
	e := &Engine{
		Options:   o,
		config:    DefaultConfig(),
		keys:      map[string]key.Key{},
		workloads: map[string]workload.Workload{},
		instances: map[string]workload.Instance{},
		active:    map[string]Rotation{},
		progress:  map[string]workload.WorkReport{},
		busy:      map[string]bool{},
		starts:    map[string]startFault{},
		changed:   make(chan struct{}),
		kick:      make(chan struct{}, 1),
		waitUntil: o.Now().Add(returnTime),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	for _, load := range []func(context.Context) error{
		e.loadSecret, e.loadConfig, e.loadKeys, e.loadWorkloads, e.loadInstances, e.loadRotations,
	} {
		if err := load(ctx); err != nil {
			e.cancel()
			return nil, err
		}
	}
	return e, nil
}

// Start moves rotations on in the background until the engine is closed. Only a node that may write calls it.
func (e *Engine) Start() { e.running.Go(e.run) }

// run does what can be done now, again and again. One failure stops nothing.
func (e *Engine) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-e.kick:
		case <-timer.C:
		}
		timer.Reset(e.Tick(e.ctx))
	}
}

// Tick does all that can be done now, and gives the time until there may be more.
func (e *Engine) Tick(ctx context.Context) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return tickEvery
	}
	now := e.Now()
	wake := now.Add(e.startDue(ctx, now))
	for _, id := range slices.Sorted(maps.Keys(e.active)) {
		if err := e.advance(ctx, id); err != nil {
			e.Observer.Fault("rotation "+id+" could not be moved on", err)
		}
		if r, ok := e.active[id]; ok {
			if at := r.WakeAt(); !at.IsZero() && at.Before(wake) {
				wake = at
			}
		}
	}
	return max(wake.Sub(now), time.Millisecond)
}

// Close wakes all who wait and ends the background work.
func (e *Engine) Close() {
	e.mu.Lock()
	if !e.closed {
		e.closed = true
		close(e.changed)
	}
	e.mu.Unlock()
	e.cancel()
	e.running.Wait()
}

// nudge makes run look again soon.
func (e *Engine) nudge() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// broadcast wakes the watchers.
func (e *Engine) broadcast() {
	if e.closed {
		return
	}
	close(e.changed)
	e.changed = make(chan struct{})
	e.nudge()
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

func (e *Engine) loadKeys(ctx context.Context) error {
	return e.each(ctx, pathKeys, func(data []byte) error {
		k, err := key.Decode(data)
		e.keys[k.Name] = k
		return err
	})
}

func (e *Engine) loadWorkloads(ctx context.Context) error {
	return e.each(ctx, pathWorkloads, func(data []byte) error {
		w, err := workload.Decode(data)
		e.workloads[w.Name] = w
		return err
	})
}

func (e *Engine) loadInstances(ctx context.Context) error {
	workloads, err := e.Store.List(ctx, pathInstances)
	if err != nil {
		return fmt.Errorf("listing instances: %w", err)
	}
	for _, w := range workloads {
		err := e.each(ctx, pathInstances+strings.TrimSuffix(w, "/")+"/", func(data []byte) error {
			i, err := workload.DecodeInstance(data)
			e.instances[i.Name()] = i
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// loadRotations takes up every unfinished rotation. One that had ended when a crash kept it from leaving active/ leaves
// it now.
func (e *Engine) loadRotations(ctx context.Context) error {
	err := e.each(ctx, pathActive, func(data []byte) error {
		r, err := Decode(data)
		e.active[r.ID] = r
		return err
	})
	if err != nil {
		return err
	}
	for id := range e.active {
		ended, err := e.Store.Get(ctx, pathRotations+id)
		if err != nil {
			return fmt.Errorf("reading rotation %s: %w", id, err)
		}
		if ended != nil {
			if err := e.Store.Delete(ctx, pathActive+id); err != nil {
				return fmt.Errorf("removing ended rotation %s from the active: %w", id, err)
			}
			delete(e.active, id)
		}
	}
	return nil
}

func (e *Engine) each(ctx context.Context, prefix string, take func([]byte) error) error {
	names, err := e.Store.List(ctx, prefix)
	if err != nil {
		return fmt.Errorf("listing %s: %w", prefix, err)
	}
	for _, name := range names {
		data, err := e.Store.Get(ctx, prefix+name)
		if err != nil {
			return fmt.Errorf("reading %s%s: %w", prefix, name, err)
		}
		if data == nil {
			continue
		}
		if err := take(data); err != nil {
			return fmt.Errorf("%s%s: %w", prefix, name, err)
		}
	}
	return nil
}

// encoder is a record that has a stored form.
type encoder interface{ Encode() ([]byte, error) }

func (e *Engine) put(ctx context.Context, path string, record encoder) error {
	data, err := record.Encode()
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	if err := e.Store.Put(ctx, path, data); err != nil {
		return fmt.Errorf("storing %s: %w", path, err)
	}
	return nil
}

// Config gives the mount-wide defaults.
func (e *Engine) Config() Config {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.config
}

// PutConfig replaces them.
func (e *Engine) PutConfig(ctx context.Context, c Config) error {
	if c.LeaseTTL < time.Second {
		return Refusef("lease_ttl %s is too short; use at least 1s (5m is the default)", c.LeaseTTL)
	}
	if c.Soak < 0 {
		return Refusef("soak %s is negative; use 0s for no soak time", c.Soak)
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.Store.Put(ctx, pathConfig, data); err != nil {
		return fmt.Errorf("storing config: %w", err)
	}
	e.config = c
	return nil
}

// random gives n random bytes in hexadecimal.
func (e *Engine) random(n int) (string, error) {
	buffer := make([]byte, n)
	if _, err := io.ReadFull(e.Random, buffer); err != nil {
		return "", fmt.Errorf("drawing random bytes: %w", err)
	}
	return hex.EncodeToString(buffer), nil
}
