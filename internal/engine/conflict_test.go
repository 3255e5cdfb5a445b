// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/test/kit"
)

// conflict returns what is said of api-1, which is the same everywhere.
func (h *harness) conflict() string {
	h.t.Helper()
	text := h.engine.NameConflict("api", "api-1")
	if all := strings.Join(h.engine.NameConflicts("api"), "\n"); all != text {
		h.t.Errorf("the workload says %q, and the instance %q", all, text)
	}
	return text
}

// Another login asks for a name again and again while the one that has it lives: both are notified. One that has taken over the name of a
// process which is dead is no second one, nor is the process itself, which has logged in again and lost its secret.
func TestTwoLoginsOfOneName(t *testing.T) {
	h := loginHarness(t)
	first, err := h.readAs(loginA1, true, key.Value{})
	h.ok(err)
	_, err = h.readAs(loginB, true, key.Value{})
	if err == nil || strings.Contains(err.Error(), "two processes") || h.conflict() != "" {
		t.Fatalf("two processes after one request: %v", err)
	}
	h.clock.advance(10 * time.Second)
	_, err = h.readAs(loginB, true, key.Value{}) // nothing was heard of the first one since
	if err == nil || strings.Contains(err.Error(), "two processes") || h.conflict() != "" {
		t.Fatalf("two processes, and the first may be dead: %v", err)
	}
	h.clock.advance(5 * time.Second)
	_, err = h.engine.Extend("api", "api-1", first.Secret, time.Hour)
	h.ok(err)
	h.clock.advance(5 * time.Second)
	_, err = h.readAs(loginB, true, key.Value{})
	for _, want := range []string{"two processes use the name api-1: login kubernetes-api has it, and login approle asks for it", "give each its own instance="} {
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(h.conflict(), want) {
			t.Errorf("%v, and %q, do not say %q", err, h.conflict(), want)
		}
	}
	if _, err := h.engine.Extend("api", "api-1", first.Secret, time.Hour); err != nil {
		t.Errorf("the first one is refused: %v", err)
	}
	h.clock.advance(2*time.Minute + time.Second)
	if text := h.conflict(); text != "" {
		t.Errorf("it is said although the other one has ended: %s", text)
	}
}

// Two processes of one login take the name from each other by turns. A single one whose answer was lost does so once.
func TestTwoProcessesOfOneLogin(t *testing.T) {
	h := loginHarness(t)
	report := func(r Reading) error {
		_, err := h.engine.Report(t.Context(), Report{Workload: "api", Instance: "api-1", Secret: r.Secret, Etag: r.Bundle.Holding.Etag, Healthy: true})
		return err
	}
	read := func() Reading {
		r, err := h.readAs(loginA1, true, key.Value{})
		h.ok(err)
		return r
	}
	one := read()
	lost := read() // whose answer was lost
	if report(one) == nil || h.conflict() != "" {
		t.Fatal("the older secret is taken, or means something")
	}
	one = read()
	h.ok(report(one))
	if report(lost) == nil || h.conflict() != "" {
		t.Fatalf("one old secret is a conflict: %s", h.conflict())
	}
	two := read()
	h.ok(report(two))
	if err := report(one); err == nil {
		t.Fatal("the older secret is taken")
	}
	if text := h.conflict(); !strings.Contains(text, "login kubernetes-api reads and reports under it by turns from two places") {
		t.Errorf("it says %q", text)
	}
	h.open()
	if text := h.conflict(); text != "" {
		t.Errorf("it is stored: %s", text)
	}
}

// Watches that end each other again and again are of two processes; a connection that was lost ends one.
func TestTwoWatchesOfOneName(t *testing.T) {
	h := loginHarness(t)
	r, err := h.readAs(loginA1, true, key.Value{})
	h.ok(err)
	ended := make(chan struct{})
	watch := func() {
		go func() {
			_, _ = h.engine.Watch(context.Background(), "api", "api-1", r.Bundle.Holding.Etag, time.Minute)
			ended <- struct{}{}
		}()
	}
	watch()
	kit.Until(t, "it watches", func() bool { watching, _ := h.engine.waiters.Counts(); return watching == 1 })
	for n := range 3 {
		if text := h.conflict(); text != "" {
			t.Errorf("it says so after %d: %s", n, text)
		}
		watch()
		<-ended
	}
	if text := h.conflict(); !strings.Contains(text, "watches under it from two places") {
		t.Errorf("it says %q", text)
	}
	h.ok(h.engine.RemoveInstance(t.Context(), "api", "api-1", testActor))
	if text := h.conflict(); text != "" {
		t.Errorf("it is said of what was removed: %s", text)
	}
	<-ended
}

// left is the context of a caller that has gone, which is noticed late.
type left struct{ context.Context }

func (left) Err() error { return context.Canceled }

// The watches of a single process that closes each before it opens the next do not count, although one may find the one before.
func TestWatchesThatWereClosed(t *testing.T) {
	h := loginHarness(t)
	r, err := h.readAs(loginA1, true, key.Value{})
	h.ok(err)
	ended := make(chan struct{})
	for n := range 5 {
		go func() {
			_, _ = h.engine.Watch(left{context.Background()}, "api", "api-1", r.Bundle.Holding.Etag, time.Minute)
			ended <- struct{}{}
		}()
		if n > 0 {
			<-ended
		}
		kit.Until(t, "it watches", func() bool { watching, _ := h.engine.waiters.Counts(); return watching == 1 })
	}
	if text := h.conflict(); text != "" {
		t.Errorf("it says %q", text)
	}
	h.ok(h.engine.RemoveInstance(t.Context(), "api", "api-1", testActor))
	<-ended
}
