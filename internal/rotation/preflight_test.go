// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func TestPreflight(t *testing.T) {
	h := newHarness(t)
	for _, name := range []string{"one", "two"} {
		h.key(name, "server")
		h.workload(workload.Workload{Name: name, Keys: map[string]workload.Role{name: {Presents: true}}})
	}
	request := Request{Keys: []string{"one", "two"}, By: testActor, Trigger: ByOperator}
	h.server.calls, h.server.mounts = nil, nil
	h.server.blockers, h.server.notes = []string{"GRANT is missing"}, []string{"look at this"}

	p, _, err := h.engine.Plan(t.Context(), request)
	h.ok(err)
	if !slices.Contains(p.Blockers, "ONE: GRANT is missing") || !slices.Contains(p.Blockers, "TWO: GRANT is missing") || !slices.Contains(p.Notes, "TWO: look at this") {
		t.Errorf("the plan has blockers %q and notes %q", p.Blockers, p.Notes)
	}
	h.server.fail["preflight"] = errInjected
	p, _, err = h.engine.Plan(t.Context(), request)
	h.ok(err)
	if !slices.Contains(p.Blockers, "ONE: "+errInjected.Error()) {
		t.Errorf("the plan does not say that the check failed: %q", p.Blockers)
	}
	delete(h.server.fail, "preflight")

	id := h.rotate("one", "two")
	h.settle()
	if fault := h.view(id).Fault; !strings.Contains(fault, "GRANT is missing") || slices.Contains(h.server.calls, "stage") {
		t.Errorf("with blockers the fault is %q, after calls %q", fault, h.server.calls)
	}
	h.server.blockers = nil
	h.until(id, Done)

	if mounts := slices.Compact(slices.Clone(h.server.mounts)); len(mounts) != 1 || !regexp.MustCompile(`^[a-z2-7]{6}$`).MatchString(mounts[0]) {
		t.Errorf("keys are of mounts %q", mounts)
	}
	before := h.server.mounts[0]
	h.open()
	h.until(h.rotate("one"), Done)
	if after := h.server.mounts[len(h.server.mounts)-1]; after != before {
		t.Errorf("the mount was %s and is %s after the records were read again", before, after)
	}
	if other := newHarness(t); other.engine.fingerprints.MountID() == before {
		t.Error("two mounts have the same id")
	}
}

func TestPreflightOfAFirstVersion(t *testing.T) {
	h := newHarness(t)
	_, err := h.engine.PutKey(t.Context(), Definition{Name: "one", Kind: "server"}, testActor)
	h.ok(err)
	h.server.blockers = []string{"GRANT is missing"}
	if _, _, err := h.engine.First(t.Context(), "one", key.Value{}, testActor); err == nil || !strings.Contains(err.Error(), "GRANT is missing") || len(h.server.calls) > 0 {
		t.Errorf("first version with a blocker: %v, after calls %q", err, h.server.calls)
	}
}

// Whoever has mended what blocks a rotation does not wait for long.
func TestBlockersAreLookedAtSoon(t *testing.T) {
	for attempts, most := range map[int]time.Duration{1: time.Second, 8: lookBlocked, orphanAfter: retryMost} {
		if after := retryAfter(attempts, fmt.Errorf("key: %w", blocked{"GRANT"})); after > most {
			t.Errorf("after %d attempts it is looked at after %s", attempts, after)
		}
	}
}
