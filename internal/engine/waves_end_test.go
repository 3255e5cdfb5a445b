// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// readsOnly reads as an instance with a name, and reports nothing, as Vault Agent does.
func (h *harness) readsOnly(workloadName, id string) {
	h.t.Helper()
	_, err := h.engine.Read(h.t.Context(), fleet.Reader{Workload: workloadName, Instance: id, Token: fleet.Token{Accessor: id}}, time.Hour)
	h.ok(err)
}

// A change ends when all were let go and those that report nothing have read it: still one after the other, and after a restart, too.
func TestChangeEndsForThoseThatReportNothing(t *testing.T) {
	for _, restart := range []bool{false, true} {
		h := newHarness(t)
		w := h.three()
		silent := []string{"cron-1", "cron-2"}
		for _, id := range silent {
			h.readsOnly("app", id)
		}
		h.ok(h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"one": clientRole, "two": clientRole}), false, testActor))
		for n := range 14 {
			before := h.holders("two")
			h.rounds(1)
			if restart && n == 2 {
				h.open()
				h.readAll()
			}
			for _, id := range silent {
				h.readsOnly("app", id)
			}
			if after := h.holders("two"); after > before+2 { // one in the round, and one by the reads after it
				t.Fatalf("%d instances have the change at once", after-before)
			}
		}
		if n := h.holders("two"); n != 5 || h.engine.Change("app") != "" {
			t.Errorf("%d of 5 instances have the change; %q", n, h.engine.Change("app"))
		}
		w.Keys = map[string]workload.Role{"one": clientRole, "two": serverRole}
		h.ok(h.engine.PutWorkload(t.Context(), w, true, testActor)) // the next change is let through
	}
}

// What waits for an instance names it and the command that ends this. With that, the change continues and ends.
func TestChangeEndsWithoutThoseThatAreGone(t *testing.T) {
	h := newHarness(t)
	w := h.three()
	gone := h.readers["app/app-1"]
	gone.deaf = true
	changed := with(w, map[string]workload.Role{"one": clientRole, "two": clientRole})
	h.ok(h.engine.PutWorkload(t.Context(), changed, false, testActor))
	h.rounds(6)
	const remedy = "vault delete hyvve/workloads/app/instances/app-1"
	if text := h.engine.Change("app"); h.holders("two") != 0 || !strings.Contains(text, "waiting for app/app-1, ") || !strings.Contains(text, remedy) {
		t.Fatalf("%d instances have the change; %q", h.holders("two"), text)
	}
	err := h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"one": serverRole, "two": clientRole}), true, testActor)
	h.refused(err, remedy)

	delete(h.readers, "app/app-1")
	h.ok(h.engine.RemoveInstance(t.Context(), "app", "app-1", testActor))
	h.rounds(8)
	if n := h.holders("two"); n != 2 || h.engine.Change("app") != "" {
		t.Errorf("%d of 2 instances have the change; %q", n, h.engine.Change("app"))
	}

	h.readers["app/app-1"] = gone // it lives after all
	gone.deaf, gone.healthy = false, true
	h.read(gone)
	h.rounds(2)
	if n := h.holders("two"); n != 3 {
		t.Errorf("%d of 3 instances have the change", n)
	}
}

// One that is not healthy with a change holds it up, and is named with the command, too.
func TestUnhealthyInstanceOfAChangeIsNamed(t *testing.T) {
	h := newHarness(t)
	w := h.three()
	h.ok(h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"one": clientRole, "two": clientRole}), false, testActor))
	h.readers["app/app-1"].healthy = false
	h.rounds(5)
	text := h.engine.Change("app")
	for _, want := range []string{"app/app-1 is not healthy with it: ill", "vault delete hyvve/workloads/app/instances/app-1"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
}
