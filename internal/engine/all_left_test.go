// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/kind"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

// Keys that share a login, of workloads that would be in different rotations, are in one.
func TestBreakGlassOfManyKeysThatShareALogin(t *testing.T) {
	h, l := connected(t)
	h.kinds = kind.List{named{l}}
	h.open()
	h.ok(h.put("main", "LOCALHOST:1"))
	first, last := map[string]workload.Role{}, map[string]workload.Role{}
	for n := range maxKeys + 2 {
		name := fmt.Sprintf("key-%03d", n)
		h.key(name, "token")
		first[name] = workload.Role{Presents: true}
	}
	for name, keys := range map[string]map[string]workload.Role{"one": first, "two": last} {
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: name, Kind: "login", Options: kind.Options{"connection": "main"}}, testActor)
		h.ok(err)
		h.ok(h.first(name, "app:1"))
		keys[name] = workload.Role{Presents: true}
	}
	delete(first, "one")
	h.workload(workload.Workload{Name: "app", Keys: map[string]workload.Role{"one": {Presents: true}}})
	h.workload(workload.Workload{Name: "main", Keys: first})
	h.workload(workload.Workload{Name: "zoo", Keys: last})
	view, _ := h.all(breakGlass()) // all but db, which has no version
	if len(view.Whole.LeftOut) != 1 || len(view.Whole.With) != 1 {
		t.Fatalf("%+v", view.Whole)
	}
	of := func(name string) string { return h.records().rotating[name] }
	if of("one") == "" || of("one") != of("two") {
		t.Errorf("in rotations %q and %q", of("one"), of("two"))
	}
}

// A rotation of a compromised key that goes back brings the compromised version in use again: another one has to follow.
func TestBreakGlassWhileACompromisedKeyGoesBack(t *testing.T) {
	for _, which := range []string{rotation.LeakedOld, rotation.LeakedNew} {
		h := newHarness(t)
		h.platform()
		id := h.rotate("service-token")
		h.until(id, rotation.Presenting)
		h.readers["api/api-1"].deaf = true // holds it up
		h.leaks(id, which)
		if which == rotation.LeakedOld {
			_, err := h.engine.Revert(h.t.Context(), id, ann, "")
			h.ok(err)
		}
		if view := h.view(id); view.State != rotation.Reverting || !view.Compromised {
			t.Fatalf("%s: %s", which, view.State)
		}
		view, _ := h.all(breakGlass())
		follow := h.view(id).Follow
		if follow == nil || !follow.Compromised {
			t.Fatalf("%s: %+v follows; %+v", which, follow, view.Whole)
		}
		again, _ := h.all(breakGlass())
		if !strings.Contains(again.Whole.With[0].Text, "compromised already") || h.view(id).Follow.ID != follow.ID {
			t.Errorf("%s: %+v", which, again.Whole)
		}
		h.readers["api/api-1"].deaf = false
		h.until(id, rotation.Reverted)
		h.until(follow.ID, rotation.Done)
	}
}

// Of a paused rotation of a compromised key nobody knows whether its new version has leaked, too: the answer says what to do then.
func TestBreakGlassResumesACompromisedRotation(t *testing.T) {
	h := newHarness(t)
	h.platform()
	id := h.rotate("service-token")
	h.leaks(id, rotation.LeakedOld)
	_, err := h.engine.Pause(t.Context(), id, testActor, "lunch")
	h.ok(err)
	view, _ := h.all(breakGlass())
	with := view.Whole.With
	if len(with) != 1 || !strings.Contains(with[0].Text, "vault write hyvve/rotations/"+id+"/compromised which=both") || h.view(id).Paused != nil {
		t.Errorf("%+v", with)
	}
}

// Retention that is asked for keeps nothing from being escalated.
func TestBreakGlassErasesAtOnce(t *testing.T) {
	h := newHarness(t)
	h.platform()
	h.soaksFor("service-token", time.Hour)
	id := h.rotate("service-token")
	h.until(id, rotation.Soaking)
	request := breakGlass()
	request.Retain = new(time.Duration(0))
	view, _ := h.all(request)
	if !h.view(id).Compromised || slices.ContainsFunc(view.Whole.LeftOut, func(l rotation.LeftOut) bool { return l.Key == "service-token" }) {
		t.Errorf("%+v", view.Whole)
	}
}

// A server that went away, or hangs, since its last check is found before anything is started: only its keys wait for it.
func TestBreakGlassLooksAtServers(t *testing.T) {
	for what, why := range map[string]string{"away": "has a problem", "hangs": "does not answer"} {
		h, l := connected(t)
		_, _, err := h.engine.First(t.Context(), "db", key.Value{}, testActor)
		h.ok(err)
		h.key("service-token", "token")
		h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"service-token": {Verifies: true}, "db": {Presents: true}}})
		h.join("api", "api-1")
		l.password = "another"
		h.clock.advance(time.Minute)
		o := h.options()
		o.Background = map[string]func(func()){"hangs": func(func()) {}}[what]
		e, err := Open(t.Context(), o)
		h.ok(err)
		h.ok(e.Begin(t.Context()))
		defer e.Close()
		h.clock.advance(time.Minute)
		for _, dry := range []bool{true, false} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			var r rotation.Rotation
			if dry {
				plan, _, err := e.Plan(ctx, breakGlass())
				h.ok(err)
				r = plan.Rotation
			} else {
				view, _, err := e.Rotate(ctx, breakGlass())
				h.ok(err)
				r = view.Rotation
			}
			cancel()
			if with := r.Whole.With; !slices.Equal(r.KeyNames(), []string{"service-token"}) || len(with) != 1 || !strings.Contains(with[0].Text, "of db, does not hold up the others: connection main "+why) {
				t.Errorf("%s, dry run %v: rotates %v, with %+v", what, dry, r.KeyNames(), with)
			}
		}
	}
}

// countedLogin is a login whose server is asked before a rotation.
type countedLogin struct {
	*login
	asked atomic.Int32
}

func (c *countedLogin) Preflight(context.Context, kind.Change) (blockers, notes []string, err error) {
	c.asked.Add(1)
	return nil, nil, nil
}

// Nobody waits for a server that hangs once more: the plan says that it does not answer, and does not ask it.
func TestBreakGlassPlansBesideAServerThatHangs(t *testing.T) {
	for _, alone := range []bool{false, true} {
		h, l := connected(t)
		_, _, err := h.engine.First(t.Context(), "db", key.Value{}, testActor)
		h.ok(err)
		keys := map[string]workload.Role{"db": {Presents: true}}
		said := "DB: connection main does not answer"
		if !alone {
			h.key("service-token", "token")
			keys["service-token"] = workload.Role{Verifies: true}
			said = "beside this rotation, that of db: " + said
		}
		h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: keys})
		h.join("api", "api-1")
		server := &countedLogin{login: l}
		for _, hangs := range []bool{true, false} {
			o := h.options()
			o.Kinds = append(kind.List{server}, o.Kinds[:2]...)
			o.Background = map[bool]func(func()){true: func(func()) {}}[hangs]
			e, err := Open(t.Context(), o)
			h.ok(err)
			defer e.Close()
			h.ok(e.Begin(t.Context()))
			h.clock.advance(time.Minute)
			server.asked.Store(0)
			request := breakGlass()
			if hangs {
				request.silent = []string{"main"} // as the look at it finds after a while
			}
			var a allPreview
			h.ok(e.update(func(l *locked) (err error) { a, err = l.previewAll(t.Context(), request); return err }))
			plan, _, err := a.plan(t.Context(), e)
			h.ok(err)
			if got := slices.Contains(plan.Blockers, said); got != hangs || server.asked.Load() > 0 == hangs {
				t.Errorf("alone %v, hangs %v: asked %d times, blockers %q", alone, hangs, server.asked.Load(), plan.Blockers)
			}
		}
	}
}

// A rotation of a compromised key that is refused changes nothing: instances still follow a change of their keys one after the other.
func TestRefusedCompromisedRotationEndsNoChange(t *testing.T) {
	h, l := connected(t)
	h.kinds = kind.List{named{l}}
	h.open()
	h.ok(h.put("main", "LOCALHOST:1"))
	h.key("token", "token")
	for _, name := range []string{"one", "two"} {
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: name, Kind: "login", Options: kind.Options{"connection": "main"}}, testActor)
		h.ok(err)
		h.ok(h.first(name, "app:1"))
	}
	keys := map[string]workload.Role{"token": {Presents: true}}
	w := workload.Workload{Name: "app", MaxUnavailable: "1", Keys: keys}
	h.workload(w)
	for _, id := range []string{"app-1", "app-2"} {
		h.join("app", id).deaf = true
	}
	h.ok(h.engine.PutWorkload(t.Context(), with(w, map[string]workload.Role{"token": {Presents: true}, "one": {Presents: true}}), false, testActor))
	before := h.engine.Change("app")
	writes := h.store.writes
	_, _, err := h.engine.Rotate(t.Context(), Request{Keys: []string{"one"}, Compromised: true, By: ann})
	h.refused(err, "nothing was changed")
	if after := h.engine.Change("app"); before == "" || after != before || h.store.writes != writes {
		t.Errorf("%q became %q, with %d writes", before, after, h.store.writes-writes)
	}
}

// Without compromised=true a key whose witness cannot look is left out with the reason, and holds up nothing. The plan says so, too.
func TestRotateAllLeavesOutTheBlind(t *testing.T) {
	h, _, look := seeing(t)
	h.key("token", "token")
	h.workload(workload.Workload{Name: "other", Keys: map[string]workload.Role{"token": {Presents: true}}})
	look.fault = errors.New("role hyvve may not read column c")
	request := breakGlass()
	request.Compromised = false
	plan, _, err := h.engine.Plan(t.Context(), request)
	h.ok(err)
	view, _ := h.all(request)
	for what, r := range map[string]rotation.Rotation{"plan": plan.Rotation, "rotation": view.Rotation} {
		if left := reasons(r.Whole); !slices.Equal(r.KeyNames(), []string{"token"}) || !strings.Contains(left["master"], "role hyvve may not read column c") {
			t.Errorf("%s: rotates %v, leaves out %v", what, r.KeyNames(), left)
		}
	}
}

// paired are eyes of which those of connection main answer once those of another connection have looked.
type paired struct {
	*eyes
	looked chan struct{}
}

func (p *paired) LookAtRows(ctx context.Context, c kind.Connection, look kind.RowLook) (workload.WorkReport, error) {
	if c.Name != "main" {
		defer close(p.looked)
		return p.report, ctx.Err()
	}
	select {
	case <-p.looked:
		return p.report, errors.New("it took long")
	case <-ctx.Done():
		return p.report, ctx.Err()
	}
}

// A connection that hangs leaves out its own keys alone.
func TestRotateAllLeavesOutNoKeyForAnothersWitness(t *testing.T) {
	h, _, look := seeing(t)
	h.kinds = kind.List{&paired{look, make(chan struct{})}}
	h.open()
	_, err := h.engine.PutConnection(t.Context(), kind.Connection{Name: "second", Kind: "eyes"}, true, testActor)
	h.ok(err)
	h.key("other", "token", key.Column{Table: "t", Column: "d", Layout: key.TagFirst})
	_, err = h.engine.PutKey(t.Context(), catalog.Definition{Name: "other", Kind: "token", Protects: []key.Column{{Table: "t", Column: "d", Layout: key.TagFirst}}, Witness: "second"}, testActor)
	h.ok(err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if blind := h.engine.blind(ctx); len(blind) != 1 || !strings.Contains(blind["MASTER"], "it took long") {
		t.Errorf("%v", blind)
	}
}

// A rotation that is to follow, and could not start before, takes no key from the main rotation, which takes its place.
func TestBreakGlassTakesTheKeysOfAFollower(t *testing.T) {
	h := newHarness(t)
	h.platform()
	h.key("idle", "token")
	h.workload(workload.Workload{Name: "idle", Keys: map[string]workload.Role{"idle": {Presents: true}}})
	id := h.rotate("service-token")
	h.until(id, rotation.Presenting)
	view, _ := h.leaks(id, rotation.LeakedNew)
	def := catalog.Definition{Name: "service-token", Kind: "token", Policy: key.Policy{ConfirmBy: rotation.ConfirmByOther}}
	_, err := h.engine.PutKey(t.Context(), def, ann)
	h.ok(err)
	h.lastWithout(id)
	h.until(id, rotation.Reverted)
	h.soaksFor("idle", time.Hour)
	idle := h.rotate("idle")
	h.until(idle, rotation.Soaking)
	h.open() // it may be tried again at once
	def.Policy.ConfirmBy = rotation.ConfirmByAny
	_, err = h.engine.PutKey(t.Context(), def, ann)
	h.ok(err)
	if len(h.records().following) != 1 {
		t.Fatalf("%+v", h.records().following)
	}
	main, _ := h.all(breakGlass())
	if !slices.Contains(main.KeyNames(), "service-token") || len(main.Whole.With) != 2 || h.view(idle).State != rotation.Done {
		t.Errorf("%v, %+v, %s", main.KeyNames(), main.Whole, h.view(idle).State)
	}
	h.until(main.ID, rotation.Done)
	if !h.journalHas("rotation " + view.Follow.ID + ", which was to follow ") {
		t.Error("it is not journaled that the follower is not started")
	}
}

// Where every key that would rotate apart is left out since another uses its login, no rotation of nothing is started, and the others rotate.
func TestBreakGlassLeavesOutAWholeGroup(t *testing.T) {
	h, l := connected(t)
	h.kinds = kind.List{named{l}}
	h.open()
	h.ok(h.put("main", "LOCALHOST:1"))
	for _, name := range []string{"one", "two"} { // no workload uses two
		_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: name, Kind: "login", Options: kind.Options{"connection": "main"}, Policy: key.Policy{ConfirmBy: rotation.ConfirmByOther}}, ann)
		h.ok(err)
		h.ok(h.first(name, "app:1"))
	}
	h.workload(workload.Workload{Name: "api", Keys: map[string]workload.Role{"one": {Presents: true}}})
	_, _, err := h.engine.Rotate(t.Context(), breakGlass())
	h.refused(err, "no key can be rotated; nothing was changed; db: ")
	h.key("service-token", "token")
	h.workload(workload.Workload{Name: "agents", Keys: map[string]workload.Role{"service-token": {Presents: true}}})
	view, _ := h.all(breakGlass())
	if !slices.Equal(view.KeyNames(), []string{"service-token"}) || !strings.Contains(reasons(view.Whole)["one"], "is the login of key two, too") {
		t.Errorf("%v, %+v", view.KeyNames(), view.Whole)
	}
}
