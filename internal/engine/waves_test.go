// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var clientRole, serverRole = workload.Role{Presents: true}, workload.Role{Verifies: true}

// three is a workload that presents a key, with three instances of which one may change at a time, and another key.
func (h *harness) three() workload.Workload {
	h.t.Helper()
	h.key("one", "token")
	h.key("two", "token")
	w := workload.Workload{Name: "app", MinInstances: 3, MaxUnavailable: "1", Keys: map[string]workload.Role{"one": clientRole}}
	h.workload(w)
	h.workload(workload.Workload{Name: "absent", Keys: map[string]workload.Role{"two": serverRole}})
	for n := range 3 {
		h.join("app", fmt.Sprintf("app-%d", n+1))
	}
	return w
}

// holders counts the instances that were given a key.
func (h *harness) holders(name string) (n int) {
	for _, i := range h.engine.Instances("app") {
		if _, ok := i.Issued.Keys[name]; ok {
			n++
		}
	}
	return n
}

func with(w workload.Workload, keys map[string]workload.Role) workload.Workload {
	w.Keys = keys
	return w
}

// A key that live instances hold is not taken from them by a list that lacks it.
func TestDropIsRefused(t *testing.T) {
	h := newHarness(t)
	w := h.three()
	writes := h.store.writes
	err := h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"two": clientRole}), false, testActor)
	h.refused(err, "presents: workload app would lose key one, which these live instances hold: app/app-1, app/app-2, app/app-3; nothing was changed")
	h.refused(err, "add_presents=KEY")
	h.refused(err, "drop=true")
	if h.store.writes != writes || h.holders("one") != 3 {
		t.Error("something was changed")
	}
	for _, r := range h.readers {
		delete(h.readers, r.workload+"/"+r.id)
	}
	h.clock.advance(10 * time.Hour)
	h.rounds(2)
	h.ok(h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"two": clientRole}), false, testActor)) // nobody holds it any more
}

// Instances follow a change one after the other: the next when the one before has loaded it and is healthy.
func TestInstancesFollowInWaves(t *testing.T) {
	for name, keys := range map[string]map[string]workload.Role{
		"one is added":   {"one": clientRole, "two": clientRole},
		"one is dropped": {"two": clientRole},
		"other role":     {"one": {Presents: true, Verifies: true}, "two": serverRole},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			w := h.three()
			for _, r := range h.readers {
				r.deaf = true
			}
			h.ok(h.engine.PutWorkload(t.Context(), with(w, keys), true, testActor))
			h.rounds(5)
			first := h.readers["app/app-1"]
			first.deaf, first.healthy = false, false
			h.rounds(5)
			if n := h.holders("two"); n != 1 {
				t.Fatalf("%d instances have the change while the first is not healthy", n)
			}
			if text := h.engine.Change("app"); !strings.Contains(text, "app/app-1 is not healthy with it: ill") {
				t.Errorf("the workload says %q", text)
			}
			h.open() // which knows who waits
			h.rounds(3)
			if n := h.holders("two"); n != 1 {
				t.Fatalf("%d instances have the change after a crash", n)
			}
			first.healthy = true
			for _, r := range h.readers {
				r.deaf = false
				h.read(r)
			}
			most := 0
			for range 12 {
				before := h.holders("two")
				h.rounds(1)
				most = max(most, h.holders("two")-before)
			}
			if n := h.holders("two"); n != 3 || most > 1 {
				t.Errorf("%d instances have the change, %d at a time", n, most)
			}
			if w, _ := h.engine.Workload("app"); w.Before != nil || h.engine.Change("app") != "" {
				t.Errorf("the change has not ended: %q", h.engine.Change("app"))
			}
			for name := range keys {
				h.until(h.rotate(name), rotation.Done)
			}
		})
	}
}

// A change under way can be undone, and nothing else can be written over it; no rotation of its keys starts, unless one is
// compromised, which nothing may hold up.
func TestChangeUnderWay(t *testing.T) {
	h := newHarness(t)
	w := h.three()
	added := with(w, map[string]workload.Role{"one": clientRole, "two": clientRole})
	h.ok(h.engine.PutWorkload(t.Context(), added, false, testActor))
	h.readers["app/app-1"].healthy = false
	h.rounds(3)
	h.refused(h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"two": clientRole}), true, testActor), "vault write hyvve/workloads/app presents=one")
	more := added
	more.MinInstances = 1
	h.ok(h.engine.PutWorkload(t.Context(), more, false, testActor)) // not about keys
	if err := h.engine.DeleteKey(t.Context(), "two", testActor); !refused(err) {
		t.Errorf("a key that instances hold is deleted: %v", err)
	}

	h.ok(h.engine.PutWorkload(t.Context(), w, false, testActor)) // undone
	h.readers["app/app-1"].healthy = true
	h.rounds(6)
	if n := h.holders("two"); n != 0 || h.engine.Change("app") != "" {
		t.Errorf("%d instances hold what was undone; %q", n, h.engine.Change("app"))
	}

	h.ok(h.engine.PutWorkload(t.Context(), added, false, testActor))
	h.until(h.rotate("two"), rotation.Done) // which waits for those that come to it
	if h.holders("two") != 3 {
		t.Error("the rotation has not waited for instances that follow")
	}
	h.rounds(2)

	h.ok(h.engine.PutWorkload(t.Context(), w, true, testActor)) // dropped
	_, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"two"}, By: testActor, Trigger: rotation.ByOperator})
	h.refused(err, "instances of workload app still follow a change of its keys")
	if plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"two"}}); err != nil || !strings.Contains(strings.Join(plan.Blockers, "\n"), "still follow a change") {
		t.Errorf("the plan does not say it: %v, %v", plan.Blockers, err)
	}
	h.rounds(8)
	if h.holders("two") != 0 || h.engine.Change("app") != "" {
		t.Errorf("not dropped: %q", h.engine.Change("app"))
	}

	h.ok(h.engine.PutWorkload(t.Context(), added, false, testActor))
	id := h.ask(Request{Keys: []string{"two"}, Compromised: true, Deadline: 5 * time.Second})
	h.until(id, rotation.Done)
	if h.holders("two") != 3 || h.engine.Change("app") != "" {
		t.Errorf("a leaked key waits for waves: %q", h.engine.Change("app"))
	}
}

// The first version of a key comes to live instances in waves, too.
func TestFirstVersionComesInWaves(t *testing.T) {
	h := newHarness(t)
	w := h.three()
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "new", Kind: "token"}, testActor)
	h.ok(err)
	h.ok(h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"one": clientRole, "new": clientRole}), false, testActor))
	h.rounds(5)
	h.readers["app/app-1"].healthy = false
	for _, id := range []string{"app/app-2", "app/app-3"} {
		h.readers[id].healthy = true
	}
	h.report(h.readers["app/app-1"])
	_, _, err = h.engine.First(t.Context(), "new", key.Value{}, testActor)
	h.ok(err)
	h.rounds(5)
	if n := h.holders("new"); n != 1 {
		t.Fatalf("%d instances have it while one is not healthy", n)
	}
	h.readers["app/app-1"].healthy = true
	h.report(h.readers["app/app-1"])
	h.rounds(8)
	if n := h.holders("new"); n != 3 {
		t.Errorf("%d instances have it", n)
	}
}

// Killed before or after any write, a change of a definition continues or was not made, and nobody loses a key on the way.
func TestCrashWhileInstancesFollow(t *testing.T) {
	atEveryWrite(t, 4, func(at int, after bool) bool {
		h := newHarness(t)
		w := h.three()
		added := with(w, map[string]workload.Role{"one": clientRole, "two": clientRole})
		h.failAt(at, after)
		crashed := h.throughCrash(time.Second, func() {
			if now, _ := h.engine.Workload("app"); now.Before == nil && !maps.Equal(now.Keys, added.Keys) {
				_ = h.engine.PutWorkload(t.Context(), added, false, testActor)
			}
			if n := h.holders("one"); n != 3 {
				t.Fatalf("write %d: %d instances hold the key that stays", at, n)
			}
		})
		h.open()
		for _, r := range h.readers {
			h.read(r)
		}
		h.rounds(10)
		if n := h.holders("two"); n != 3 || h.engine.Change("app") != "" {
			t.Errorf("write %d, after %v: %d instances have the change; %q", at, after, n, h.engine.Change("app"))
		}
		h.expectWholeJournal(fmt.Sprint("write ", at))
		return crashed
	})
}

// A dry run changes nothing and says whom it is about; what the write would refuse is refused.
func TestDefinitionPlans(t *testing.T) {
	h := newHarness(t)
	w := h.three()
	writes := h.store.writes
	plan, err := h.engine.PlanWorkload(with(w, map[string]workload.Role{"one": clientRole, "two": clientRole}), false)
	h.ok(err)
	if want := []string{"3 live instances would load other files, at most 1 at a time: app-1, app-2, app-3"}; !slices.Equal(plan.Affected, want) || len(plan.Changes) != 1 {
		t.Errorf("%+v", plan)
	}
	if _, err := h.engine.PlanWorkload(with(w, map[string]workload.Role{"two": clientRole}), false); !refused(err) {
		t.Errorf("a drop: %v", err)
	}
	k, err := h.engine.PlanKey(catalog.Definition{Name: "one", Kind: "token", Policy: key.Policy{Soak: time.Hour}}, testActor)
	h.ok(err)
	if want := []string{"workload app uses the key, with 3 live instances"}; !slices.Equal(k.Affected, want) || len(k.Changes) != 1 {
		t.Errorf("%+v", k)
	}
	if h.store.writes != writes {
		t.Error("something was stored")
	}
}

// A workload is not deleted while its instances hold keys: the next rotation would retire what they use, and wait for nobody.
func TestLiveWorkloadsAreNotDeleted(t *testing.T) {
	h := newHarness(t)
	h.key("service-token", "token")
	h.workload(workload.Workload{Name: "app", Keys: map[string]workload.Role{"service-token": {Verifies: true}}})
	h.join("app", "app-1")
	before, _ := h.engine.Workload("app")
	err := h.engine.DeleteWorkload(t.Context(), "app", false, testActor)
	h.refused(err, "hold its keys: app/app-1; nothing was changed")
	h.refused(err, "vault delete hyvve/workloads/app drop=true")
	if w, _ := h.engine.Workload("app"); !w.Uses("service-token") || len(w.Keys) != len(before.Keys) || len(h.engine.Instances("app")) != 1 {
		t.Errorf("the workload is %+v", w)
	}
	h.ok(h.engine.DeleteWorkload(t.Context(), "app", true, testActor))
	if _, there := h.engine.Workload("app"); there {
		t.Error("the workload is there")
	}
}
