// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/token"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Instances, operators and the engine's own work at once, with real clocks; the race detector looks on. Rotations end, and
// after Close nothing is written.
func TestEverythingAtOnce(t *testing.T) {
	ctx := t.Context()
	store, db := newMemStore(), &server{valid: map[string]bool{}, fail: map[string]error{}}
	e, err := Open(ctx, Options{Store: store, Kinds: kind.List{token.Kind{}, db}, Observer: quiet{}, Now: time.Now, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	must(e.Begin(ctx))
	e.Start()
	names := []string{"one", "two", "db"}
	roles := map[string]workload.Role{"one": {Presents: true, Verifies: true}, "two": {Presents: true, Verifies: true}, "db": {Presents: true}}
	for _, name := range names {
		d := catalog.Definition{Name: name, Kind: "token", Policy: key.Policy{Soak: 0}}
		if name == "db" {
			d.Kind = "server"
		}
		_, err := e.PutKey(ctx, d, testActor)
		must(err)
		_, _, err = e.First(ctx, name, key.Value{}, testActor)
		must(err)
	}
	must(e.PutWorkload(ctx, workload.Workload{Name: "api", MinInstances: 1, MaxUnavailable: "50%", Keys: roles}, false, testActor))
	ctx, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	for n := range 6 {
		group.Go(func() { follow(ctx, e, fmt.Sprintf("i%d", n)) })
	}
	for _, name := range names {
		group.Go(func() {
			for ctx.Err() == nil {
				view, _, err := e.Rotate(ctx, Request{Keys: []string{name}, By: testActor})
				if errors.Is(err, errClosed) {
					return
				}
				if err != nil && !refused(err) {
					t.Error(err)
				}
				for ctx.Err() == nil && err == nil && !view.Finished() {
					select {
					case <-view.Changed:
					case <-ctx.Done():
					}
					_, _, _ = e.Status(), e.Instances("api"), e.KeyNames()
					view, err = e.View(ctx, view.ID)
				}
			}
		})
	}
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for done := 0; done < 12; {
		select {
		case <-deadline.C:
			t.Fatalf("%d rotations have ended in 20 s", done)
		case <-time.After(20 * time.Millisecond):
		}
		ids, err := store.List(ctx, pathRotations)
		must(err)
		done = len(ids)
	}
	e.Close()
	store.mu.Lock()
	writes := store.writes
	store.mu.Unlock()
	stop()
	group.Wait()
	if store.writes != writes {
		t.Errorf("%d writes after the engine was closed", store.writes-writes)
	}
}

// follow is an instance that reads, loads at once, reports and waits for the next bundle.
func follow(ctx context.Context, e *Engine, id string) {
	for ctx.Err() == nil {
		r, err := e.Read(ctx, fleet.Reader{Workload: "api", Instance: id}, time.Hour)
		if err != nil {
			continue
		}
		etag := r.Bundle.Holding.Etag
		_, _ = e.Report(ctx, Report{Workload: "api", Instance: id, Secret: r.Secret, Etag: etag, Healthy: true})
		_, _ = e.Renew("api", id, r.Epoch, time.Hour)
		_, _ = e.Watch(ctx, "api", id, etag, time.Second)
	}
}

// hooked calls before as a record under a prefix is about to be stored.
type hooked struct {
	*memStore
	prefix string
	before func()
}

func (s *hooked) Put(ctx context.Context, path string, data []byte) error {
	if s.before != nil && strings.HasPrefix(path, s.prefix) {
		s.before()
	}
	return s.memStore.Put(ctx, path, data)
}

// A first verifier comes at the very moment in which a rotation that nobody holds back is stored. Whatever it is given, those
// that present must not be let go before it accepts what they will present.
func TestNewcomerWhileARotationMoves(t *testing.T) {
	for at, more := 1, true; more; at++ {
		h := newHarness(t)
		h.key("service-token", "token")
		h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"service-token": {Verifies: true}}})
		h.workload(workload.Workload{Name: "agents", Keys: map[string]workload.Role{"service-token": {Presents: true}}})
		h.join("agents", "agents-1")
		store := &hooked{memStore: h.store, prefix: pathActive}
		h.engine.Close()
		options := h.options()
		options.Store = store
		e, err := Open(t.Context(), options)
		h.ok(err)
		h.ok(e.Begin(t.Context()))
		t.Cleanup(e.Close)
		h.engine = e
		h.read(h.readers["agents/agents-1"])
		came, writes := make(chan Reading, 1), 0
		store.before = func() {
			if writes++; writes != at {
				return
			}
			given := make(chan struct{})
			go func() {
				defer close(given)
				r, err := e.Read(t.Context(), fleet.Reader{Workload: "api", Instance: "api-1"}, time.Hour)
				if err != nil {
					t.Error(err)
				}
				came <- r
			}()
			select {
			case <-given:
			case <-time.After(50 * time.Millisecond): // it waits until the rotation has moved
			}
		}
		id := h.rotate("service-token")
		if more = writes >= at; !more {
			if at <= 2 {
				t.Fatalf("only %d writes", writes)
			}
			continue
		}
		held, view := (<-came).Bundle.Holding.Keys["service-token"], h.view(id)
		if len(held.Accepts) < 2 && view.State != rotation.Accepting && view.State != rotation.Planned {
			t.Errorf("write %d: a verifier that came while the rotation moved to %s accepts %v", at, view.State, held.Accepts)
		}
	}
}
