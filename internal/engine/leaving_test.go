// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// leaves lets the sidecar of an instance stop beside its process.
func (h *harness) leaves(r *reader) Extended {
	h.t.Helper()
	x, err := h.engine.Leaving(h.t.Context(), r.workload, r.id, r.reading.Secret, time.Hour)
	h.ok(err)
	r.deaf = true
	return x
}

// A rotation waits for an instance whose sidecar has stopped beside its process until the lease ends, and says so. Nothing proves
// anything in its name, and saying it again does not prolong it. All of it outlives the engine.
func TestLeavingInstanceCountsUntilItsLeaseEnds(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		h := newHarness(t)
		h.hyvve()
		ttl := h.engine.Config().LeaseTTL
		r := h.readers["agents/agents-2"]
		if x := h.leaves(r); x.Lease != ttl || x.Etag != r.reading.Bundle.Holding.Etag {
			t.Errorf("%+v", x)
		}
		stopped := h.clock.Now()
		if restarts {
			h.open()
		}
		plan, _, err := h.engine.Plan(t.Context(), Request{Keys: []string{"service-token"}})
		if h.ok(err); !strings.Contains(strings.Join(plan.Blockers, "; "), "agents: agents-2: its sidecar stopped at "+rotation.Stamp(stopped)) {
			t.Errorf("restarts %v: the plan has blockers %q", restarts, plan.Blockers)
		}
		id := h.rotate("service-token")
		for range 20 {
			h.round()
			h.clock.advance(time.Second)
		}
		h.keepOthersAlive(r)
		view := h.view(id)
		for _, part := range []string{
			"agents-2, still holds version 1 of SERVICE_TOKEN; its sidecar stopped at " + rotation.Stamp(stopped) + " beside a process that may still run, so it counts until " + rotation.Stamp(stopped.Add(ttl)),
			"vault delete hyvve/workloads/agents/instances/agents-2",
		} {
			if !strings.Contains(view.Waits(), part) {
				t.Errorf("restarts %v: the gates lack %q: %s", restarts, part, view.Waits())
			}
		}
		held, _ := h.engine.Instance("agents", "agents-2")
		_, err = h.engine.Report(t.Context(), Report{Workload: "agents", Instance: "agents-2", Secret: r.reading.Secret, Etag: held.Issued.Etag, Healthy: true})
		h.refused(err, "has said at "+rotation.Stamp(stopped)+" that it stops; read hyvve/creds/agents again")
		_, err = h.engine.Extend("agents", "agents-2", r.reading.Secret, time.Hour)
		h.refused(err, "that it stops")
		h.clock.advance(ttl - 20*time.Second - 2*time.Second)
		h.keepOthersAlive(r)
		if x := h.leaves(r); x.Lease != 2*time.Second {
			t.Errorf("said again: %+v", x)
		}
		h.ok(h.engine.Revoke(t.Context(), "agents", "agents-2", r.reading.Epoch)) // Vault's own lease ends
		if all := h.engine.StoppedSidecars("agents"); !h.lives("agents", "agents-2") || len(all) != 1 || all[0].ID != "agents-2" {
			t.Fatalf("restarts %v: gone before its time; leaving %+v", restarts, all)
		}
		if view := h.view(id); view.State != rotation.Presenting {
			t.Fatalf("the rotation is %s", view.State)
		}
		h.clock.advance(3 * time.Second)
		if h.lives("agents", "agents-2") {
			t.Error("it stays after its lease")
		}
		h.until(id, rotation.Done)
		all := h.engine.StoppedSidecars("agents")
		if len(all) != 1 || !all[0].Lapsed || !strings.Contains(all[0].Text, "so that rotations did not wait for it; if it runs, it presents version 1 of SERVICE_TOKEN, which is destroyed; start the sidecar again") {
			t.Fatalf("after its lease: %+v", all)
		}
		if h.open(); len(h.engine.StoppedSidecars("agents")) != 1 || h.engine.StoppedSidecars("agents")[0].Text != all[0].Text {
			t.Errorf("after a restart: %+v, and before: %+v", h.engine.StoppedSidecars("agents"), all)
		}
		if restarts {
			h.ok(h.engine.RemoveInstance(t.Context(), "agents", "agents-2", testActor))
		} else {
			h.read(r)
		}
		for range 2 {
			if all := h.engine.StoppedSidecars("agents"); len(all) != 0 {
				t.Errorf("it is still shown: %+v", all)
			}
			h.open()
		}
	}
}

// keepOthersAlive lets all but one instance send a sign of life.
func (h *harness) keepOthersAlive(but *reader) {
	for _, r := range h.readers {
		if r != but {
			h.extend(r)
		}
	}
}

// A sidecar that comes back takes its instance over at once, also with another login of its entity, and proves again.
func TestLeavingEndsWithTheNextRead(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		h := loginHarness(t)
		first, err := h.readAs(loginA1, true, key.Value{})
		h.ok(err)
		_, err = h.engine.Leaving(t.Context(), "api", "api-1", first.Secret, time.Hour)
		h.ok(err)
		if restarts {
			h.open()
		}
		h.engine.SignOfLife("api", "api-1", loginA1) // a request that was late
		if _, err := h.readAs(loginB, true, key.Value{}); err == nil {
			t.Error("another entity has the name")
		}
		second, err := h.readAs(loginA2, true, key.Value{})
		h.ok(err)
		if h.open(); len(h.engine.StoppedSidecars("api")) != 0 {
			t.Error("it is leaving after its read and a crash")
		}
		if _, err := h.engine.Leaving(t.Context(), "api", "api-1", first.Secret, time.Hour); !refused(err) {
			t.Errorf("the secret of an older read: %v", err)
		}
		_, err = h.engine.Report(t.Context(), Report{Workload: "api", Instance: "api-1", Secret: second.Secret, Etag: second.Bundle.Holding.Etag, Healthy: true})
		h.ok(err)
		if i := h.engine.Instances("api")[0]; !i.AllProved() || !i.Healthy {
			t.Errorf("%+v", i)
		}
	}
}

// That a sidecar stops is stored, or not said: before a write that fails and after it.
func TestLeavingThroughACrash(t *testing.T) {
	for _, after := range []bool{false, true} {
		h := newHarness(t)
		h.hyvve()
		r := h.readers["api/api-1"]
		h.failAt(1, after)
		if _, err := h.engine.Leaving(t.Context(), "api", "api-1", r.reading.Secret, time.Hour); err == nil {
			t.Fatal("no write failed")
		}
		h.reopened()
		if n := len(h.engine.StoppedSidecars("api")); n == 1 != after {
			t.Errorf("after %v: %d are leaving", after, n)
		}
		h.leaves(r)
		if n := len(h.engine.StoppedSidecars("api")); n != 1 {
			t.Errorf("after %v: said again, %d are leaving", after, n)
		}
	}
}

// lapsedRecords are the paths of the stored records of instances that have lapsed.
func (h *harness) lapsedRecords() (paths []string) {
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	for path := range h.store.data {
		if strings.HasPrefix(path, pathLapsed) {
			paths = append(paths, path)
		}
	}
	return paths
}

// Killed before or after any write, an instance that has lapsed stays so until its sidecar is back, or somebody says that its process
// has ended. It is never live and lapsed at once, and leaves no record afterwards.
func TestLapsedThroughACrash(t *testing.T) {
	for _, comesBack := range []bool{false, true} {
		atEveryWrite(t, 3, func(at int, after bool) (crashed bool) {
			h := newHarness(t)
			h.key("one", "token")
			h.workload(workload.Workload{Name: "app", MinInstances: 0, Keys: map[string]workload.Role{"one": clientRole}})
			r := h.join("app", "app-1")
			h.leaves(r)
			h.failAt(at, after)
			shown := func(when string, want bool) {
				t.Helper()
				var all []string
				h.engine.lock(func(m *memory) {
					for _, l := range m.fleets["app"].Lapsed(h.clock.Now()) {
						all = append(all, l.ID)
					}
				})
				live := len(h.engine.Instances("app"))
				if want && len(all)+live != 1 || !want && len(all) > 0 {
					t.Errorf("write %d, after %v: %s, %d are live, and lapsed are %q", at, after, when, live, all)
				}
			}
			for range 3 {
				h.clock.advance(2 * h.engine.Config().LeaseTTL)
				h.engine.Tick(t.Context())
				crashed = h.reopened() || crashed
				shown("its lease has ended", true)
			}
			if len(h.engine.Instances("app")) > 0 {
				t.Errorf("write %d, after %v: it stays", at, after)
			}
			for range 2 {
				var err error
				if comesBack {
					_, err = h.engine.Read(t.Context(), fleet.Reader{Workload: "app", Instance: "app-1", Token: fleet.Token{Accessor: "a"}}, time.Hour)
				} else {
					err = h.engine.RemoveInstance(t.Context(), "app", "app-1", testActor)
				}
				if err != nil && !errors.Is(err, errInjected) {
					t.Fatal(err)
				}
				crashed = h.reopened() || crashed
			}
			shown("it is settled", false)
			h.open()
			shown("it is settled, and the engine opened again", false)
			if left := h.lapsedRecords(); len(left) > 0 {
				t.Errorf("write %d, after %v: records stay: %q", at, after, left)
			}
			return crashed
		})
	}
}

// What is stored of instances that have lapsed is bounded, and ends with the workload. A damaged record is no reason to refuse the mount.
func TestLapsedRecordsAreBounded(t *testing.T) {
	h := newHarness(t)
	h.key("one", "token")
	h.workload(workload.Workload{Name: "app", MinInstances: 0, Keys: map[string]workload.Role{"one": clientRole}})
	lapse := func(n int) {
		t.Helper()
		r := h.join("app", fmt.Sprintf("app-%03d", n))
		h.leaves(r)
		h.ok(h.engine.lapse(t.Context(), "app", r.id, func(*fleet.Fleet, workload.Instance) bool { return true }))
		h.clock.advance(time.Second)
	}
	for n := range 103 {
		lapse(n)
	}
	if all := h.lapsedRecords(); len(all) != 100 || slices.Contains(all, pathLapsed+"app/app-002") || !slices.Contains(all, pathLapsed+"app/app-003") {
		t.Errorf("%d records are kept", len(all))
	}
	h.clock.advance(25 * time.Hour)
	lapse(200)
	if all := h.lapsedRecords(); len(all) != 1 {
		t.Errorf("%d records are kept after a day", len(all))
	}
	h.store.data[pathLapsed+"app/app-damaged"] = []byte("{")
	h.store.data[pathLapsed+"gone/gone-1"] = h.store.data[pathLapsed+"app/app-200"]
	h.open()
	if all := h.lapsedRecords(); len(all) != 1 {
		t.Errorf("a start keeps %q", all)
	}
	h.join("app", "app-200")
	if all := h.lapsedRecords(); len(all) > 0 {
		t.Errorf("it is back, and %q are kept", all)
	}
	lapse(201)
	h.ok(h.engine.DeleteWorkload(t.Context(), "app", true, testActor))
	if all := h.lapsedRecords(); len(all) > 0 {
		t.Errorf("after the workload, %q are kept", all)
	}
}

// After a start of the engine, too, the next sidecar has the name of one that has stopped at once, with another login of its entity.
func TestLeavingFreesTheNameAfterARestart(t *testing.T) {
	h := loginHarness(t)
	first, err := h.readAs(loginA1, true, key.Value{})
	h.ok(err)
	_, err = h.engine.Leaving(t.Context(), "api", "api-1", first.Secret, time.Hour)
	h.ok(err)
	h.open()
	_, err = h.readAs(loginA2, true, key.Value{})
	h.ok(err)
}

// Of very many stopped sidecars whose leases have ended, the newest are shown, and none that is back.
func TestNewestLapsedAreKept(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	now := h.clock.Now()
	i := h.engine.Instances("api")[0]
	back := i.ID
	i.Leaving = workload.Leaving{At: now, Until: now}
	h.engine.lock(func(m *memory) {
		f := m.fleets["api"]
		f.Lapse(i, now)
		for n := range 101 {
			i.ID = fmt.Sprintf("gone-%03d", n)
			f.Lapse(i, now.Add(time.Duration(n)*time.Second))
		}
		all := f.Lapsed(now)
		if len(all) != 100 || all[0].ID != "gone-001" || all[99].ID != "gone-100" {
			t.Errorf("%d are kept, from %s to %s, and %s is back", len(all), all[0].ID, all[len(all)-1].ID, back)
		}
	})
}

// A lease is shorter than the time in which instances come back to an engine that has just started: an instance whose sidecar has
// stopped counts for that time, in which the next sidecar may come.
func TestLeavingInstanceMayComeBackToANewEngine(t *testing.T) {
	h := newHarness(t)
	config := h.engine.Config()
	config.LeaseTTL = 20 * time.Second
	h.ok(h.engine.PutConfig(t.Context(), config, testActor))
	h.hyvve()
	_, err := h.engine.Leaving(t.Context(), "agents", "agents-2", h.readers["agents/agents-2"].reading.Secret, time.Hour)
	h.ok(err)
	delete(h.readers, "agents/agents-2")
	h.open()
	begun := h.clock.Now()
	id := h.rotate("service-token")
	for h.clock.Now().Sub(begun) < fleet.ReturnTime-time.Second {
		h.round()
		h.clock.advance(time.Second)
	}
	if view := h.view(id); view.State == rotation.Retiring || view.Finished() {
		t.Errorf("%s %s while its next sidecar may still come", view.State, view.Step)
	}
	if _, there := h.engine.Instance("agents", "agents-2"); !there {
		t.Error("it is gone")
	}
}
