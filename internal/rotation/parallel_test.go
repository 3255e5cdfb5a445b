// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/token"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Instances, operators and the engine's own work at once, with real clocks; the race detector looks on. Rotations end, and
// after Close nothing is written.
func TestEverythingAtOnce(t *testing.T) {
	ctx := t.Context()
	store, db := newMemory(), &server{valid: map[string]bool{}, fail: map[string]error{}}
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
		d := Definition{Name: name, Kind: "token", Policy: key.Policy{Soak: 0}}
		if name == "db" {
			d.Kind = "server"
		}
		_, err := e.PutKey(ctx, d, testActor)
		must(err)
		_, _, err = e.First(ctx, name, key.Value{}, testActor)
		must(err)
	}
	must(e.PutWorkload(ctx, workload.Workload{Name: "api", MinInstances: 1, MaxUnavailable: "50%", Keys: roles}, testActor))
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
		r, err := e.Read(ctx, "api", id, time.Hour)
		if err != nil {
			continue
		}
		etag := r.Bundle.Holding.Etag
		_, _ = e.Report(ctx, Report{Workload: "api", Instance: id, Secret: r.Secret, Etag: etag, Healthy: true})
		_, _ = e.Renew("api", id, r.Epoch, time.Hour)
		_, _ = e.Watch(ctx, "api", id, etag, time.Second)
	}
}
