// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/schedule"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func TestPreflight(t *testing.T) {
	h := newHarness(t)
	for _, name := range []string{"one", "two"} {
		h.key(name, "server")
		h.workload(workload.Workload{Name: name, Keys: map[string]workload.Role{name: {Presents: true}}})
	}
	request := Request{Keys: []string{"one", "two"}, By: testActor, Trigger: rotation.ByOperator}
	h.server.calls, h.server.mounts = nil, nil
	h.server.blockers, h.server.notes = []string{"GRANT is missing"}, []string{"look at this"}

	p, _, err := h.engine.Plan(t.Context(), request)
	h.ok(err)
	if !slices.Contains(p.Blockers, "ONE, TWO: GRANT is missing") || !slices.Contains(p.Notes, "ONE, TWO: look at this") {
		t.Errorf("the plan has blockers %q and notes %q", p.Blockers, p.Notes)
	}
	h.server.fail["preflight"] = errInjected
	p, _, err = h.engine.Plan(t.Context(), request)
	h.ok(err)
	if !slices.Contains(p.Blockers, "ONE, TWO: "+errInjected.Error()) {
		t.Errorf("the plan does not say that the check failed: %q", p.Blockers)
	}
	delete(h.server.fail, "preflight")

	id := h.rotate("one", "two")
	h.settle()
	if fault := h.view(id).Fault; !strings.Contains(fault, "GRANT is missing") || slices.Contains(h.server.calls, "stage") {
		t.Errorf("with blockers the fault is %q, after calls %q", fault, h.server.calls)
	}
	h.server.blockers = nil
	h.until(id, rotation.Done)

	if mounts := slices.Compact(slices.Clone(h.server.mounts)); len(mounts) != 1 || !regexp.MustCompile(`^[a-z2-7]{6}$`).MatchString(mounts[0]) {
		t.Errorf("keys are of mounts %q", mounts)
	}
	before := h.server.mounts[0]
	h.open()
	h.until(h.rotate("one"), rotation.Done)
	if after := h.server.mounts[len(h.server.mounts)-1]; after != before {
		t.Errorf("the mount was %s and is %s after the records were read again", before, after)
	}
	if other := newHarness(t); other.engine.base.Fingerprints.MountID() == before {
		t.Error("two mounts have the same id")
	}
}

func TestPreflightOfAFirstVersion(t *testing.T) {
	h := newHarness(t)
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "one", Kind: "server"}, testActor)
	h.ok(err)
	h.server.blockers = []string{"GRANT is missing"}
	if _, _, err := h.engine.First(t.Context(), "one", key.Value{}, testActor); err == nil || !strings.Contains(err.Error(), "GRANT is missing") || len(h.server.calls) > 0 {
		t.Errorf("first version with a blocker: %v, after calls %q", err, h.server.calls)
	}
}

// After an operator has mended what blocks a rotation, it does not wait for long.
func TestBlockersAreLookedAtSoon(t *testing.T) {
	for attempts, most := range map[int]time.Duration{1: time.Second, 8: lookBlocked, schedule.OrphanAfter: schedule.MaxBackoff} {
		if after := retryAfter(attempts, fmt.Errorf("key: %w", blocked{"GRANT"})); after > most {
			t.Errorf("after %d attempts it is looked at after %s", attempts, after)
		}
	}
}

// An import warns of what would block a rotation, and is good without that.
func TestImportForeseesARotation(t *testing.T) {
	h := newHarness(t)
	for _, name := range []string{"one", "two", "three"} {
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: name, Kind: "server"}, testActor)
		h.ok(err)
	}
	first := func(name string) string {
		k, warnings, err := h.engine.First(t.Context(), name, key.NewValue("a value of "+name), testActor)
		h.ok(err)
		if current, ok := k.Current(); !ok || current.Number != 1 {
			t.Errorf("%s has versions %v", name, k.Versions)
		}
		return strings.Join(warnings, "\n")
	}
	h.server.blockers, h.server.notes = []string{"GRANT is missing"}, []string{"look at this"}
	if warnings := first("one"); warnings != "key one: its rotation would be blocked: GRANT is missing\nkey one: look at this" {
		t.Errorf("warnings: %s", warnings)
	}
	h.server.fail["preflight"] = errInjected
	if warnings := first("two"); !strings.Contains(warnings, "key two: whether it can be rotated was not checked at its server: "+errInjected.Error()) {
		t.Errorf("warnings with a server that is away: %s", warnings)
	}
	h.server.blockers, h.server.notes = nil, nil
	delete(h.server.fail, "preflight")
	if warnings := first("three"); warnings != "" {
		t.Errorf("warnings: %s", warnings)
	}
}
