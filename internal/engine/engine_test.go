// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/catalog"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/engine/fleet"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/key"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/rotation"
	"github.com/hyvve/vault-plugin-secrets-hyvve/internal/workload"
)

func TestRotationGoesThroughItsMoves(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	id := h.rotate("service-token")
	h.until(id, rotation.Done)
	if got := h.states("service-token"); got != "1 destroyed, 2 current" {
		t.Errorf("versions are %s", got)
	}
	for name, want := range map[string]string{
		"api/api-1":       "{0 [1]} {0 [2 1]} {0 [2]}",
		"agents/agents-1": "{1 []} {2 []}",
	} {
		var got []string
		for _, held := range h.readers[name].held {
			got = append(got, fmt.Sprint(held["service-token"]))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s held %s, want %s", name, strings.Join(got, " "), want)
		}
	}
}

// At no moment does anybody present what somebody who verifies does not accept.
func TestNobodyPresentsWhatIsNotAccepted(t *testing.T) {
	for _, revertAt := range []rotation.State{"", rotation.Accepting, rotation.Presenting, rotation.Soaking} {
		h := newHarness(t)
		h.hyvve()
		id := h.rotate("service-token")
		for range 60 {
			for _, p := range h.readers {
				presented := p.reading.Bundle.Holding.Keys["service-token"].Value
				for _, v := range h.readers {
					accepts := v.reading.Bundle.Holding.Keys["service-token"].Accepts
					if presented != 0 && accepts != nil && !slices.Contains(accepts, presented) {
						t.Fatalf("revert at %q: %s presents %d, %s accepts %v", revertAt, p.id, presented, v.id, accepts)
					}
				}
			}
			view := h.view(id)
			if view.Finished() {
				break
			}
			if view.State == revertAt {
				_, err := h.engine.Revert(t.Context(), id, testActor, "")
				h.ok(err)
				revertAt = ""
			}
			h.round()
			h.clock.advance(time.Second)
		}
		if !h.view(id).Finished() {
			t.Errorf("it never ends: %s", h.view(id).Waits())
		}
	}
}

func TestOneAtATimeAndAfter(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	id := h.rotate("service-token")
	h.readers["api/api-1"].healthy = false // it loads, and is unhealthy with it
	for range 5 {
		h.round()
	}
	if n := len(h.readers["api/api-2"].held); n != 1 {
		t.Errorf("api-2 was changed while api-1 is ill")
	}
	view := h.view(id)
	if view.State != rotation.Accepting || !strings.Contains(view.Waits(), "api-1: ill") {
		t.Errorf("%s waits for %q", view.State, view.Waits())
	}
	h.readers["api/api-1"].healthy = true
	h.report(h.readers["api/api-1"])
	h.until(id, rotation.Done)
}

func TestGatesNameWhatIsMissing(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.readers["agents/agents-2"].deaf = true
	id := h.rotate("service-token")
	h.until(id, rotation.Presenting)
	for range 5 {
		h.round()
		h.clock.advance(4 * time.Second)
	}
	view := h.view(id)
	for _, want := range []string{"agents: 1 of 2", "agents-2", "still holds version 1 of SERVICE_TOKEN", "last seen"} {
		if !strings.Contains(view.Waits(), want) {
			t.Errorf("%q does not say %q", view.Waits(), want)
		}
	}
	// Its lease ends: it is gone, and the rotation continues.
	r := h.readers["agents/agents-2"]
	h.ok(h.engine.Revoke(t.Context(), r.workload, r.id, r.reading.Epoch))
	delete(h.readers, "agents/agents-2")
	h.until(id, rotation.Done)
}

func TestNoSidecarsIsNotSuccess(t *testing.T) {
	h := newHarness(t)
	h.key("lonely", "token")
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"lonely": {Presents: true, Verifies: true}}})
	id := h.rotate("lonely")
	for range 10 {
		h.round()
		h.clock.advance(time.Hour)
	}
	if view := h.view(id); view.State != rotation.Accepting || !strings.Contains(view.Waits(), "0 of at least 1") {
		t.Errorf("%s: %s", view.State, view.Waits())
	}
	h.join("api", "api-1")
	h.until(id, rotation.Done)
}

func TestAnonymousLeaseIsEvidenceOfUse(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	reading, err := h.engine.Read(t.Context(), fleet.Reader{Workload: "agents"}, time.Hour)
	h.ok(err)
	id := h.rotate("service-token")
	for range 20 {
		h.round()
		h.clock.advance(10 * time.Second)
	}
	view := h.view(id)
	if view.State != rotation.Presenting || !strings.Contains(view.Waits(), reading.Instance) {
		t.Errorf("%s: %s", view.State, view.Waits())
	}
	if _, err := h.engine.Renew("agents", reading.Instance, reading.Epoch, time.Hour); err == nil {
		t.Error("the lease on an old bundle is renewed")
	}
	h.ok(h.engine.Revoke(t.Context(), "agents", reading.Instance, reading.Epoch))
	h.until(id, rotation.Done)
}

func TestOlderLeaseRemovesNothing(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	r := h.readers["api/api-1"]
	older := r.reading.Epoch
	h.read(r)
	h.ok(h.engine.Revoke(t.Context(), "api", "api-1", older))
	if n := len(h.engine.Instances("api")); n != 2 {
		t.Errorf("%d instances are left", n)
	}
	if _, err := h.engine.Renew("api", "api-1", older, time.Hour); err == nil {
		t.Error("the lease of an older read is renewed")
	}
}

func TestReportsNeedTheSecretOfTheNewestRead(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	r := h.readers["api/api-1"]
	old := r.reading.Secret
	h.read(r)
	for _, secret := range []key.Value{old, key.NewValue(""), key.NewValue("guess")} {
		if _, err := h.engine.Report(t.Context(), Report{Workload: "api", Instance: "api-1", Secret: secret, Healthy: true}); !refused(err) {
			t.Errorf("a report with another secret: %v", err)
		}
	}
}

func TestGroupChangesTogether(t *testing.T) {
	h := newHarness(t)
	h.key("one", "token")
	h.key("two", "token")
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"one": {Presents: true, Verifies: true}, "two": {Presents: true, Verifies: true}}})
	h.join("api", "api-1")
	id := h.rotate("one", "two")
	h.until(id, rotation.Done)
	for _, held := range h.readers["api/api-1"].held {
		if !held["one"].Equal(held["two"]) {
			t.Errorf("a mixed set was held: %v", held)
		}
	}
}

func TestRowsAreAGate(t *testing.T) {
	h := newHarness(t)
	h.key("master", "token", key.Column{Table: "t", Column: "c", Layout: key.TagFirst})
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Reencrypts: true, Keys: map[string]workload.Role{"master": {Presents: true, Verifies: true}}})
	r := h.join("api", "api-1")
	r.works = false
	id := h.rotate("master")
	for range 5 {
		h.round()
	}
	if view := h.view(id); view.Step != rotation.StepStageRows || !strings.Contains(view.Waits(), "stage its rows") {
		t.Fatalf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	var phases []workload.Phase
	for range 30 {
		for _, w := range r.reading.Bundle.Work {
			if len(phases) == 0 || phases[len(phases)-1] != w.Phase {
				phases = append(phases, w.Phase)
			}
		}
		if h.view(id).Finished() {
			break
		}
		r.works = true
		h.report(r)
		h.round()
		h.clock.advance(time.Minute)
	}
	want := []workload.Phase{workload.PhaseStage, workload.PhaseFlip, workload.PhaseSweep, workload.PhaseWipe, workload.PhaseCheck}
	if h.view(id).State != rotation.Done || !slices.Equal(phases, want) {
		t.Errorf("%s after phases %v, want %v", h.view(id).State, phases, want)
	}
}

func TestRowsLeftAndUnreadableRowsBlock(t *testing.T) {
	h := newHarness(t)
	h.key("master", "token", key.Column{Table: "t", Column: "c", Layout: key.TagFirst})
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Reencrypts: true, Keys: map[string]workload.Role{"master": {Presents: true, Verifies: true}}})
	r := h.join("api", "api-1")
	id := h.rotate("master")
	for _, c := range []struct {
		step   rotation.Step
		report workload.WorkReport
		want   string
	}{
		{rotation.StepStageRows, workload.WorkReport{Done: true, Columns: []workload.ColumnReport{{Column: "t.c", Bad: 2}}}, "2 rows open under no key"},
		{rotation.StepStageRows, workload.WorkReport{Error: "no route to the database"}, "no route to the database"},
		{rotation.StepFlipRows, workload.WorkReport{Done: true, Columns: []workload.ColumnReport{{Column: "t.c", Left: 7}}}, "7 rows left"},
	} {
		r.works = false
		for range 30 {
			if h.view(id).Step == c.step {
				break
			}
			r.works = h.view(id).Step == rotation.StepStageRows
			h.report(r)
			r.works = false
			h.round()
		}
		for range 3 {
			h.round()
		}
		c.report.ID = r.reading.Bundle.Work[0].ID
		_, err := h.engine.Report(t.Context(), Report{
			Workload: "api", Instance: "api-1", Secret: r.reading.Secret, Etag: r.reading.Bundle.Holding.Etag, Healthy: true,
			Work: []workload.WorkReport{c.report},
		})
		h.ok(err)
		h.engine.Tick(t.Context())
		if view := h.view(id); view.Step != c.step || !strings.Contains(view.Waits(), c.want) {
			t.Errorf("%s %s: %q does not say %q", view.State, view.Step, view.Waits(), c.want)
		}
	}
}

func TestServerIsAskedInOrder(t *testing.T) {
	h := newHarness(t)
	h.key("db", "server")
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"db": {Presents: true}}})
	h.join("api", "api-1")
	h.server.fail["stage"] = errors.New("connection refused")
	id := h.rotate("db")
	h.settle()
	h.round()
	if view := h.view(id); view.Step != rotation.StepStage || !strings.Contains(view.Waits(), "connection refused") {
		t.Errorf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	h.server.mu.Lock()
	h.server.fail["stage"], h.server.inUse = nil, 2
	h.server.mu.Unlock()
	h.until(id, rotation.Soaking)
	for range 10 {
		h.round()
		h.clock.advance(time.Minute)
	}
	if view := h.view(id); view.Step != rotation.StepUnused || !strings.Contains(view.Waits(), "in use: sessions") {
		t.Errorf("%s %s: %s", view.State, view.Step, view.Waits())
	}
	h.server.mu.Lock()
	h.server.inUse = 0
	h.server.mu.Unlock()
	h.clock.advance(time.Hour)
	h.until(id, rotation.Done)
	calls := slices.Compact(h.server.calls)
	if want := "stage verify stage verify in-use retire"; strings.Join(calls, " ") != want {
		t.Errorf("calls are %v, want %s", calls, want)
	}
	if len(h.server.valid) != 1 {
		t.Errorf("%d values are valid at the server, want the new one", len(h.server.valid))
	}
}

func TestRevertUnstagesAtTheServer(t *testing.T) {
	h := newHarness(t)
	h.key("db", "server")
	h.workload(workload.Workload{Name: "api", MinInstances: 1, Keys: map[string]workload.Role{"db": {Presents: true}}})
	h.join("api", "api-1")
	h.server.inUse = 1
	id := h.rotate("db")
	h.until(id, rotation.Soaking)
	_, err := h.engine.Revert(t.Context(), id, testActor, "it is broken")
	h.ok(err)
	for range 10 {
		h.round()
		h.clock.advance(time.Second)
	}
	if text := h.view(id).Waits(); strings.Contains(text, "failed") || !strings.Contains(text, "unstage waits for the end of what it would cut off") || !strings.Contains(text, "version 2 is in use: sessions") {
		t.Errorf("sessions are waited for, and it says %q", text)
	}
	h.server.inUse = 0
	h.until(id, rotation.Reverted)
	if got := h.states("db"); got != "1 current, 2 aborted" {
		t.Errorf("versions are %s", got)
	}
	if k, _ := h.engine.Key("db"); len(h.server.valid) != 1 || !h.server.valid[k.Versions[0].Value.Reveal()] {
		t.Error("not the old value alone is valid at the server")
	}
	h.until(h.rotate("db"), rotation.Done)
	if got := h.states("db"); got != "1 destroyed, 2 aborted, 3 current" {
		t.Errorf("versions are %s", got)
	}
}

func TestSoakStartsAgainAfterIllness(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.ok(h.engine.PutConfig(t.Context(), catalog.Config{LeaseTTL: time.Minute, TakeoverAfter: catalog.MinTakeover, Soak: time.Minute, OnFailure: rotation.FailurePause, CutAfter: time.Minute}, testActor))
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "service-token", Kind: "token", Policy: key.Policy{Soak: key.Inherit}}, testActor)
	h.ok(err)
	id := h.rotate("service-token")
	h.until(id, rotation.Soaking)
	h.clock.advance(50 * time.Second)
	r := h.readers["api/api-1"]
	r.healthy = false
	h.report(r)
	h.round()
	r.healthy = true
	h.report(r)
	h.round()
	h.clock.advance(50 * time.Second)
	h.round()
	if view := h.view(id); view.Step != rotation.StepSoak {
		t.Errorf("%s %s although the soak time began anew", view.State, view.Step)
	}
	h.clock.advance(11 * time.Second)
	h.until(id, rotation.Done)
}

func TestPeriodStartsARotation(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "service-token", Kind: "token", Policy: key.Policy{Period: time.Hour}}, testActor)
	h.ok(err)
	h.engine.Tick(t.Context())
	if reading, _ := h.engine.Read(t.Context(), fleet.Reader{Workload: "agents"}, time.Hour); reading.TTL > time.Hour {
		t.Errorf("a lease of %s outlives its version", reading.TTL)
	}
	h.clock.advance(56 * time.Minute) // the last twentieth is spread
	reading, err := h.engine.Read(t.Context(), fleet.Reader{Workload: "agents"}, time.Hour)
	h.ok(err)
	if reading.TTL > 4*time.Minute {
		t.Errorf("a lease of %s outlives its version", reading.TTL)
	}
	h.ok(h.engine.Revoke(t.Context(), "agents", reading.Instance, reading.Epoch))
	h.clock.advance(4 * time.Minute)
	h.engine.Tick(t.Context())
	ids, err := h.engine.RotationIDs(t.Context())
	h.ok(err)
	if len(ids) != 1 || h.view(ids[0]).Trigger != rotation.ByPeriod {
		t.Fatalf("rotations are %v", ids)
	}
	for _, i := range h.engine.Instances("agents") {
		if i.Anonymous {
			h.ok(h.engine.Revoke(t.Context(), "agents", i.ID, i.Epoch))
		}
	}
	h.until(ids[0], rotation.Done)
}

// A period whose rotation cannot start is tried again, ever more rarely, and status says why.
func TestPeriodThatCannotStart(t *testing.T) {
	h := newHarness(t)
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "unused", Kind: "token", Policy: key.Policy{Period: time.Hour}}, testActor)
	h.ok(err)
	_, _, err = h.engine.First(t.Context(), "unused", key.Value{}, testActor)
	h.ok(err)
	h.clock.advance(2 * time.Hour)
	for range 10 {
		h.engine.Tick(t.Context())
	}
	if n := h.records().starts["unused"].Attempts; n != 1 {
		t.Errorf("%d attempts in one moment", n)
	}
	if s := h.engine.Status(); !strings.Contains(s[0].Waits, "no workload uses key unused") {
		t.Errorf("status says %q", s[0].Waits)
	}
}

func refused(err error) bool {
	var r *rotation.Refused
	return errors.As(err, &r)
}

func TestRefusals(t *testing.T) {
	h := newHarness(t)
	h.hyvve()
	h.key("unused", "token")
	h.key("protecting", "token", key.Column{Table: "t", Column: "c", Layout: key.TagFirst})
	h.workload(workload.Workload{Name: "web", Keys: map[string]workload.Role{"protecting": {Presents: true, Verifies: true}}})
	_, err := h.engine.PutKey(t.Context(), catalog.Definition{Name: "empty", Kind: "token"}, testActor)
	h.ok(err)
	running := h.rotate("service-token")
	ctx := t.Context()
	rotate := func(keys ...string) error {
		_, _, err := h.engine.Rotate(ctx, Request{Keys: keys, Trigger: rotation.ByOperator})
		return err
	}
	define := func(d catalog.Definition) error { _, err := h.engine.PutKey(ctx, d, testActor); return err }
	before := h.store.writes
	for want, err := range map[string]error{
		`key "nothing" is not known`:            rotate("nothing"),
		"no key is named":                       rotate(),
		"is being rotated by " + running:        rotate("service-token"),
		"no workload uses key unused":           rotate("unused"),
		"reencrypts=true":                       rotate("protecting"),
		"has no version yet":                    rotate("empty"),
		"contains a slash":                      define(catalog.Definition{Name: "a/b", Kind: "token"}),
		`kind "tokn" is not known`:              define(catalog.Definition{Name: "x", Kind: "tokn"}),
		"env SERVICE_TOKEN is that of key":      define(catalog.Definition{Name: "x", Kind: "token", Env: "SERVICE_TOKEN"}),
		"rotation_period 1s is too short":       define(catalog.Definition{Name: "x", Kind: "token", Policy: key.Policy{Period: time.Second}}),
		"env cannot be changed":                 define(catalog.Definition{Name: "unused", Kind: "token", Env: "OTHER"}),
		`layout "upside" of t.c is not known`:   define(catalog.Definition{Name: "x", Kind: "token", Protects: []key.Column{{Table: "t", Column: "c", Layout: "upside"}}}),
		"is used by workload web":               h.engine.DeleteKey(ctx, "protecting", testActor),
		"wait until it has ended, or revert it": h.engine.DeleteKey(ctx, "service-token", testActor),
		"takes part in rotation":                h.engine.DeleteWorkload(ctx, "api", false, testActor),
		"in a circle: api after agents after":   h.engine.PutWorkload(ctx, workload.Workload{Name: "api", MinInstances: 2, MaxUnavailable: "1", After: []string{"agents"}, Keys: map[string]workload.Role{"service-token": {Verifies: true}}}, false, testActor),
		`max_unavailable "0"`:                   h.engine.PutWorkload(ctx, workload.Workload{Name: "x", MaxUnavailable: "0", Keys: map[string]workload.Role{"unused": {Verifies: true}}}, false, testActor),
	} {
		if !refused(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a refusal that says %q", err, want)
		}
	}
	if h.store.writes != before {
		t.Errorf("%d writes were made by what was refused", h.store.writes-before)
	}
	h.until(running, rotation.Done)
	if _, err := h.engine.Revert(ctx, running, testActor, ""); !refused(err) {
		t.Errorf("revert of what is done: %v", err)
	}
}
