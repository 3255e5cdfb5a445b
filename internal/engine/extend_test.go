// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
)

func (h *harness) extend(r *reader) Extended {
	h.t.Helper()
	x, err := h.engine.Extend(r.workload, r.id, r.reading.Secret, time.Hour)
	h.ok(err)
	return x
}

// lives reports whether an instance counts as live, after the engine has looked.
func (h *harness) lives(workloadName, id string) bool {
	h.engine.Tick(h.t.Context())
	for _, i := range h.engine.Instances(workloadName) {
		if i.ID == id {
			return true
		}
	}
	return false
}

// An instance that reports is live even if the lease that Vault keeps is revoked, until it has been silent for a lease.
func TestReportsExtendTheLease(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	r := h.readers["api/api-1"]
	ttl := h.engine.Config().LeaseTTL
	if x := h.extend(r); x.Etag != r.reading.Bundle.Holding.Etag || x.Lease != ttl {
		t.Errorf("%+v", x)
	}
	h.ok(h.engine.Revoke(t.Context(), "api", "api-1", r.reading.Epoch))
	if !h.lives("api", "api-1") {
		t.Fatal("a revoked lease removes an instance that reports")
	}
	h.clock.advance(ttl - time.Second)
	h.extend(r)
	h.read(r) // a newer lease, which ends at once
	h.ok(h.engine.Revoke(t.Context(), "api", "api-1", r.reading.Epoch))
	h.clock.advance(ttl - time.Second)
	if !h.lives("api", "api-1") {
		t.Fatal("an instance is gone before its time")
	}
	h.clock.advance(2 * time.Second)
	if h.lives("api", "api-1") {
		t.Error("an instance that is silent stays")
	}
	if _, err := h.engine.Extend("api", "api-1", r.reading.Secret, time.Hour); !refused(err) {
		t.Errorf("one that is gone is extended: %v", err)
	}
}

// After a restart an instance whose lease Vault no longer has is waited for, and its word counts.
func TestExtensionsSurviveARestart(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	r := h.readers["api/api-1"]
	h.extend(r)
	h.open()
	h.ok(h.engine.Revoke(t.Context(), "api", "api-1", r.reading.Epoch))
	h.clock.advance(fleet.ReturnTime - time.Second)
	if !h.lives("api", "api-1") {
		t.Fatal("it is not given the time to come back")
	}
	h.extend(r)
	h.clock.advance(h.engine.Config().LeaseTTL - time.Second)
	if !h.lives("api", "api-1") {
		t.Error("what it says after a restart does not extend its lease")
	}
}

// Only the instance itself can take its leave: with the secret of its newest read. It may say so again.
func TestLeaveNeedsTheSecretOfTheNewestRead(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	r, other := h.readers["api/api-1"], h.readers["agents/agents-1"]
	older := r.reading.Secret
	h.read(r)
	h.extend(r)
	for _, secret := range []key.Value{older, other.reading.Secret, key.NewValue(""), key.NewValue("1-1.x")} {
		if err := h.engine.Leave(t.Context(), "api", "api-1", secret); !refused(err) {
			t.Errorf("believed: %v", err)
		}
	}
	if !h.lives("api", "api-1") {
		t.Fatal("it is removed by somebody else")
	}
	for range 2 {
		h.ok(h.engine.Leave(t.Context(), "api", "api-1", r.reading.Secret))
	}
	if h.lives("api", "api-1") {
		t.Error("it is still there")
	}
	if err := h.engine.Leave(t.Context(), "api", "api-1", key.NewValue("guess")); !refused(err) {
		t.Errorf("a guess is believed: %v", err)
	}
}
