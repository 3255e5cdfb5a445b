// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func (h *harness) readNamed(token fleet.Token, id string) error {
	_, err := h.engine.Read(h.t.Context(), fleet.Reader{Workload: "api", Instance: id, Token: token}, time.Hour)
	return err
}

func TestLimitOfInstances(t *testing.T) {
	h := loginHarness(t)
	c := h.engine.Config()
	c.LoginInstances = 3
	h.ok(h.engine.PutConfig(t.Context(), c, testActor))
	h.workload(workload.Workload{Name: "api", MaxInstances: 5, Keys: map[string]workload.Role{"service-token": {Verifies: true}}})
	for _, id := range []string{"a", "b", ""} {
		h.ok(h.readNamed(loginA1, id))
	}
	refused := func(token fleet.Token, id, want string) {
		t.Helper()
		writes := h.store.writes
		err := h.readNamed(token, id)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v does not say %q", id, err, want)
		}
		if h.store.writes != writes {
			t.Error("a refused read is stored")
		}
	}
	refused(loginA1, "c", "max_instances_per_login is 3")
	refused(loginA1, "", "this login (kubernetes-api) has 3 instances of workload api")
	h.ok(h.readNamed(loginA1, "a")) // one that is there may read again
	h.ok(h.readNamed(loginA2, "c")) // another login has its own
	h.ok(h.readNamed(loginB, "d"))
	refused(loginB, "e", "workload api has 5 instances, and max_instances is 5")
	crowd, ok := h.engine.Crowded("api")
	if want := "3 reads were refused since the engine was opened, the last at 2026-11-23T03:00:00Z of login approle, because max_instances was 5"; !ok || crowd.String() != want {
		t.Errorf("%v, %q", ok, crowd)
	}
	h.clock.advance(24*time.Hour + time.Second)
	if _, ok := h.engine.Crowded("api"); ok {
		t.Error("a limit that was hit long ago is shown")
	}
	h.ok(h.engine.RemoveInstance(t.Context(), "api", "d", testActor))
	h.ok(h.readNamed(loginB, "e"))
	h.open() // they count after a start, too
	refused(loginB, "f", "max_instances is 5")
}

// An instance that moves to another login counts for that one.
func TestLimitFollowsTheLogin(t *testing.T) {
	h := loginHarness(t)
	c := h.engine.Config()
	c.LoginInstances = 1
	h.ok(h.engine.PutConfig(t.Context(), c, testActor))
	first, err := h.readAs(loginA1, true, h.engine.secrets().Secret("", fleet.Read{}))
	h.ok(err)
	_, err = h.readAs(loginB, true, first.Secret)
	h.ok(err)
	h.ok(h.readNamed(loginA1, "a"))
	if err := h.readNamed(loginB, "b"); err == nil {
		t.Error("a login has two instances")
	}
}

// What an operator has removed reads again as a new instance; the journal has who removed it.
func TestRemoveInstance(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	r := h.readers["api/api-1"]
	h.ok(h.engine.RemoveInstance(t.Context(), "api", "api-1", rotation.Actor{Name: "ann", Entity: "e-1"}))
	if _, ok := h.engine.Instance("api", "api-1"); ok {
		t.Fatal("it is there")
	}
	if _, err := h.engine.Extend("api", "api-1", r.reading.Secret, time.Hour); err == nil || !strings.Contains(err.Error(), "read hyvve/creds/api") {
		t.Errorf("its report: %v", err)
	}
	h.read(r)
	live, ok := h.engine.Instance("api", "api-1")
	if !ok || !live.AllProved() || !live.Heartbeat || live.Lease < time.Minute {
		t.Errorf("%v, %+v", ok, live)
	}
	page, err := h.engine.journal.Page(t.Context(), journal.Query{Limit: 100})
	h.ok(err)
	if text := fmt.Sprintf("%+v", page.Entries); !strings.Contains(text, "instance removed") || !strings.Contains(text, "ann") || !strings.Contains(text, "api-1") {
		t.Errorf("the journal has no entry: %s", text)
	}
	h.ok(h.engine.RemoveInstance(t.Context(), "api", "nobody", testActor))
	if err := h.engine.RemoveInstance(t.Context(), "nobody", "x", testActor); err == nil {
		t.Error("of no workload")
	}
}
