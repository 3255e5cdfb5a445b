// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/journal"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind/external"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

var column = key.Column{Table: "t", Column: "c", Layout: key.TagFirst}

// platform is hyvve with a login at a server, a key that protects rows, and a value from elsewhere.
func (h *harness) platform() {
	h.t.Helper()
	h.kinds = kind.List{external.Kind{}}
	h.open()
	h.key("service-token", "token")
	h.key("db", "server")
	h.key("master", "token", column)
	_, err := h.engine.PutKey(h.t.Context(), catalog.Definition{Name: "partner", Kind: "external"}, testActor)
	h.ok(err)
	h.ok(h.first("partner", "canary-of-a-partner"))
	both := workload.Role{Presents: true, Verifies: true}
	h.workload(workload.Workload{Name: "api", MinInstances: 2, Reencrypts: true, Keys: map[string]workload.Role{
		"service-token": {Verifies: true}, "db": {Presents: true}, "master": both, "partner": {Presents: true},
	}})
	h.workload(workload.Workload{Name: "agents", MinInstances: 1, After: []string{"api"}, Keys: map[string]workload.Role{"service-token": {Presents: true}}})
	for _, id := range []string{"api-1", "api-2"} {
		h.join("api", id)
	}
	h.join("agents", "agents-1")
	h.counts("master", 3)
}

// counts lets an instance say how many rows a key has.
func (h *harness) counts(name string, rows int) {
	h.t.Helper()
	l, release := h.engine.acquire()
	defer release()
	k := l.Keys[name]
	current, _ := k.Current()
	l.lock(func(m *memory) {
		m.counted[name] = counted{workload.WorkReport{ID: catalog.CountID(k, current.Number), Columns: []workload.ColumnReport{{Column: "t.c", Total: rows}}}, l.Now(), "api/api-1"}
	})
}

func breakGlass() Request {
	return Request{All: true, Compromised: true, By: ann, Trigger: rotation.ByOperator, Reason: "an intruder"}
}

// all starts a rotation of all keys.
func (h *harness) all(request Request) (View, string) {
	h.t.Helper()
	view, warnings, err := h.engine.Rotate(h.t.Context(), request)
	h.ok(err)
	return view, strings.Join(warnings, "\n")
}

// reasons are why keys were left out, by key.
func reasons(w *rotation.Whole) map[string]string {
	all := map[string]string{}
	if w != nil {
		for _, left := range w.LeftOut {
			all[left.Key] = left.Reason
		}
	}
	return all
}

// One rotation has all keys that can be rotated, and names the others with the command that helps. Instances load it in one bundle a
// step. The plan says the same before, and changes nothing.
func TestBreakGlass(t *testing.T) {
	h := newHarness(t)
	h.platform()
	h.key("unused", "token")
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "young", Kind: "token"}, testActor)
	h.ok(err)
	writes := h.store.writes
	plan, warnings, err := h.engine.Plan(t.Context(), breakGlass())
	h.ok(err)
	if h.store.writes != writes {
		t.Error("the plan has written")
	}
	view, said := h.all(breakGlass())
	for what, w := range map[string]*rotation.Whole{"plan": plan.Rotation.Whole, "rotation": view.Whole, "record": h.view(view.ID).Whole} {
		left := reasons(w)
		if len(left) != 3 || !strings.Contains(left["partner"], "vault write hyvve/rotate key=partner compromised=true value=-") ||
			!strings.Contains(left["unused"], "add_presents=unused") || !strings.Contains(left["young"], "vault write hyvve/keys/young value=-") || len(w.With) > 0 {
			t.Errorf("%s: %+v", what, w)
		}
	}
	if want := []string{"db", "master", "service-token"}; !slices.Equal(view.KeyNames(), want) || !slices.Equal(plan.Rotation.KeyNames(), want) {
		t.Errorf("rotates %v, planned %v", view.KeyNames(), plan.Rotation.KeyNames())
	}
	for _, text := range []string{said, strings.Join(warnings, "\n"), view.Timeline[0].Text} {
		if !strings.Contains(text, "keys=all leaves out partner | unused | young") {
			t.Errorf("%q", text)
		}
	}
	begun := h.clock.Now()
	done := h.until(view.ID, rotation.Done)
	if took := h.clock.Now().Sub(begun); took > 30*time.Second || done.WasCut() || !h.server.cut {
		t.Errorf("took %s: %s", took, done.CutText())
	}
	for name, r := range h.readers {
		differ := slices.CompactFunc(r.held, func(a, b map[string]workload.Held) bool { return maps.EqualFunc(a, b, workload.Held.Equal) })
		if n := len(differ); n < 2 || n > 4 { // as it joined, and once in each of three steps
			t.Errorf("%s has loaded %d bundles", name, n)
		}
	}
	if latest := h.view(Latest); latest.ID != view.ID {
		t.Errorf("the latest is %s", latest.ID)
	}
	if !slices.ContainsFunc(h.entries(), func(n journal.Entry) bool {
		return n.Rotation == view.ID && slices.Contains(n.Changes, rotation.EntryChange{Field: "keys", To: "all"})
	}) {
		t.Error("the journal does not say that it was asked for all keys")
	}
}

// A rotation that runs is cut, and another one follows it: who knows the old version may know the new one, too. Written again, the
// request leaves alone what is compromised already, and takes what is left.
func TestBreakGlassWhileOthersRotate(t *testing.T) {
	h := newHarness(t)
	h.platform()
	h.soaksFor("service-token", time.Hour)
	id := h.rotate("service-token")
	h.until(id, rotation.Soaking)
	plan, _, err := h.engine.Plan(t.Context(), breakGlass())
	h.ok(err)
	view, said := h.all(breakGlass())
	if !slices.Equal(view.KeyNames(), []string{"db", "master"}) || !slices.Equal(plan.Rotation.KeyNames(), view.KeyNames()) {
		t.Errorf("rotates %v, planned %v", view.KeyNames(), plan.Rotation.KeyNames())
	}
	next := h.view(id).Follow
	if next == nil || !next.Compromised {
		t.Fatalf("%+v follows", next)
	}
	with := view.Whole.With
	if len(with) != 1 || with[0].ID != id || !strings.Contains(with[0].Text, "rotation "+next.ID+" replaces") || len(plan.Rotation.Whole.With) != 1 || !strings.Contains(said, id) {
		t.Errorf("%+v, %q", with, said)
	}
	again, _ := h.all(breakGlass())
	if ids, _ := h.engine.RotationIDs(t.Context()); len(ids) != 2 || len(again.Whole.With) != 2 || !strings.Contains(again.Whole.With[0].Text, "compromised already") {
		t.Errorf("rotations are %v, %+v", ids, again.Whole)
	}
	if plan, _, err := h.engine.Plan(t.Context(), breakGlass()); err != nil || len(plan.Rotation.Whole.With) != 2 || len(plan.Moves) == 0 {
		t.Errorf("%+v, %v", plan, err)
	}
	for _, id := range []string{view.ID, id, next.ID} {
		h.until(id, rotation.Done)
	}
	h.expectVersions("service-token", "destroyed, destroyed, current")
	h.expectVersions("db", "destroyed, current")
}

// Keys that would hold up the others have a rotation of their own.
func TestBreakGlassKeepsApart(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(h *harness)
		apart   string
		why     string
	}{
		"many rows": {func(h *harness) { h.counts("master", fewRows+1) }, "master", "it protects more than 5000 rows"},
		"not counted": {func(h *harness) {
			h.until(h.rotate("master"), rotation.Done)
		}, "master", "nobody has counted its rows yet"},
		"four eyes": {func(h *harness) {
			_, err := h.engine.PutKey(h.t.Context(), catalog.Definition{Name: "db", Kind: "server", Policy: key.Policy{ConfirmBy: rotation.ConfirmByOther}}, ann)
			h.ok(err)
		}, "db", "another user has to confirm"},
	} {
		h := newHarness(t)
		h.platform()
		c.prepare(h)
		plan, _, err := h.engine.Plan(t.Context(), breakGlass())
		h.ok(err)
		view, _ := h.all(breakGlass())
		with := view.Whole.With
		if slices.Contains(view.KeyNames(), c.apart) || len(view.Changes) != 2 || len(with) != 1 || !strings.Contains(with[0].Text, "of "+c.apart+", does not hold up the others: "+c.why) {
			t.Fatalf("%s: rotates %v, with %+v", name, view.KeyNames(), with)
		}
		if planned := plan.Rotation.Whole.With; len(planned) != 1 || planned[0].ID != "" || planned[0].Text != with[0].Text+"; its plan: vault write hyvve/rotate key="+c.apart+" compromised=true dry_run=true" {
			t.Errorf("%s: planned %+v", name, planned)
		}
		if latest := h.view(Latest); latest.ID != view.ID {
			t.Errorf("%s: the latest is %s", name, latest.ID)
		}
		h.until(view.ID, rotation.Done)
		if name == "four eyes" {
			if other := h.view(with[0].ID); other.State != rotation.Soaking {
				t.Errorf("%s: %s without a confirmation", name, other.State)
			}
			_, err := h.engine.Confirm(t.Context(), with[0].ID, bob, "")
			h.ok(err)
		}
		h.until(with[0].ID, rotation.Done)
	}
}

// A user without an entity cannot start what another one has to confirm: the key is left out, with the reason, and holds up nothing.
func TestBreakGlassWithoutAnEntity(t *testing.T) {
	h := newHarness(t)
	h.platform()
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "db", Kind: "server", Policy: key.Policy{ConfirmBy: rotation.ConfirmByOther}}, ann)
	h.ok(err)
	request := breakGlass()
	request.By = testActor
	view, _ := h.all(request)
	if left := reasons(view.Whole); !slices.Equal(view.KeyNames(), []string{"master", "service-token"}) || !strings.Contains(left["db"], "your token has no entity") {
		t.Errorf("rotates %v, leaves out %v", view.KeyNames(), left)
	}
}

// Without compromised=true, what rotates already is left alone and named.
func TestRotateAll(t *testing.T) {
	h := newHarness(t)
	h.platform()
	id := h.rotate("db")
	request := breakGlass()
	request.Compromised = false
	view, _ := h.all(request)
	left := reasons(view.Whole)
	if !slices.Equal(view.KeyNames(), []string{"master", "service-token"}) || !strings.Contains(left["db"], "is being rotated by "+id) || strings.Contains(left["partner"], "compromised") || len(view.Next) > 0 {
		t.Errorf("rotates %v, leaves out %v", view.KeyNames(), left)
	}
	if h.view(id).Compromised {
		t.Error("the other one is escalated")
	}
	_, _, err := h.engine.Rotate(t.Context(), request)
	for _, want := range []string{"keys=all: no key can be rotated; nothing was changed; db: ", "partner: ", "master: ", "service-token: "} {
		h.refused(err, want)
	}
}

// What keys=all cannot be combined with, and a name that it would be mistaken for, are refused.
func TestRotateAllIsRefused(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	for want, change := range map[string]func(*Request){
		"value is for one key": func(q *Request) { q.Value = key.NewValue("x") },
		"upgrade is for":       func(q *Request) { q.Upgrade = true },
		"leave out jwt":        func(q *Request) { q.Keys = []string{"jwt"} },
	} {
		request := breakGlass()
		change(&request)
		_, _, err := h.engine.Rotate(t.Context(), request)
		h.refused(err, want)
		_, _, err = h.engine.Plan(t.Context(), request)
		h.refused(err, want)
	}
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "all", Kind: "token"}, testActor)
	h.refused(err, `key name "all" stands for all keys`)
	_, err = h.engine.PutKey(t.Context(), catalog.Definition{Name: Latest, Kind: "token"}, testActor)
	h.refused(err, `key name "latest" stands for the newest rotation`)
	_, _, err = h.engine.Rotate(t.Context(), Request{Keys: []string{"all"}, By: testActor})
	h.refused(err, "to rotate every key, write keys=all")
	_, _, err = newHarness(t).engine.Rotate(t.Context(), breakGlass())
	h.refused(err, "there is no key yet")
}

// Killed before or after any write, and written again, all keys have another version at the end, and no value of before is accepted.
func TestCrashAtEveryWriteBreaksGlass(t *testing.T) {
	atEveryWrite(t, 30, func(at int, after bool) bool {
		h := newHarness(t)
		h.platform()
		h.soaksFor("service-token", time.Hour)
		id := h.rotate("service-token")
		h.until(id, rotation.Presenting)
		h.counts("master", fewRows+1) // two more rotations
		leaked := map[string]key.Value{}
		for _, name := range []string{"db", "master", "service-token"} {
			k, _ := h.engine.Key(name)
			for _, v := range k.Versions {
				leaked[fmt.Sprintf("%s %d", name, v.Number)] = v.Value
			}
		}
		h.failAt(at, after)
		crashed, asked := false, false
		for range 150 {
			crashed = h.reopened() || crashed
			if !asked {
				_, _, err := h.engine.Rotate(t.Context(), breakGlass())
				if asked = err == nil; err != nil && !errors.Is(err, errInjected) && !errors.Is(err, errStale) {
					t.Errorf("write %d (after %v): %v", at, after, err)
				}
			}
			tryRound(h)
			h.clock.advance(time.Second)
			if rs := h.records(); asked && len(rs.active)+len(rs.following) == 0 {
				break
			}
		}
		h.settle()
		h.open()
		ids, err := h.engine.RotationIDs(t.Context())
		h.ok(err)
		for _, id := range ids {
			view := h.view(id)
			if view.State != rotation.Done {
				t.Errorf("write %d (after %v): rotation %s of %v is %s: %s", at, after, id, view.KeyNames(), view.State, view.Waits())
			}
			checkJournal(t, h, view)
		}
		for name, value := range leaked {
			keyName, _, _ := strings.Cut(name, " ")
			k, _ := h.engine.Key(keyName)
			for _, v := range k.Versions {
				if v.State.Live() && v.Value.Equal(value) {
					t.Errorf("write %d (after %v): %s is %s", at, after, name, v.State)
				}
			}
		}
		return crashed
	})
}

// The plan has what would hold back any of the rotations, and says of whose keys.
func TestBreakGlassPlansAllRotations(t *testing.T) {
	h := newHarness(t)
	h.platform()
	h.key("lonely", "token")
	h.key("running", "token")
	h.workload(workload.Workload{Name: "web", MinInstances: 1, Keys: map[string]workload.Role{"lonely": {Presents: true}}})
	h.workload(workload.Workload{Name: "job", MinInstances: 2, Keys: map[string]workload.Role{"running": {Presents: true}}})
	id := h.rotate("running")
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "lonely", Kind: "token", Policy: key.Policy{ConfirmBy: rotation.ConfirmByOther}}, ann)
	h.ok(err)
	h.counts("master", fewRows+1)
	h.rowFault("master", "a column is gone")
	writes := h.store.writes
	for range 2 {
		plan, _, err := h.engine.Plan(t.Context(), breakGlass())
		h.ok(err)
		said := strings.Join(plan.Blockers, "\n")
		for _, want := range []string{
			"beside this rotation, that of lonely: web: 0 of at least 1 instances are there",
			"beside this rotation, that of running: job: 0 of at least 2 instances are there",
			"beside this rotation, that of master: MASTER: api/api-1 could not look at its rows: a column is gone",
		} {
			if strings.Count(said, want) != 1 {
				t.Errorf("no %q in\n%s", want, said)
			}
		}
		if want := []string{"db", "service-token"}; !slices.Equal(plan.Rotation.KeyNames(), want) || len(plan.Blockers) != strings.Count(said, "beside this") {
			t.Errorf("plans %v: %s", plan.Rotation.KeyNames(), said)
		}
	}
	if h.store.writes != writes {
		t.Error("the plan has written")
	}
	for range 2 { // all run, and one of them is the plan's
		view, _ := h.all(breakGlass())
		plan, _, err := h.engine.Plan(t.Context(), breakGlass())
		h.ok(err)
		said := strings.Join(plan.Blockers, "\n")
		for _, want := range []string{"lonely: web: 0 of at least 1", "running: job: 0 of at least 2"} {
			if !strings.Contains(said, want) && !slices.Contains(plan.Rotation.KeyNames(), want[:strings.Index(want, ":")]) {
				t.Errorf("no %q in\n%s, which is that of %v beside %s and %s", want, said, plan.Rotation.KeyNames(), view.ID, id)
			}
		}
	}
}

// rowFault lets the last count of a key's rows have failed.
func (h *harness) rowFault(name, fault string) {
	h.t.Helper()
	h.engine.lock(func(m *memory) {
		c := m.counted[name]
		c.report.Error = fault
		m.counted[name] = c
	})
}

// A server that is away holds up its own keys alone, and the passwords of administrators are left to do until they are rotated.
func TestBreakGlassBesideAServerThatIsAway(t *testing.T) {
	h, _ := connected(t)
	_, _, err := h.engine.First(t.Context(), "db", key.Value{}, testActor)
	h.ok(err)
	h.key("service-token", "token")
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"service-token": {Verifies: true}, "db": {Presents: true}}})
	h.join("api", "api-1")
	for _, away := range []bool{true, false} {
		l, release := h.engine.acquire()
		l.lock(func(m *memory) { m.health[checksConnection+"main"] = Health{} })
		if away {
			l.lock(func(m *memory) {
				m.health[checksConnection+"main"] = Health{Problems: []kind.Problem{{Text: "no answer"}}}
			})
		}
		release()
		plan, _, err := h.engine.Plan(t.Context(), breakGlass())
		h.ok(err)
		if apart := len(plan.Rotation.Whole.With) == 1 && strings.Contains(plan.Rotation.Whole.With[0].Text, "of db, does not hold up the others: connection main has a problem"); apart != away {
			t.Errorf("away %v: %+v", away, plan.Rotation.Whole)
		}
	}
	const step = "vault write -f hyvve/connections/main/rotate-root"
	view, _ := h.all(breakGlass())
	if !slices.Equal(view.Next, []string{step}) {
		t.Errorf("left to do: %q", view.Next)
	}
	h.clock.advance(time.Second)
	_, err = h.engine.RotateRoot(t.Context(), "main", ann)
	h.ok(err)
	if left := h.view(view.ID).Next; len(left) > 0 {
		t.Errorf("left to do: %q", left)
	}
}

// A record has at most a hundred keys.
func TestBreakGlassOfManyKeys(t *testing.T) {
	h := newHarness(t)
	keys := map[string]workload.Role{}
	for n := range maxKeys + 20 {
		name := fmt.Sprintf("key-%03d", n)
		h.key(name, "token")
		keys[name] = workload.Role{Presents: true}
	}
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: keys})
	h.join("api", "api-1")
	view, _ := h.all(breakGlass())
	with := view.Whole.With
	if len(view.Changes) != maxKeys || len(with) != 1 || !strings.Contains(with[0].Text, "of 20 more keys") {
		t.Fatalf("rotates %d keys, with %+v", len(view.Changes), with)
	}
	h.until(view.ID, rotation.Done)
	h.until(with[0].ID, rotation.Done)
}
